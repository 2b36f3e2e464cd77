//! How many requests are under way at once: fewer as soon as the service says that it is too many.
//!
//! Each answer "slow down" halves the number, at most once in a second; each success brings back a little.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Requests at once to begin with.
const FIRST: f64 = 32.0;

/// Most requests at once.
const MOST: f64 = 64.0;

/// Requests that were sent before the number was halved say "slow down" as well; they count once.
const SAME_JAM: Duration = Duration::from_secs(1);

/// Counts requests in and out.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug)]
struct State {
    limit: f64,
    running: u32,
    narrowed: Option<Instant>,
}

/// A request's place; free again when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a>(&'a Gate);

impl Gate {
    pub fn new() -> Self {
        Self { state: Mutex::new(State { limit: FIRST, running: 0, narrowed: None }), freed: Notify::new() }
    }

    /// Waits for a place.
    pub async fn enter(&self) -> Pass<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state.lock();
                if f64::from(state.running) + 1.0 <= state.limit {
                    state.running += 1;
                    return Pass(self);
                }
            }
            freed.await;
        }
    }

    /// The service answered.
    pub fn answered(&self, status: u16) {
        match status {
            429 | 503 => self.narrow(Instant::now()),
            200..=299 => {
                let mut state = self.state.lock();
                state.limit = (state.limit + 1.0 / state.limit).min(MOST);
            }
            _ => {}
        }
    }

    fn narrow(&self, now: Instant) {
        let mut state = self.state.lock();
        if state.narrowed.is_none_or(|at| now.duration_since(at) >= SAME_JAM) {
            state.limit = (state.limit / 2.0).max(1.0);
            state.narrowed = Some(now);
            tracing::debug!(limit = state.limit, "the service is overloaded, sending fewer requests at once");
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        // Two, because the limit may have grown: whoever finds no place waits again.
        self.0.freed.notify_one();
        self.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_jam_halves_the_number_once() {
        let gate = Gate::new();
        let start = Instant::now();
        for milliseconds in [0, 10, 900, 1000, 1500] {
            gate.narrow(start + Duration::from_millis(milliseconds));
        }
        assert_eq!(gate.state.lock().limit, FIRST / 4.0);
        for second in 2..20 {
            gate.narrow(start + Duration::from_secs(second));
        }
        assert_eq!(gate.state.lock().limit, 1.0);
        for _ in 0..1000 {
            gate.answered(200);
        }
        assert!(gate.state.lock().limit > 30.0);
    }

    #[test]
    fn a_full_gate_opens_when_a_request_ends() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let gate = Gate::new();
        gate.state.lock().limit = 1.0;
        runtime.block_on(async {
            let first = gate.enter().await;
            let second = tokio::time::timeout(Duration::from_millis(20), gate.enter());
            assert!(second.await.is_err());
            let (_, third) = tokio::join!(async { drop(first) }, gate.enter());
            drop(third);
        });
        assert_eq!(gate.state.lock().running, 0);
    }
}
