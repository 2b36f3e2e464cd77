//! Waiting for conditions: poll until true or until a deadline, never sleep and hope.

use std::thread;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(20);

/// How long something that should happen soon may take on a busy two-core machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Returns once `condition` holds.
///
/// Panics with `what` when it does not within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    poll(what, limit, || condition().then_some(()));
}

/// Returns what `attempt` gives as soon as it gives something.
///
/// Panics with `what` when it does not within `limit`.
#[track_caller]
pub fn poll<T>(what: &str, limit: Duration, attempt: impl FnMut() -> Option<T>) -> T {
    match try_poll(limit, attempt) {
        Some(value) => value,
        None => panic!("waited {} s in vain for: {what}", limit.as_secs()),
    }
}

/// Returns what `attempt` gives as soon as it gives something, or `None` after `limit`.
pub fn try_poll<T>(limit: Duration, mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = attempt() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(INTERVAL);
    }
}
