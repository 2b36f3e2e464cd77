//! How fast bytes may move: limits shared by all transfers of one storage, changeable while they run.

use std::fmt;
use std::time::Duration;

use async_speed_limit::Limiter;
use async_speed_limit::clock::StandardClock;
use tokio::sync::Notify;

/// Most bytes that move between two looks at the limit.
const LARGEST_PIECE: usize = 64 << 10;

/// Limits for uploads and for reads, in bytes per second.
#[derive(Debug, Default)]
pub struct TransferLimits {
    upload: Limit,
    read: Limit,
}

impl TransferLimits {
    /// Limits all uploads together; `None` and 0 lift the limit.
    pub fn set_upload_rate(&self, bytes_per_second: Option<u64>) {
        self.upload.set(bytes_per_second);
    }

    /// Limits all reads together; `None` and 0 lift the limit.
    pub fn set_read_rate(&self, bytes_per_second: Option<u64>) {
        self.read.set(bytes_per_second);
    }

    /// The limit of uploads.
    pub fn upload_rate(&self) -> Option<u64> {
        self.upload.rate()
    }

    /// The limit of reads.
    pub fn read_rate(&self) -> Option<u64> {
        self.read.rate()
    }

    pub(super) fn upload(&self) -> &Limit {
        &self.upload
    }

    pub(super) fn read(&self) -> &Limit {
        &self.read
    }
}

/// One direction's limit.
pub(super) struct Limit {
    limiter: Limiter<StandardClock>,
    changed: Notify,
}

impl Default for Limit {
    fn default() -> Self {
        Self { limiter: Limiter::new(f64::INFINITY), changed: Notify::new() }
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Limit").field(&self.rate()).finish()
    }
}

impl Limit {
    fn set(&self, rate: Option<u64>) {
        let speed = rate.filter(|rate| *rate > 0).map_or(f64::INFINITY, |rate| rate as f64);
        self.limiter.set_speed_limit(speed);
        self.changed.notify_waiters();
    }

    pub(super) fn rate(&self) -> Option<u64> {
        Some(self.limiter.speed_limit()).filter(|speed| speed.is_finite()).map(|speed| speed as u64)
    }

    /// How many bytes should be taken at once, so that slow transfers are slow evenly.
    pub(super) fn piece(&self) -> usize {
        let eighth = |rate: u64| usize::try_from(rate / 8).unwrap_or(LARGEST_PIECE);
        self.rate().map_or(LARGEST_PIECE, |rate| eighth(rate).clamp(1 << 10, LARGEST_PIECE))
    }

    /// Waits until `length` more bytes are within the limit. A change of the limit counts from the moment it is made.
    pub(super) async fn pass(&self, length: usize) {
        loop {
            let changed = self.changed.notified();
            let pause = self.limiter.consume_duration(length);
            if pause == Duration::ZERO {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => return,
                () = changed => self.limiter.unconsume(length),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_lifted_limit_frees_who_waits() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let limits = TransferLimits::default();
        limits.set_upload_rate(Some(1000));
        assert_eq!((limits.upload_rate(), limits.read_rate(), limits.upload().piece()), (Some(1000), None, 1 << 10));
        let started = Instant::now();
        runtime.block_on(async {
            let lift = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                limits.set_upload_rate(None);
            };
            tokio::join!(limits.upload().pass(100_000), lift);
        });
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!((limits.upload_rate(), limits.upload().piece()), (None, LARGEST_PIECE));
    }
}
