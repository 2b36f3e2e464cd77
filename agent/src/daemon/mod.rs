//! `walkeep agent`: what goes on beside the server as long as it runs.
//!
//! One thread per matter: the WAL stream, the schedule of base backups, each mirror's queue, the local window, files to
//! archive, the control socket, metrics. The main thread waits for signals: SIGTERM and SIGINT end everything after what
//! is under way, SIGHUP reads the configuration's rates again.

mod control;
mod exposition;
mod metrics;
mod mirrors;
mod push;
mod rebaseline;
mod status;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use walkeep_chunkstore::Error;

use crate::archive::SegmentLedger;
use crate::context::Context;
use crate::schedule::{Runner, Schedule};
use crate::stop_flag::StopFlag;
use crate::stream::Stream;
use crate::supervise::supervised;
use control::Answers;
use push::Pusher;
use rebaseline::AgentWorld;
use status::BackupTimes;

pub use control::{AgentError, ask_push, ask_status, is_streaming};
pub use mirrors::Mirrors;
pub use push::PushAnswer;
pub use status::{AgentStatus, MirrorStatus, Status, without_agent};

/// How long mirrors may take to be brought up to date when the agent ends: then the next agent goes on.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs until a signal ends it.
pub fn run(config: Option<&Path>) -> Result<()> {
    let context = Context::open(config)?;
    let directory = context.config.state.dir.clone();
    let _lock = lock(&directory)?;
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("unable to watch signals")?;
    let mirrors = Mirrors::new(&context);
    let ledger = Arc::<SegmentLedger>::default();
    let stream = context.config.stream_settings()?.map(|settings| Stream::new(settings, Arc::clone(&ledger)));
    let world = AgentWorld::new(&context, config.map(Path::to_path_buf), stream.as_ref());
    let schedule = Runner::new(Schedule::new(&context.config.schedule)?, &world, &directory);
    let agent = Agent {
        context: &context,
        mirrors: &mirrors,
        stream: stream.as_ref(),
        pusher: Pusher::new(&context, &ledger),
        world: &world,
        schedule: &schedule,
        started: Timestamp::now(),
    };
    let control = control::Server::bind(&directory)?;
    let metrics = context.config.metrics.listen.map(metrics::Server::bind).transpose()?;
    let ending = StopFlag::default();
    let wait = |time| ending.wait(time);
    std::thread::scope(|scope| {
        let handle = signals.handle();
        scope.spawn(|| supervised("the mirrors' thread", wait, || mirrors.run(&context)));
        let streaming = stream
            .as_ref()
            .map(|stream| scope.spawn(|| supervised("the stream's thread", wait, || stream.run(&context))));
        scope.spawn(|| supervised("the thread that stores ahead", wait, || agent.pusher.run()));
        let schedule = scope.spawn(|| supervised("the schedule's thread", wait, || schedule.run()));
        scope.spawn(|| supervised("the control socket's thread", wait, || control.run(&agent)));
        if let Some(metrics) = &metrics {
            scope.spawn(|| supervised("the metrics' thread", wait, || metrics.run(&|| agent.status())));
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
        ending.stop();
        tell_manager(&[NotifyState::Stopping]);
        control.stop();
        agent.pusher.stop();
        world.stop();
        if let Some(stream) = &stream {
            stream.stop();
        }
        // What was received is stored first, then sent.
        if streaming.is_some_and(|streaming| streaming.join().is_err()) {
            tracing::error!("the stream's thread died");
        }
        // A backup that was under way has been ended.
        if schedule.join().is_err() {
            tracing::error!("the schedule's thread died");
        }
        mirrors.drain(DRAIN);
        mirrors.stop();
        if let Some(metrics) = &metrics {
            metrics.stop();
        }
    });
    Ok(())
}

/// What the control socket and metrics ask.
struct Agent<'a> {
    context: &'a Context,
    mirrors: &'a Mirrors,
    stream: Option<&'a Stream>,
    pusher: Pusher<'a>,
    world: &'a AgentWorld<'a>,
    schedule: &'a Runner<&'a AgentWorld<'a>>,
    started: Timestamp,
}

impl Answers for Agent<'_> {
    fn status(&self) -> Status {
        Status {
            agent: Some(AgentStatus::here(self.started)),
            schedule: Some(self.schedule.status()),
            newest_backup: self.world.newest().map(|newest| BackupTimes::of(&newest)),
            ..Status::of(self.context, self.mirrors.lags(), self.stream)
        }
    }

    fn push(&self, path: &Path) -> Result<PushAnswer> {
        self.pusher.push(path)
    }
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
