//! Patience: an operation is repeated while its failure may pass and its time lasts.
//!
//! The SDK repeats a request a few times within seconds; this is for outages and overload that last longer.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Bucket;
use super::failure::Failure;

/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Bucket {
    /// Tries until it works, the failure is final, or the time for moving `length` bytes is over. A try that has begun
    /// may go on somewhat longer, because its bytes move; `rate` is what they may move at.
    pub(super) async fn patiently<T>(
        &self,
        length: u64,
        rate: Option<u64>,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let no_more_tries = started + self.settings.patience(length);
        let end = started + self.settings.longest(length, rate);
        let (mut pause, mut last) = (FIRST_PAUSE, None::<Failure>);
        loop {
            let tried = {
                let _pass = self.gate.enter().await;
                timeout_at(end, attempt()).await
            };
            let failure = match tried {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(self.naming_endpoint(out_of_time(started.elapsed(), last))),
            };
            // A try that could not end in time is not begun.
            let again = Instant::now() + pause + self.settings.request_timeout / 2;
            if !failure.passing || again >= no_more_tries {
                return Err(self.naming_endpoint(failure));
            }
            tracing::debug!(problem = failure.problem, "a request to the bucket failed, trying again");
            last = Some(failure);
            sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Where nobody answered, the reader must learn who was asked.
    fn naming_endpoint(&self, failure: Failure) -> Failure {
        match &self.settings.endpoint {
            Some(endpoint) if failure.status.is_none() => {
                Failure { problem: format!("{} ({endpoint})", failure.problem), ..failure }
            }
            _ => failure,
        }
    }

    /// As long as bytes move, a transfer lives; where nothing moved for a request's time, it is given up.
    pub(super) async fn while_moving<T>(
        &self,
        activity: &Activity,
        transfer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let patience = self.settings.request_timeout;
        let stalled = async {
            while let Some(end) = activity.end(patience) {
                sleep_until(end).await;
            }
        };
        tokio::select! {
            done = transfer => done,
            () = stalled => Err(Failure::own("Timeout", format!("nothing moved for {patience:?}"), true)),
        }
    }
}

fn out_of_time(after: Duration, last: Option<Failure>) -> Failure {
    let problem = format!("no end after {} seconds", after.as_secs());
    match last {
        Some(last) => Failure { problem: format!("{problem}, before: {}", last.problem), ..last },
        None => Failure::own("Timeout", problem, true),
    }
}

/// When bytes of a transfer moved last.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    /// Our own limit holds the transfer up.
    held: AtomicBool,
}

impl Activity {
    pub fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0), held: AtomicBool::new(false) }
    }

    /// Bytes moved.
    pub fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Waits for `limit`: that is no standstill.
    pub async fn hold(&self, limit: impl Future<Output = ()>) {
        self.held.store(true, Ordering::Relaxed);
        limit.await;
        self.touch();
        self.held.store(false, Ordering::Relaxed);
    }

    /// When to look again; `None` when nothing has moved for `patience`.
    fn end(&self, patience: Duration) -> Option<Instant> {
        let now = Instant::now();
        if self.held.load(Ordering::Relaxed) {
            return Some(now + patience);
        }
        let end = self.started + Duration::from_millis(self.last.load(Ordering::Relaxed)) + patience;
        Some(end).filter(|end| *end > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_that_is_held_up_by_our_limit_does_not_stand_still() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (short, activity) = (Duration::from_millis(40), Activity::new());
        runtime.block_on(async {
            assert!(activity.end(short).is_some());
            let held = activity.hold(sleep(short * 2));
            let look = async {
                sleep(short + short / 2).await;
                assert!(activity.end(short).is_some(), "held");
            };
            tokio::join!(held, look);
            assert!(activity.end(short).is_some(), "touched by the hold's end");
            sleep(short * 2).await;
            assert!(activity.end(short).is_none(), "stalled");
        });
    }
}
