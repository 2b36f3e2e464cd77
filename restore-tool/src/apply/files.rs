//! Restoring files in parallel: one thread plans, workers fetch, verify and write, others make complete files durable.
//!
//! ```text
//! file lists → maps → batches of pieces → jobs, pack by pack ─→ workers: read → decompress → check id → pwrite ─→ fsync
//! ```
//!
//! Memory is bounded by the batch, the queue of jobs and one job per worker, whatever the size of the cluster.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::Progress;
use walkeep_chunkstore::extract::{JobReader, ReadJob, ReadPlan};
use walkeep_chunkstore::node::{Body, FileContent, FileEntry, NodeRef, NodeStore, REGION};
use walkeep_chunkstore::repository::{BackupManifest, Repository};

use super::handles::{Complete, Handles};
use super::manifest::Manifest;
use super::{Place, at};

/// A batch ends at this many pieces …
const BATCH_PIECES: usize = 64 << 10;
/// … or bytes: two of PostgreSQL's largest files, so that threads need not wait for each other's writes to the same one.
const BATCH_BYTES: u64 = 2 << 30;
/// Threads that wait for the disk.
const SYNCERS: usize = 8;
/// Longest file that is kept in memory: `postgresql.auto.conf` is far shorter.
const MAXIMUM_KEPT: u64 = 16 << 20;

/// Files that this restore writes itself; a backup has them elsewhere or not at all.
const OURS: [&[u8]; 7] = [
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"recovery.signal",
    b"standby.signal",
    b"postmaster.pid",
    b"postmaster.opts",
];

/// A file that is not written as it was stored.
pub(super) struct Kept {
    pub(super) content: Vec<u8>,
    pub(super) modified: i64,
}

/// What was restored.
#[derive(Default)]
pub(super) struct Written {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) fetched_bytes: u64,
    pub(super) control: Option<Kept>,
    pub(super) settings: Option<Kept>,
}

/// What the threads share.
struct Shared<'a> {
    repository: &'a Repository,
    handles: Handles,
    progress: &'a Progress,
    fetched: AtomicU64,
    failed: AtomicBool,
}

/// Writes all files of a backup but those that must be changed. Their content is durable on return.
pub(super) fn restore(
    repository: &Arc<Repository>,
    backup: &BackupManifest,
    place: &Place,
    jobs: usize,
    progress: &Progress,
    manifest: &mut Manifest,
) -> Result<Written> {
    let (job_sender, job_receiver) = bounded::<ReadJob>(jobs * 4);
    let (complete_sender, complete_receiver) = unbounded::<Complete>();
    let handles = Handles::new(complete_sender);
    let shared = Shared { repository, handles, progress, fetched: AtomicU64::new(0), failed: AtomicBool::new(false) };
    let nodes = NodeStore::new(Arc::clone(repository));
    let (planned, failures) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(|| work(&shared, &job_receiver))).collect();
        let syncers: Vec<_> = (0..SYNCERS).map(|_| scope.spawn(|| sync(&shared.failed, &complete_receiver))).collect();
        let mut planner = Planner {
            shared: &shared,
            nodes: &nodes,
            place,
            jobs: &job_sender,
            manifest,
            written: Written::default(),
            batch: Batch::default(),
            lanes: jobs.max(1),
        };
        let planned = planner.run(backup).map(|()| planner.written);
        if planned.is_err() {
            shared.failed.store(true, Ordering::SeqCst);
        }
        drop(job_sender);
        let mut failures: Vec<anyhow::Error> =
            workers.into_iter().filter_map(|worker| failure(worker.join())).collect();
        shared.handles.close();
        failures.extend(syncers.into_iter().filter_map(|syncer| failure(syncer.join())));
        (planned, failures)
    });
    // A planner that stopped because a worker failed has nothing to say.
    if let Some(failure) = failures.into_iter().next() {
        return Err(failure);
    }
    let mut written = planned?;
    written.fetched_bytes = shared.fetched.load(Ordering::SeqCst);
    Ok(written)
}

fn failure(outcome: std::thread::Result<Result<(), Error>>) -> Option<anyhow::Error> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(as_damage(error).into()),
        Err(_) => Some(anyhow!("a thread of the restore died")),
    }
}

