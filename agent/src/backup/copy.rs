//! The copy: one dispatcher opens files in order of path, workers read, check and store regions of 16 MiB.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::ingest::{FileHead, FileKind, Ingest, IngestOptions, IngestWorker, Ingested, PageRegion};
use walkeep_chunkstore::node::{Body, FileContent, NodeRef, NodeStore, REGION};
use walkeep_chunkstore::repository::{BackupManifest, Repository};

use super::local_source::{LocalSource, read_control_bytes};
use super::page_check::{CheckedFile, PageChecker, Suspects};
use super::parent::ParentFiles;
use super::scan::{self, CONTROL_FILE, Planned, PlannedKind};
use super::{LeaseKeeper, OnProgress};
use crate::rates::Rates;

/// Bytes read at a time: small enough to stay in a core's cache until they are stored.
const BLOCK: usize = 256 << 10;

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Bytes per page.
    pub page_size: u32,
    /// Pages per relation segment file.
    pub blocks_per_segment: u32,
    /// Whether pages carry checksums.
    pub page_checksums: bool,
    /// zstd level.
    pub compression_level: i32,
    /// Worker threads.
    pub jobs: usize,
}

/// Where the copy goes.
pub struct Target<'a> {
    /// The repository.
    pub repository: &'a Arc<Repository>,
    /// What it holds.
    pub index: Arc<ChunkIndex>,
    /// The parent's maps.
    pub nodes: &'a Arc<NodeStore>,
}

/// Who watches the copy.
pub struct Watch<'a, 'k> {
    /// Stops it when lease or session are lost.
    pub keeper: &'a mut LeaseKeeper<'k>,
    /// Is told how it advances.
    pub on_progress: OnProgress<'a>,
    /// How fast the data directory may be read.
    pub rates: &'a Rates,
}

/// What a copy gives.
#[derive(Debug)]
pub struct Copied {
    /// The stored files.
    pub ingested: Ingested,
    /// Bytes read from the data directory.
    pub read_bytes: u64,
    /// Pages that stayed wrong.
    pub suspects: Suspects,
}

/// A region for a worker.
struct Task {
    file: Arc<OpenFile>,
    number: u64,
    region: u32,
    parent: Option<NodeRef>,
}

struct OpenFile {
    file: File,
    path: Box<[u8]>,
    kind: PlannedKind,
    length: u64,
}

impl OpenFile {
    fn display_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// What all workers share.
struct Shared<'a> {
    options: CopyOptions,
    nodes: &'a NodeStore,
    read_bytes: AtomicU64,
    rates: Rates,
    suspects: Mutex<Suspects>,
    /// Set by the first worker that fails: the others need not go on for hours.
    failed: AtomicBool,
}

/// Copies everything that is planned, the control file last.
pub fn run(
    source: &LocalSource,
    options: CopyOptions,
    target: Target<'_>,
    parent: Option<&BackupManifest>,
    watch: &mut Watch<'_, '_>,
) -> Result<Copied> {
    let planned = scan::plan(source)?;
    let total: u64 = planned.iter().map(|planned| planned.size).sum();
    let ingest_options = IngestOptions {
        page_size: options.page_size,
        compression_level: options.compression_level,
        workers: options.jobs,
    };
    let ingest = Ingest::start(Arc::clone(target.repository), target.index, ingest_options)?;
    let shared = Shared {
        options,
        nodes: target.nodes,
        read_bytes: AtomicU64::new(0),
        rates: watch.rates.clone(),
        suspects: Mutex::default(),
        failed: AtomicBool::new(false),
    };
    let mut parents = ParentFiles::new(Arc::clone(target.nodes), parent);
    let copied = std::thread::scope(|scope| {
        let (sender, receiver) = bounded::<Task>(options.jobs * 4);
        let mut workers = Vec::new();
        for _ in 0..options.jobs {
            let (worker, receiver, shared) = (ingest.worker()?, receiver.clone(), &shared);
            workers.push(scope.spawn(move || work(worker, &receiver, shared)));
        }
        drop(receiver);
        let control = dispatch(source, &planned, &mut parents, &ingest, sender, watch, &shared, total);
        let results: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a copy thread died"))))
            .collect();
        // A worker knows better than the dispatcher why there was nobody to take a task.
        let failed = results.into_iter().find_map(Result::err);
        let control = failed.map_or(control, Err)?;
        store_control_file(source, control, ingest.worker()?)
    });
    if let Err(error) = copied {
        return Err(first_cause(error, ingest));
    }
    let ingested = ingest.finish()?;
    Ok(Copied { ingested, read_bytes: shared.read_bytes.into_inner(), suspects: shared.suspects.into_inner() })
}

