//! The threads of a restore: some fetch where a network is in between, some verify and write, some make files durable.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::Progress;
use walkeep_chunkstore::extract::{Fetched, JobReader, ReadJob};
use walkeep_chunkstore::repository::Repository;

use super::handles::{Complete, Handles};

/// Least that a fetched job counts for: what it takes besides its bytes.
const LEAST: u64 = 64 << 10;

/// What the threads share.
pub(super) struct Shared<'a> {
    pub(super) repository: &'a Repository,
    pub(super) handles: Handles,
    pub(super) progress: &'a Progress,
    pub(super) fetched: AtomicU64,
    pub(super) failed: AtomicBool,
}

/// A read on its way to a worker, with its bytes if a fetcher was there first.
pub(super) struct Job<'a> {
    read: ReadJob,
    fetched: Option<(Fetched, Share<'a>)>,
}

impl From<ReadJob> for Job<'_> {
    fn from(read: ReadJob) -> Self {
        Self { read, fetched: None }
    }
}

/// Bytes that may be fetched and not yet written.
pub(super) struct Budget {
    all: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// A part of a budget, given back when it is dropped.
struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Budget {
    /// A budget of this many bytes.
    pub(super) fn new(all: u64) -> Self {
        Self { all, free: Mutex::new(all), freed: Condvar::new() }
    }

    /// Waits for so many bytes, or for all there are.
    fn take(&self, bytes: u64) -> Share<'_> {
        let bytes = bytes.max(LEAST).min(self.all);
        let mut free = self.free.lock();
        self.freed.wait_while(&mut free, |free| *free < bytes);
        *free -= bytes;
        Share { budget: self, bytes }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock() += self.bytes;
        self.budget.freed.notify_all();
    }
}

/// Fetches jobs until there are no more and hands them on. After a failure it still takes them, so that the planner never
/// waits for nobody.
pub(super) fn fetch<'a>(
    shared: &Shared<'_>,
    budget: &'a Budget,
    jobs: &Receiver<Job<'a>>,
    done: &Sender<Job<'a>>,
) -> Result<(), Error> {
    let mut outcome = Ok(());
    for Job { read, .. } in jobs {
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        let share = budget.take(read.stored_bytes());
        // Waiting may have taken until now.
        if shared.failed.load(Ordering::Relaxed) {
            continue;
        }
        match read.fetch(shared.repository) {
            // Workers are gone only after a failure of theirs.
            Ok(fetched) => drop(done.send(Job { read, fetched: Some((fetched, share)) })),
            Err(error) => {
                shared.failed.store(true, Ordering::SeqCst);
                outcome = Err(error);
            }
        }
    }
    outcome
}

/// Does jobs until there are no more. After a failure it still takes them, so that nobody waits for it in vain.
pub(super) fn work(shared: &Shared<'_>, jobs: &Receiver<Job<'_>>) -> Result<(), Error> {
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

fn do_job(shared: &Shared<'_>, reader: &mut JobReader, job: &Job<'_>) -> Result<(), Error> {
    let sink = &mut |piece: &walkeep_chunkstore::extract::Piece, bytes: &[u8]| {
        shared.handles.write(piece.file, piece.file_offset, bytes)?;
        shared.progress.add(bytes.len() as u64);
        Ok(())
    };
    let fetched = match &job.fetched {
        Some((fetched, _)) => reader.deliver(shared.repository, &job.read, fetched, sink)?,
        None => reader.run(shared.repository, &job.read, sink)?,
    };
    shared.fetched.fetch_add(fetched, Ordering::Relaxed);
    Ok(())
}

/// Makes files durable until there are no more.
pub(super) fn sync(failed: &AtomicBool, complete: &Receiver<Complete>) -> Result<(), Error> {
    for file in complete {
        if failed.load(Ordering::Relaxed) {
            return Ok(());
        }
        file.sync().inspect_err(|_| failed.store(true, Ordering::SeqCst))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many threads ask for however much, what is out never exceeds the budget, and everybody gets a turn.
    #[test]
    fn a_budget_is_never_exceeded() {
        const ALL: u64 = 10 * LEAST;
        let (budget, out, most) = (Budget::new(ALL), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (budget, out, most) = (&budget, &out, &most);
                scope.spawn(move || {
                    for round in 0..200 {
                        let share = budget.take((thread * 7 + round) % 13 * LEAST);
                        let now = out.fetch_add(share.bytes, Ordering::SeqCst) + share.bytes;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        out.fetch_sub(share.bytes, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= ALL, "{most:?}");
        assert_eq!(*budget.free.lock(), ALL);
    }
}
