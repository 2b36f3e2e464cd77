//! `walkeep agent`: what goes on beside the server as long as it runs.
//!
//! One thread per matter: each mirror's queue, the local window, the control socket, metrics. The main thread waits for
//! signals: SIGTERM and SIGINT end everything after what is under way, SIGHUP reads the configuration's rates again.

mod control;
mod metrics;
mod mirrors;
mod status;

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use walkeep_chunkstore::Error;

use crate::context::Context;

pub use control::ask;
pub use mirrors::Mirrors;
pub use status::{AgentStatus, MirrorStatus, Status, without_agent};

/// Runs until a signal ends it.
pub fn run(config: Option<&Path>) -> Result<()> {
    let context = Context::open(config)?;
    let directory = context.config.state.dir.clone();
    let _lock = lock(&directory)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("unable to watch signals")?;
    let mirrors = Mirrors::new(&context);
    let started = Timestamp::now();
    let status = || Status::of(&context, &mirrors, Some(AgentStatus::here(started)));
    let control = control::Server::bind(&directory)?;
    let metrics = context.config.metrics.listen.map(metrics::Server::bind).transpose()?;
    std::thread::scope(|scope| {
        let handle = signals.handle();
        scope.spawn(|| mirrors.run(&context));
        scope.spawn(|| control.run(&status));
        if let Some(metrics) = &metrics {
            scope.spawn(|| metrics.run(&status));
        }
        scope.spawn(|| feed_watchdog(&mirrors));
        tell_manager(&[NotifyState::Ready]);
        tracing::info!("agent of cluster '{}' runs", context.config.cluster_name());
        for signal in signals.forever() {
            if signal != SIGHUP {
                break;
            }
            context.rates.reload(config);
        }
        handle.close();
        tell_manager(&[NotifyState::Stopping]);
        mirrors.stop();
        control.stop();
        if let Some(metrics) = &metrics {
            metrics.stop();
        }
    });
    Ok(())
}

/// Keeps a second agent of the same state directory out.
fn lock(directory: &Path) -> Result<File> {
    use rustix::fs::{FlockOperation, flock};
    std::fs::create_dir_all(directory).with_context(|| format!("unable to create '{}'", directory.display()))?;
    let path = directory.join("agent.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("unable to open '{}'", path.display()))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let object = format!("state directory '{}'", directory.display());
            Err(Error::Conflict { object, problem: "an agent runs on it already".to_owned() }.into())
        }
        Err(error) => Err(error).with_context(|| format!("unable to lock '{}'", path.display())),
    }
}

fn tell_manager(state: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(state);
}

/// Tells systemd that the agent lives, twice in the time it allows.
fn feed_watchdog(mirrors: &Mirrors) {
    let Some(allowed) = sd_notify::watchdog_enabled() else { return };
    while !mirrors.wait_for_stop(allowed / 2) {
        tell_manager(&[NotifyState::Watchdog]);
    }
}

/// Where the agent listens.
fn socket(directory: &Path) -> PathBuf {
    directory.join("agent.sock")
}