/// Gives up, and prefers the pack writer's own error to one that only says that it stopped.
fn first_cause(error: anyhow::Error, ingest: Ingest) -> anyhow::Error {
    let only_stopped = matches!(error.downcast_ref(), Some(walkeep_chunkstore::Error::Stopped));
    match ingest.abort() {
        Some(cause) if only_stopped => cause.into(),
        _ => error,
    }
}

/// Opens files in order, announces them, and hands out their regions. Gives the control file's number.
#[expect(clippy::too_many_arguments, reason = "the one place where the whole pipeline meets")]
fn dispatch(
    source: &LocalSource,
    planned: &[Planned],
    parents: &mut ParentFiles,
    ingest: &Ingest,
    tasks: Sender<Task>,
    watch: &mut Watch<'_, '_>,
    shared: &Shared<'_>,
    total: u64,
) -> Result<u64> {
    let mut control = None;
    let mut number = 0;
    for entry in planned {
        let head = |kind| FileHead { path: entry.path.to_vec(), mode: entry.mode, modified: entry.modified, kind };
        let body = match &entry.kind {
            PlannedKind::Directory => {
                ingest.file(number, head(FileKind::Directory), 0)?;
                number += 1;
                continue;
            }
            PlannedKind::Symlink(target) => {
                ingest.file(number, head(FileKind::Symlink { target: target.clone() }), 0)?;
                number += 1;
                continue;
            }
            PlannedKind::Relation(_) | PlannedKind::Pages => Body::Pages,
            PlannedKind::Bytes => Body::Bytes,
        };
        if &*entry.path == CONTROL_FILE {
            ingest.deferred_file(number, head(FileKind::File { body }), 1)?;
            control = Some(number);
            number += 1;
            continue;
        }
        let Some((file, metadata)) = scan::open(&source.pgdata, entry)? else { continue };
        let length = metadata.len();
        let regions = u32::try_from(length.div_ceil(REGION)).context("a file of over 64 PiB")?;
        let modified = metadata.mtime();
        ingest.file(number, FileHead { modified, ..head(FileKind::File { body }) }, regions)?;
        let earlier = parents.find(&entry.path).map(|entry| entry.content);
        let file = Arc::new(OpenFile { file, path: entry.path.clone(), kind: entry.kind.clone(), length });
        for region in 0..regions {
            let parent = earlier.as_ref().and_then(|content| region_of(content, body, region));
            let task = Task { file: Arc::clone(&file), number, region, parent };
            watch.keeper.check()?;
            if shared.failed.load(Ordering::Relaxed) || tasks.send(task).is_err() {
                anyhow::bail!("the copy threads have stopped");
            }
            (watch.on_progress)(shared.read_bytes.load(Ordering::Relaxed), total);
        }
        number += 1;
    }
    let missing = || format!("'{}' has no {}", source.pgdata.display(), String::from_utf8_lossy(CONTROL_FILE));
    control.with_context(missing)
}

/// The parent's map of a region of the same file, if it was stored the same way.
fn region_of(content: &FileContent, body: Body, region: u32) -> Option<NodeRef> {
    match content {
        FileContent::File { body: earlier, regions, .. } if *earlier == body => regions.get(region as usize).copied(),
        _ => None,
    }
}

/// Reads the control file after everything else, whole and with a checksum that fits.
fn store_control_file(source: &LocalSource, number: u64, mut worker: IngestWorker) -> Result<()> {
    let bytes = read_control_bytes(&source.pgdata)?;
    let mut region = worker.byte_region();
    region.push(&mut worker, &bytes)?;
    region.finish(&mut worker, (number, 0), crc32c::crc32c(&bytes))?;
    Ok(worker.finish()?)
}

fn work(worker: IngestWorker, tasks: &Receiver<Task>, shared: &Shared<'_>) -> Result<()> {
    let outcome = do_tasks(worker, tasks, shared);
    if outcome.is_err() {
        shared.failed.store(true, Ordering::SeqCst);
        // Nobody else may be left to take what the dispatcher is about to send.
        while tasks.try_recv().is_ok() {}
    }
    outcome
}

fn do_tasks(mut worker: IngestWorker, tasks: &Receiver<Task>, shared: &Shared<'_>) -> Result<()> {
    let mut checker = PageChecker::new(shared.options.page_size as usize);
    let mut buffer = vec![0; BLOCK];
    for task in tasks {
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        let path = || format!("unable to copy '{}'", task.file.display_path());
        match task.file.kind {
            PlannedKind::Bytes => copy_bytes(&task, &mut worker, &mut buffer, shared).with_context(path)?,
            _ => copy_pages(&task, &mut worker, &mut checker, &mut buffer, shared).with_context(path)?,
        }
    }
    shared.suspects.lock().merge(checker.finish());
    Ok(worker.finish()?)
}

