//! `[limits] read_rate` and `upload_rate`: how fast bytes may move, changeable while they do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_speed_limit::Limiter;
use async_speed_limit::clock::StandardClock;
use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;
use walkeep_chunkstore::storage::S3Storage;

use crate::config::{ByteRate, Config, LimitsSection};

/// All rates of one process. Clones share them.
#[derive(Clone)]
pub struct Rates {
    data_directory: Limiter<StandardClock>,
    buckets: Vec<Arc<S3Storage>>,
}

impl Rates {
    /// The rates of these buckets and of the data directory, as configured.
    pub fn new(buckets: Vec<Arc<S3Storage>>, limits: &LimitsSection) -> Self {
        let rates = Self { data_directory: Limiter::new(f64::INFINITY), buckets };
        rates.set(limits);
        rates
    }

    /// Sets them, for what is under way too.
    pub fn set(&self, limits: &LimitsSection) {
        let read = limits.read_rate.map(ByteRate::bytes);
        self.data_directory.set_speed_limit(read.map_or(f64::INFINITY, |rate| rate as f64));
        for bucket in &self.buckets {
            bucket.limits().set_read_rate(read);
            bucket.limits().set_upload_rate(limits.upload_rate.map(ByteRate::bytes));
        }
    }

    /// Bytes per second that may be read from the data directory; none: as fast as can be.
    pub fn read_limit(&self) -> Option<u64> {
        let limit = self.data_directory.speed_limit();
        limit.is_finite().then_some(limit as u64)
    }

    /// Counts bytes read from the data directory, and waits if they came too fast.
    pub fn read(&self, bytes: usize) {
        if self.data_directory.speed_limit().is_finite() {
            self.data_directory.blocking_consume(bytes);
        }
    }

    /// Reads the configuration again. What is wrong with it is logged and changes nothing.
    pub fn reload(&self, config: Option<&Path>) {
        match Config::load(config) {
            Ok(config) => {
                self.set(&config.limits);
                tracing::info!("rates are read again; all else needs a restart");
            }
            Err(error) => tracing::error!("the configuration stays as it was: {error:#}"),
        }
    }

    /// Reloads at each SIGHUP for the rest of the process's life.
    pub fn follow_signals(&self, config: Option<PathBuf>) -> Result<()> {
        let mut signals = Signals::new([SIGHUP]).context("unable to watch signals")?;
        let rates = self.clone();
        std::thread::spawn(move || signals.forever().for_each(|_| rates.reload(config.as_deref())));
        Ok(())
    }
}
