//! Threads that must not end: one that dies by a bug starts again, and everybody hears of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// First and longest pause after a death.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

static DEATHS: AtomicU64 = AtomicU64::new(0);

/// How often a thread of this process died by a bug.
pub fn deaths() -> u64 {
    DEATHS.load(Ordering::Relaxed)
}

/// Runs `work` until it returns. A panic is told, with `name`, and `work` runs again after a pause, which doubles up to a
/// minute; the end of the agent, for which `wait_for_stop` waits, comes first.
///
/// Unwinding leaves shared state as it was at the panic. What the agent's threads share is made for that: locks that do
/// not poison, positions that only say what is durable already.
pub fn supervised(name: &str, wait_for_stop: impl Fn(Duration) -> bool, work: impl Fn()) {
    let mut pause = PAUSES.0;
    while catch_unwind(AssertUnwindSafe(&work)).is_err() {
        DEATHS.fetch_add(1, Ordering::Relaxed);
        tracing::error!("{name} died by a bug of walkeep, please report it; it starts again in {} s", pause.as_secs());
        if wait_for_stop(pause) {
            return;
        }
        pause = (pause * 2).min(PAUSES.1);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_dies_runs_again_until_it_returns() {
        let (runs, pauses) = (Cell::new(0), Cell::new(Vec::new()));
        let before = deaths();
        let wait = |pause| {
            let mut all = pauses.take();
            all.push(pause);
            pauses.set(all);
            false
        };
        supervised("a test", wait, || {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 8, "a bug");
        });
        assert_eq!((runs.get(), deaths() - before), (9, 8));
        let pauses: Vec<u64> = pauses.take().iter().map(Duration::as_secs).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn the_end_comes_before_another_try() {
        let runs = Cell::new(0);
        supervised(
            "a test",
            |_| true,
            || {
                runs.set(runs.get() + 1);
                assert!(runs.get() > 8, "a bug");
            },
        );
        assert_eq!(runs.get(), 1);
    }
}
