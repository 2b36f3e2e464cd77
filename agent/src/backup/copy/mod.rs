//! The copy: a feeder announces files and hands out their regions of 16 MiB, workers check and store them.

mod archives;
mod entry;
mod files;
mod manifest;
mod merge;
mod region;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::Result;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use parking_lot::Mutex;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::ingest::{FileHead, FileOrder, Ingest, IngestOptions, IngestWorker, Ingested};
use walkeep_chunkstore::node::{Body, FileContent, NodeRef, NodeStore};
use walkeep_chunkstore::repository::Repository;

use super::page_check::{PageChecker, Suspects};
use super::{LOOK, LeaseKeeper, OnProgress};
use crate::rates::Rates;

pub use archives::ArchiveFeeder;
pub use files::FileFeeder;
use merge::MergeTask;
use region::Task;

/// Bytes handled at a time: small enough to stay in a core's cache until they are stored.
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
    pub keeper: &'a LeaseKeeper<'k>,
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

/// What all workers share.
struct Shared<'a> {
    options: CopyOptions,
    nodes: &'a NodeStore,
    index: Arc<ChunkIndex>,
    read_bytes: AtomicU64,
    rates: Rates,
    suspects: Mutex<Suspects>,
    /// Set by the first worker that fails: the others need not go on for hours.
    failed: AtomicBool,
}

/// Where a copy's files come from.
pub trait Feeder {
    /// In which order files are announced.
    const ORDER: FileOrder;

    /// Bytes that are expected, for progress.
    fn total(&self) -> u64;

    /// Announces every file and hands out its regions.
    fn feed(&mut self, lane: &mut Lane<'_, '_, '_>) -> Result<()>;

    /// Stores what must be read when everything else has been.
    fn feed_last(&mut self, worker: IngestWorker) -> Result<()>;
}

/// What a worker is given.
enum Work {
    /// A region to be copied.
    Copy(Task),
    /// A region to be completed.
    Merge(MergeTask),
}

/// The way from a feeder to the workers.
pub struct Lane<'a, 'w, 'k> {
    ingest: &'a Ingest,
    tasks: Sender<Work>,
    watch: &'a mut Watch<'w, 'k>,
    shared: &'a Shared<'a>,
    total: u64,
    next: u64,
}

impl Lane<'_, '_, '_> {
    /// Announces a file; gives its number.
    fn file(&mut self, head: FileHead, regions: u32) -> Result<u64> {
        let number = self.number();
        self.ingest.file(number, head, regions)?;
        Ok(number)
    }

    /// Announces a file that is stored by [`Feeder::feed_last`].
    fn last_file(&mut self, head: FileHead, regions: u32) -> Result<u64> {
        let number = self.number();
        self.ingest.deferred_file(number, head, regions)?;
        Ok(number)
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Whether it is worth going on: the lease is ours, the session is there, the workers work.
    fn check(&mut self) -> Result<()> {
        self.watch.keeper.check()?;
        anyhow::ensure!(!self.shared.failed.load(Ordering::Relaxed), "the copy threads have stopped");
        Ok(())
    }

    /// Hands out a region. Waits while all workers have enough.
    fn region(&mut self, task: Task) -> Result<()> {
        self.hand_out(Work::Copy(task))
    }

    /// The same for one of which only the changed pages came.
    fn merge(&mut self, task: MergeTask) -> Result<()> {
        self.hand_out(Work::Merge(task))
    }

    fn hand_out(&mut self, work: Work) -> Result<()> {
        self.check()?;
        anyhow::ensure!(self.tasks.send(work).is_ok(), "the copy threads have stopped");
        (self.watch.on_progress)(self.shared.read_bytes.load(Ordering::Relaxed), self.total);
        Ok(())
    }
}

/// The parent's map of a region of the same file, if it was stored the same way.
fn region_of(content: &FileContent, body: Body, region: u32) -> Option<NodeRef> {
    match content {
        FileContent::File { body: earlier, regions, .. } if *earlier == body => regions.get(region as usize).copied(),
        _ => None,
    }
}