/// What a manifest refers to and is not there is damage, not a wrong name given by the user.
fn as_damage(error: Error) -> Error {
    match error {
        Error::NotFound { object } => {
            Error::damaged(object.trim_matches('\''), "it is gone, and nothing else holds what was in it")
        }
        other => other,
    }
}

/// Does jobs until there are no more. After a failure it still takes them, so that the planner never waits for nobody.
fn work(shared: &Shared<'_>, jobs: &Receiver<ReadJob>) -> Result<(), Error> {
    let mut outcome = Ok(());
    let mut reader = JobReader::new().inspect_err(|_| shared.failed.store(true, Ordering::SeqCst));
    for job in jobs {
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(reader) = &mut reader
            && let Err(error) = do_job(shared, reader, &job)
        {
            shared.failed.store(true, Ordering::SeqCst);
            outcome = Err(error);
        }
    }
    reader.and(outcome)
}

fn do_job(shared: &Shared<'_>, reader: &mut JobReader, job: &ReadJob) -> Result<(), Error> {
    let fetched = reader.run(shared.repository, job, &mut |piece, bytes| {
        shared.handles.write(piece.file, piece.file_offset, bytes)?;
        shared.progress.add(bytes.len() as u64);
        Ok(())
    })?;
    shared.fetched.fetch_add(fetched, Ordering::Relaxed);
    Ok(())
}

fn sync(failed: &AtomicBool, complete: &Receiver<Complete>) -> Result<(), Error> {
    for file in complete {
        if failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        file.sync().inspect_err(|_| failed.store(true, Ordering::SeqCst))?;
    }
    Ok(())
}

/// Cuts a sequence into parts of equal length and takes from each in turn.
fn in_lanes<T>(items: Vec<T>, lanes: usize) -> impl Iterator<Item = T> {
    let length = items.len().div_ceil(lanes).max(1);
    let mut lanes: Vec<_> = Vec::with_capacity(lanes);
    let mut items = items.into_iter();
    while items.len() > 0 {
        lanes.push(items.by_ref().take(length).collect::<Vec<_>>().into_iter());
    }
    (0..length).flat_map(move |_| lanes.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>())
}

#[derive(Default)]
struct Batch {
    plan: ReadPlan,
    bytes: u64,
}

/// Walks the file lists.
struct Planner<'a> {
    shared: &'a Shared<'a>,
    nodes: &'a NodeStore,
    place: &'a Place,
    jobs: &'a Sender<ReadJob>,
    manifest: &'a mut Manifest,
    written: Written,
    batch: Batch,
    /// Threads that do jobs.
    lanes: usize,
}

