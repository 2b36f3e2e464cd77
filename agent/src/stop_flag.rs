//! The end of what goes on all the time: threads wait for it instead of sleeping.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Whether the end has come. Once it has, it stays.
#[derive(Debug, Default)]
pub struct StopFlag {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl StopFlag {
    /// The end: whoever waits wakes up.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
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
}
