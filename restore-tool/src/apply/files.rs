//! Restoring files in parallel: one thread plans, workers verify and write, others make complete files durable.
//!
//! ```text
//! file lists → maps → batches of pieces → jobs, pack by pack ─→ workers: read → decompress → check id → pwrite ─→ fsync
//! ```
//!
//! Where reads wait for a network, threads of their own do them, more than there are workers. Memory is bounded by the batch,
//! the queue of jobs and one job per worker, or else what is fetched, whatever the size of the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, anyhow};
use crossbeam_channel::{bounded, unbounded};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::Progress;
use walkeep_chunkstore::node::NodeStore;
use walkeep_chunkstore::repository::{BackupManifest, Repository};

use super::Place;
use super::handles::{Complete, Handles};
use super::manifest::Manifest;
use super::maps::Maps;
use super::planner::{Batch, Planner};
use super::work::{Budget, Job, Shared, fetch, sync, work};

/// Threads that wait for the disk.
const SYNCERS: usize = 8;
/// Bytes that are fetched over a network and not yet written.
const IN_FLIGHT: u64 = 64 << 20;

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

/// Writes all files of a backup but those that must be changed. Their content is durable on return.
pub(super) fn restore(
    repository: &Arc<Repository>,
    backup: &BackupManifest,
    place: &Place,
    jobs: usize,
    progress: &Progress,
    manifest: &mut Manifest,
) -> Result<Written> {
    let (lanes, reads) = (jobs.max(1), repository.storage().parallel_reads());
    let budget = Budget::new(IN_FLIGHT);
    let (job_sender, job_receiver) = bounded::<Job<'_>>(lanes.max(reads) * 4);
    // Without fetchers, what is planned goes to the workers as it is.
    let fetchers = if reads > 1 { reads } else { 0 };
    let (fetched_sender, work_receiver) = match fetchers {
        0 => (None, job_receiver.clone()),
        _ => {
            let (sender, receiver) = bounded(fetchers);
            (Some(sender), receiver)
        }
    };
    let (complete_sender, complete_receiver) = unbounded::<Complete>();
    let handles = Handles::new(complete_sender);
    let shared = Shared { repository, handles, progress, fetched: AtomicU64::new(0), failed: AtomicBool::new(false) };
    let nodes = NodeStore::new(Arc::clone(repository));
    let (planned, failures) = std::thread::scope(|scope| {
        let (shared, budget, complete) = (&shared, &budget, &complete_receiver);
        let mut threads: Vec<_> = (0..lanes)
            .map(|_| work_receiver.clone())
            .map(|receiver| scope.spawn(move || work(shared, &receiver)))
            .collect();
        for _ in 0..fetchers {
            let (receiver, sender) = (job_receiver.clone(), fetched_sender.clone());
            threads.extend(sender.map(|sender| scope.spawn(move || fetch(shared, budget, &receiver, &sender))));
        }
        // From here on only those hold them who end with them.
        drop((work_receiver, job_receiver, fetched_sender));
        let syncers: Vec<_> = (0..SYNCERS).map(|_| scope.spawn(|| sync(&shared.failed, complete))).collect();
        let mut planner = Planner {
            shared,
            nodes: &nodes,
            maps: Maps::new(&nodes, reads),
            place,
            jobs: &job_sender,
            manifest,
            written: Written::default(),
            batch: Batch::default(),
            lanes,
        };
        let planned = planner.run(backup).map(|()| planner.written);
        if planned.is_err() {
            shared.failed.store(true, Ordering::SeqCst);
        }
        drop(job_sender);
        let mut failures: Vec<anyhow::Error> =
            threads.into_iter().filter_map(|thread| failure(thread.join())).collect();
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
pub(super) fn as_damage(error: Error) -> Error {
    match error {
        Error::NotFound { object } => {
            Error::damaged(object.trim_matches('\''), "it is gone, and nothing else holds what was in it")
        }
        other => other,
    }
}