impl Planner<'_> {
    fn run(&mut self, backup: &BackupManifest) -> Result<()> {
        let mut number = 0;
        for list in &backup.file_lists {
            for entry in self.nodes.file_list(list).map_err(as_damage)?.entries {
                self.entry(&entry, number)?;
                number = u32::checked_add(number, 1).context("the backup has too many files")?;
            }
        }
        self.flush()
    }

    fn entry(&mut self, entry: &FileEntry, number: u32) -> Result<()> {
        let Some(path) = self.place.path_of(&entry.path) else { return Ok(()) };
        if OURS.contains(&entry.path.as_slice()) {
            return Ok(());
        }
        match &entry.content {
            FileContent::Directory => self.place.create_directory(&path, entry.mode & 0o777),
            // PostgreSQL's own directories are made as directories; a link would lead back to the old cluster.
            FileContent::Symlink { .. } if entry.path.starts_with(b"pg_") => Ok(()),
            FileContent::Symlink { target } => self.place.create_link(&path, target),
            FileContent::File { length, crc32c, body, regions } => {
                let file = StoredFile { entry, length: *length, body: *body, regions };
                match entry.path.as_slice() {
                    b"global/pg_control" => self.written.control = Some(self.keep(&file)?),
                    b"postgresql.auto.conf" => self.written.settings = Some(self.keep(&file)?),
                    _ => {
                        self.manifest.stored(&entry.path, *length, entry.modified, *crc32c)?;
                        self.file(&file, &path, number)?;
                    }
                }
                self.written.files += 1;
                self.written.bytes += length;
                Ok(())
            }
        }
    }

    fn file(&mut self, file: &StoredFile<'_>, path: &Path, number: u32) -> Result<()> {
        let handle = self.place.create_file(path, file.entry.mode & 0o777)?;
        handle.set_len(file.length).with_context(|| at(path, "extend"))?;
        self.shared.handles.add(number, path.to_owned(), handle);
        for (index, region) in file.regions.iter().enumerate() {
            let before = self.batch.plan.len();
            self.batch.bytes += file.add(&mut self.batch.plan, self.nodes, number, index as u64, region)?;
            self.shared.handles.expect(number, self.batch.plan.len() - before);
            if self.batch.plan.len() >= BATCH_PIECES || self.batch.bytes >= BATCH_BYTES {
                self.flush()?;
            }
        }
        self.shared.handles.planned(number);
        Ok(())
    }

    /// Hands the batch to the workers, each in a part of its own.
    fn flush(&mut self) -> Result<()> {
        let jobs = std::mem::take(&mut self.batch).plan.into_jobs();
        for job in in_lanes(jobs, self.lanes) {
            if self.shared.failed.load(Ordering::Relaxed) || self.jobs.send(job).is_err() {
                return Err(anyhow!("the restore was stopped"));
            }
        }
        Ok(())
    }

    /// Reads a short file into memory.
    fn keep(&self, file: &StoredFile<'_>) -> Result<Kept> {
        let object = || format!("'{}' in the backup", file.entry.display_path());
        if file.length > MAXIMUM_KEPT {
            return Err(Error::damaged(object(), format_args!("it has {} bytes", file.length)).into());
        }
        let mut content = vec![0; file.length as usize];
        let mut plan = ReadPlan::default();
        for (index, region) in file.regions.iter().enumerate() {
            file.add(&mut plan, self.nodes, 0, index as u64, region)?;
        }
        let mut reader = JobReader::new()?;
        for job in plan.into_jobs() {
            let read = reader.run(self.shared.repository, &job, &mut |piece, bytes| {
                let start = usize::try_from(piece.file_offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(bytes.len());
                let place =
                    content.get_mut(start..end).ok_or_else(|| Error::damaged(object(), "bytes behind its end"))?;
                place.copy_from_slice(bytes);
                Ok(())
            });
            let fetched = read.map_err(as_damage)?;
            self.shared.fetched.fetch_add(fetched, Ordering::Relaxed);
        }
        Ok(Kept { content, modified: file.entry.modified })
    }
}

/// A regular file of the backup.
struct StoredFile<'a> {
    entry: &'a FileEntry,
    length: u64,
    body: Body,
    regions: &'a [NodeRef],
}

impl StoredFile<'_> {
    /// Adds a region's pieces and returns its length, which must be what the file's length says.
    fn add(&self, plan: &mut ReadPlan, nodes: &NodeStore, number: u32, index: u64, region: &NodeRef) -> Result<u64> {
        let start = index * REGION;
        let expected = self.length.saturating_sub(start).min(REGION);
        let found = match self.body {
            Body::Pages => {
                let map = nodes.page_map(region).map_err(as_damage)?.map;
                if map.length() == expected {
                    plan.add_pages(number, start, &map);
                }
                map.length()
            }
            Body::Bytes => {
                let map = nodes.byte_map(region).map_err(as_damage)?;
                if map.length() == expected {
                    plan.add_bytes(number, start, &map);
                }
                map.length()
            }
        };
        if found == expected {
            Ok(expected)
        } else {
            let object = format!("'{}' in the backup", self.entry.display_path());
            Err(Error::damaged(object, format_args!("its map at {start} covers {found} bytes, expected {expected}"))
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::in_lanes;

    #[test]
    fn lanes_hold_every_item_once() {
        let lanes = |items, lanes| in_lanes((0..items).collect(), lanes).collect::<Vec<_>>();
        assert_eq!(lanes(7, 3), [0, 3, 6, 1, 4, 2, 5]);
        assert_eq!(lanes(2, 8), [0, 1]);
        assert_eq!(lanes(0, 2), [0; 0]);
    }
}
