//! The end of what goes on all the time: threads wait for it instead of sleeping, tasks beside what may hang.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// Whether the end has come. Once it has, it stays.
#[derive(Debug, Default)]
pub struct StopFlag {
    stopped: Mutex<bool>,
    changed: Condvar,
    told: Notify,
}

impl StopFlag {
    /// The end: whoever waits wakes up.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
        self.told.notify_waiters();
    }

    /// Whether it has come.
    pub fn is_stopped(&self) -> bool {
        *self.stopped.lock()
    }

    /// Waits this long; true as soon as the end has come.
    pub fn wait(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut stopped = self.stopped.lock();
        while !*stopped && !self.changed.wait_until(&mut stopped, deadline).timed_out() {}
        *stopped
    }

    /// What comes of `work`; `None` when the end comes first, and the work is dropped.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        // Made before the look: it hears of everything that is told from then on.
        let told = self.told.notified();
        if self.is_stopped() {
            return None;
        }
        tokio::select! {
            biased;
            () = told => None,
            done = work => Some(done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_wakes_up() {
        let flag = StopFlag::default();
        assert!(!flag.wait(Duration::ZERO));
        std::thread::scope(|scope| {
            // Longer than any test may take.
            let waiting = scope.spawn(|| flag.wait(Duration::from_secs(3600)));
            flag.stop();
            assert!(waiting.join().unwrap());
        });
        assert!(flag.is_stopped() && flag.wait(Duration::from_secs(3600)));
    }

    #[tokio::test]
    async fn what_hangs_is_left() {
        let flag = StopFlag::default();
        assert_eq!(flag.unless(async { 7 }).await, Some(7));
        let hangs = flag.unless(std::future::pending::<()>());
        let (left, ()) = tokio::join!(hangs, async { flag.stop() });
        assert_eq!(left, None);
        assert_eq!(flag.unless(async { 7 }).await, None, "nothing begins after the end");
    }
}