impl Task {
    fn start(&self) -> u64 {
        u64::from(self.region) * REGION
    }

    /// Bytes of the region, by the length that the file had when it was opened.
    fn length(&self) -> u64 {
        (self.file.length - self.start()).min(REGION)
    }

    /// The region block by block. What the file has lost since it was opened reads as zeros: replay cuts it off again.
    fn blocks(
        &self,
        buffer: &mut [u8],
        shared: &Shared<'_>,
        mut visit: impl FnMut(u64, &mut [u8], usize) -> Result<()>,
    ) -> Result<()> {
        let page_size = shared.options.page_size as usize;
        let mut done = 0;
        while done < self.length() {
            let wanted = usize::try_from(self.length() - done).unwrap_or(usize::MAX).min(buffer.len());
            let padded = wanted.next_multiple_of(page_size).min(buffer.len());
            let read = read_at_most(&self.file.file, &mut buffer[..wanted], self.start() + done)?;
            buffer[read..padded].fill(0);
            shared.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
            shared.rates.read(read);
            visit(self.start() + done, &mut buffer[..padded], wanted)?;
            done += wanted as u64;
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("unable to read"),
        }
    }
    Ok(read)
}

fn copy_bytes(task: &Task, worker: &mut IngestWorker, buffer: &mut [u8], shared: &Shared<'_>) -> Result<()> {
    let mut region = worker.byte_region();
    let mut crc = 0;
    task.blocks(buffer, shared, |_, block, length| {
        crc = crc32c::crc32c_append(crc, &block[..length]);
        Ok(region.push(worker, &block[..length])?)
    })?;
    Ok(region.finish(worker, (task.number, task.region), crc)?)
}

fn copy_pages(
    task: &Task,
    worker: &mut IngestWorker,
    checker: &mut PageChecker,
    buffer: &mut [u8],
    shared: &Shared<'_>,
) -> Result<()> {
    let page_size = shared.options.page_size as usize;
    let checked = checked_file(task, shared);
    let parent = task.parent.and_then(|node| match shared.nodes.page_map(&node) {
        Ok(map) => Some(map),
        Err(error) => {
            tracing::warn!("the parent's map of '{}' is passed over: {error}", task.file.display_path());
            None
        }
    });
    let mut region = PageRegion::start(worker, parent);
    let mut crc = 0;
    task.blocks(buffer, shared, |offset, block, length| {
        if let Some(checked) = &checked {
            // A page that the file ends in has no checksum to fit.
            let whole = length - length % page_size;
            let first = u32::try_from(offset / page_size as u64).context("a file of too many pages")?;
            checker.check(checked, first, &mut block[..whole]).context("unable to read again")?;
        }
        crc = crc32c::crc32c_append(crc, &block[..length]);
        Ok(region.push(worker, block)?)
    })?;
    let again = region.pages_to_rewrite(worker)?;
    if !again.is_empty() {
        crc = rewrite(task, worker, &mut region, &again, buffer, shared)?;
    }
    Ok(region.finish(worker, (task.number, task.region), task.length(), crc)?)
}

/// Reads the region once more and stores the pages that are wanted anew. All of it is read, so that content, fingerprints
/// and checksum stay those of one reading.
fn rewrite(
    task: &Task,
    worker: &mut IngestWorker,
    region: &mut PageRegion,
    again: &[u32],
    buffer: &mut [u8],
    shared: &Shared<'_>,
) -> Result<u32> {
    let page_size = shared.options.page_size as usize;
    let again: std::collections::HashSet<u32> = again.iter().copied().collect();
    let mut crc = 0;
    task.blocks(buffer, shared, |offset, block, length| {
        crc = crc32c::crc32c_append(crc, &block[..length]);
        let first = (offset - task.start()) / page_size as u64;
        for (index, page) in (first..).zip(block.chunks_exact(page_size)) {
            let index = u32::try_from(index).context("a region of too many pages")?;
            if again.contains(&index) || !region.has(worker, index, page) {
                region.rewrite(worker, index, page)?;
            }
        }
        Ok(())
    })?;
    Ok(crc)
}

/// The task's file as a checker wants it; `None` for files without page checksums.
fn checked_file<'a>(task: &'a Task, shared: &Shared<'_>) -> Option<CheckedFile<'a>> {
    let PlannedKind::Relation(relation) = &task.file.kind else { return None };
    let first_block = relation.first_block(shared.options.blocks_per_segment)?;
    shared.options.page_checksums.then_some(CheckedFile { file: &task.file.file, path: &task.file.path, first_block })
}
