//! Uploads in the background: a backup goes on cutting while earlier packs travel.

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use parking_lot::{Condvar, Mutex};

use super::UNDER_WAY;
use crate::error::{Error, Result};
use crate::storage::ObjectKey;

/// Objects that may wait: with those in the making they bound the disk space that a spool takes.
const WAITING: usize = 8;

#[derive(Default)]
struct State {
    /// Objects handed over and not done.
    open: usize,
    /// The first failure.
    failure: Option<Error>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

/// Threads that upload what they are told to.
pub(super) struct Uploads {
    sender: Option<Sender<ObjectKey>>,
    threads: Vec<JoinHandle<()>>,
    shared: Shared,
}

impl Uploads {
    /// Starts the threads.
    pub(super) fn start(upload: impl Fn(&ObjectKey) -> Result<()> + Send + Sync + 'static) -> Self {
        let (sender, receiver) = bounded::<ObjectKey>(WAITING);
        let (shared, upload): (Shared, _) = (Arc::default(), Arc::new(upload));
        let threads = (0..UNDER_WAY).map(|_| {
            let (receiver, shared, upload) = (receiver.clone(), Arc::clone(&shared), Arc::clone(&upload));
            std::thread::spawn(move || {
                for key in receiver {
                    // After a failure the rest is only counted: whoever waits shall hear of it soon.
                    let outcome = if shared.0.lock().failure.is_some() { Ok(()) } else { upload(&key) };
                    let mut state = shared.0.lock();
                    state.open -= 1;
                    if let Err(error) = outcome {
                        state.failure.get_or_insert(error);
                    }
                    shared.1.notify_all();
                }
            })
        });
        let threads = threads.collect();
        Self { sender: Some(sender), threads, shared }
    }

    /// Hands an object over; waits while too many wait already.
    pub(super) fn add(&self, key: ObjectKey) -> Result<()> {
        let mut state = self.shared.0.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        state.open += 1;
        drop(state);
        let sender = self.sender.as_ref().ok_or(Error::Stopped)?;
        sender.send(key).map_err(|_| Error::Stopped)
    }

    /// Waits until everything handed over is done.
    pub(super) fn finish(&self) -> Result<()> {
        let mut state = self.shared.0.lock();
        while state.open > 0 {
            self.shared.1.wait(&mut state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Drop for Uploads {
    fn drop(&mut self) {
        // What still waits is found again by comparing both places: it is not worth keeping a failed process alive for.
        self.shared.0.lock().failure.get_or_insert(Error::GivenUp);
        self.sender.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn all_is_done_when_finish_returns_and_a_failure_is_told_once() {
        let done = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&done);
        let uploads = Uploads::start(move |key| {
            if key.as_str() == "bad" {
                return Err(Error::Invalid("refused".to_owned()));
            }
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        for number in 0..40 {
            uploads.add(ObjectKey::new(format!("k{number}")).unwrap()).unwrap();
        }
        uploads.finish().unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 40);
        uploads.add(ObjectKey::new("bad").unwrap()).unwrap();
        assert!(uploads.finish().is_err());
        uploads.finish().unwrap();
    }
}