/// Copies a second time if nodes of an earlier backup turned out to be damaged in the midst of the first: what was found in
/// their packs before may be damaged, too.
pub fn with_trust<T>(index: &ChunkIndex, mut copy: impl FnMut() -> Result<T>) -> Result<T> {
    let before = index.distrusted();
    let copied = copy()?;
    if index.distrusted() == before {
        return Ok(copied);
    }
    tracing::warn!("the earlier backup is damaged: everything is copied once more, without what it has");
    copy()
}

/// Copies everything that the feeder gives.
pub fn run<F: Feeder>(
    feeder: &mut F,
    options: CopyOptions,
    target: Target<'_>,
    watch: &mut Watch<'_, '_>,
) -> Result<Copied> {
    let ingest_options = IngestOptions {
        page_size: options.page_size,
        compression_level: options.compression_level,
        workers: options.jobs,
        order: F::ORDER,
    };
    let ingest = Ingest::start(Arc::clone(target.repository), Arc::clone(&target.index), ingest_options)?;
    let shared = Shared {
        options,
        nodes: target.nodes,
        index: Arc::clone(&target.index),
        read_bytes: AtomicU64::new(0),
        rates: watch.rates.clone(),
        suspects: Mutex::default(),
        failed: AtomicBool::new(false),
    };
    let total = feeder.total();
    let copied = std::thread::scope(|scope| {
        let (tasks, receiver) = bounded::<Work>(options.jobs * 4);
        let mut workers = Vec::new();
        let (working, done) = bounded::<()>(0);
        for _ in 0..options.jobs {
            let (worker, receiver, shared, working) = (ingest.worker()?, receiver.clone(), &shared, working.clone());
            workers.push(scope.spawn(move || {
                let _working = working;
                work(worker, &receiver, shared)
            }));
        }
        drop((receiver, working));
        let mut lane = Lane { ingest: &ingest, tasks, watch, shared: &shared, total, next: 0 };
        let fed = feeder.feed(&mut lane);
        let keeper = lane.watch.keeper;
        drop(lane);
        // What they still have may take its time.
        let fed = fed.and_then(|()| wait_for_workers(&done, keeper, &shared));
        let results: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a copy thread died"))))
            .collect();
        // A worker knows better than the feeder why there was nobody to take a task.
        results.into_iter().find_map(Result::err).map_or(fed, Err)?;
        feeder.feed_last(ingest.worker()?)
    });
    if let Err(error) = copied {
        return Err(first_cause(error, ingest));
    }
    let ingested = ingest.finish()?;
    Ok(Copied { ingested, read_bytes: shared.read_bytes.into_inner(), suspects: shared.suspects.into_inner() })
}

fn wait_for_workers(done: &Receiver<()>, keeper: &LeaseKeeper<'_>, shared: &Shared<'_>) -> Result<()> {
    while done.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        keeper.check().inspect_err(|_| shared.failed.store(true, Ordering::SeqCst))?;
    }
    Ok(())
}

/// Gives up, and prefers the pack writer's own error to one that only says that it stopped.
fn first_cause(error: anyhow::Error, ingest: Ingest) -> anyhow::Error {
    let only_stopped = matches!(error.downcast_ref(), Some(walkeep_chunkstore::Error::Stopped));
    match ingest.abort() {
        Some(cause) if only_stopped => cause.into(),
        _ => error,
    }
}

fn work(worker: IngestWorker, tasks: &Receiver<Work>, shared: &Shared<'_>) -> Result<()> {
    let outcome = do_tasks(worker, tasks, shared);
    if outcome.is_err() {
        shared.failed.store(true, Ordering::SeqCst);
        // Nobody else may be left to take what the feeder is about to send.
        while tasks.try_recv().is_ok() {}
    }
    outcome
}

fn do_tasks(mut worker: IngestWorker, tasks: &Receiver<Work>, shared: &Shared<'_>) -> Result<()> {
    let mut checker = PageChecker::new(shared.options.page_size as usize);
    let mut buffer = vec![0; BLOCK];
    for work in tasks {
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        match work {
            Work::Copy(task) => task.copy(&mut worker, &mut checker, &mut buffer, shared)?,
            Work::Merge(task) => task.merge(&mut worker, &mut checker, shared)?,
        }
    }
    shared.suspects.lock().merge(checker.finish());
    Ok(worker.finish()?)
}
