//! Base backups that are re-taken: what the schedule sees, and how it takes one.
//!
//! Each is taken by a process of its own: what it needs of memory goes with it, and one that hangs can be ended.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use walkeep_chunkstore::repository::{LeaseKind, list_leases};
use walkeep_chunkstore::storage::ObjectKey;

use crate::context::Context;
use crate::schedule::{BackupOutcome, Facts, NewestBackup, Reason, WalGap, World};
use crate::stop_flag::StopFlag;
use crate::stream::{Stream, StreamStatus};

/// How often the stream is looked at for what makes a backup due at once.
const LOOK: Duration = Duration::from_secs(1);
/// How often a backup that runs is looked at.
const POLL: Duration = Duration::from_millis(100);
/// How long a backup waits for the stream; then it relies on `archive_command`.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);
/// How long a backup may take to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest report of a backup.
const MAXIMUM_REPORT: u64 = 1 << 20;
/// Characters of its messages that are kept.
const KEPT_MESSAGE: usize = 2000;

/// The repository, the stream, and this program.
pub(super) struct AgentWorld<'a> {
    context: &'a Context,
    config: Option<PathBuf>,
    stream: Option<&'a Stream>,
    /// The backups as they were read last, by the keys that were listed then.
    known: Mutex<BTreeMap<ObjectKey, Option<NewestBackup>>>,
    stop: StopFlag,
}

impl<'a> AgentWorld<'a> {
    pub(super) fn new(context: &'a Context, config: Option<PathBuf>, stream: Option<&'a Stream>) -> Self {
        Self { context, config, stream, known: Mutex::default(), stop: StopFlag::default() }
    }

    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    /// The newest backup, as far as was looked.
    pub(super) fn newest(&self) -> Option<NewestBackup> {
        NewestBackup::of(self.known.lock().values().flatten().copied(), None)
    }

    fn stream(&self) -> Option<StreamStatus> {
        self.stream.map(Stream::status).filter(|stream| stream.timeline.is_some())
    }

    /// What makes a backup due at once.
    fn events(&self) -> (Option<u32>, usize) {
        let stream = self.stream.map(Stream::status).unwrap_or_default();
        (stream.timeline.map(|timeline| timeline.get()), stream.gaps.len())
    }

    /// Gives the stream time to begin: a backup needs the WAL behind its start. True when the agent stops.
    fn wait_for_stream(&self) -> bool {
        let begun = Instant::now();
        let waits = || self.stream.is_some_and(|stream| !stream.status().streaming);
        while waits() && begun.elapsed() < STREAM_PATIENCE {
            if self.stop.wait(POLL) {
                return true;
            }
        }
        false
    }

    /// Reads the roots that are new: one listing, unless there are any.
    fn backups(&self) -> Result<Vec<NewestBackup>> {
        let storage = self.context.repository.storage();
        let listed: BTreeSet<ObjectKey> =
            storage.list(&self.context.layout.backups())?.into_iter().map(|info| info.key).collect();
        let mut known = self.known.lock();
        known.retain(|key, _| listed.contains(key));
        for key in listed {
            if let Entry::Vacant(place) = known.entry(key) {
                let key = place.key();
                let id = key.name().parse().with_context(|| format!("'{key}' is no backup"))?;
                let read = self.context.repository.backup(&self.context.layout, &id);
                // One that cannot be read is no base to rely on; `verify` says why.
                place.insert(read.ok().map(|backup| NewestBackup {
                    started: backup.started,
                    stopped: backup.stopped,
                    stop_lsn: backup.stop_lsn,
                    timeline: backup.timeline,
                }));
            }
        }
        Ok(known.values().flatten().copied().collect())
    }

    fn backup_runs(&self) -> Result<bool> {
        let now = Timestamp::now();
        let runs = |lease: &walkeep_chunkstore::repository::ListedLease| match &lease.record {
            Ok(record) => {
                record.kind == LeaseKind::Backup
                    && record.cluster == self.context.config.cluster_name()
                    && lease.state(now).counts()
            }
            Err(_) => false,
        };
        Ok(list_leases(&self.context.repository)?.iter().any(runs))
    }

    fn command(&self, reason: &Reason) -> Result<Command> {
        let program = std::env::current_exe().context("unable to find this program's file")?;
        let mut command = Command::new(program);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.args(["--json", "backup", "--note", &format!("schedule={}", reason.kind())]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Waits for a backup to end; ends it when its time is over or the agent stops.
    fn watch(&self, child: &mut Child, deadline: Duration) -> Result<Watched> {
        let begun = Instant::now();
        let ended_by = loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Watched::Ended(status.success()));
            }
            if self.stop.wait(POLL) {
                break Watched::Stopped;
            }
            if begun.elapsed() >= deadline {
                break Watched::TooLong;
            }
        };
        terminate(child);
        let told = Instant::now();
        while child.try_wait()?.is_none() {
            if told.elapsed() >= PATIENCE {
                child.kill()?;
            }
            std::thread::sleep(POLL);
        }
        Ok(ended_by)
    }
}

enum Watched {
    Ended(bool),
    Stopped,
    TooLong,
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Passes a backup's messages on, and keeps the first of them.
fn relay(stderr: ChildStderr) -> String {
    let mut kept = String::new();
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        tracing::info!("backup: {line}");
        if kept.len() + line.len() < KEPT_MESSAGE {
            kept.push_str(if kept.is_empty() { "" } else { "; " });
            kept.push_str(line.trim());
        }
    }
    kept
}

impl World for AgentWorld<'_> {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn facts(&self) -> Result<Facts> {
        let stream = self.stream();
        let timeline = stream.as_ref().and_then(|stream| stream.timeline);
        let newest = NewestBackup::of(self.backups()?, timeline);
        let server = stream.as_ref().map(|stream| stream.server_lsn);
        let wal_since = match (server, &newest) {
            (Some(server), Some(newest)) => server.saturating_sub(newest.stop_lsn),
            _ => 0,
        };
        let gaps = stream.map(|stream| stream.gaps).unwrap_or_default();
        let gaps = gaps.into_iter().map(|gap| WalGap { timeline: gap.timeline, end: gap.to }).collect();
        Ok(Facts { newest, wal_since, timeline, gaps, backup_runs: self.backup_runs()? })
    }

    fn back_up(&self, reason: &Reason, deadline: Duration) -> Result<BackupOutcome> {
        if self.wait_for_stream() {
            return Ok(BackupOutcome::Stopped);
        }
        let mut child = self.command(reason)?.spawn().context("unable to start the backup")?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (watched, report, messages) = std::thread::scope(|scope| {
            let messages = scope.spawn(|| stderr.map(relay).unwrap_or_default());
            let report = scope.spawn(|| {
                let mut text = String::new();
                let read = stdout.map(|stdout| stdout.take(MAXIMUM_REPORT).read_to_string(&mut text));
                read.transpose().map(|_| text)
            });
            let watched = self.watch(&mut child, deadline);
            (watched, report.join(), messages.join().unwrap_or_default())
        });
        match watched? {
            Watched::Stopped => Ok(BackupOutcome::Stopped),
            Watched::TooLong => bail!("it took longer than its deadline of {} s, and was ended", deadline.as_secs()),
            Watched::Ended(false) => bail!("{messages}"),
            Watched::Ended(true) => {
                let report = report.unwrap_or_else(|_| Ok(String::new()))?;
                let report: serde_json::Value = serde_json::from_str(&report).context("unable to read its report")?;
                let id = report["id"].as_str().context("its report names no backup")?;
                Ok(BackupOutcome::Committed { id: id.to_owned() })
            }
        }
    }

    fn wait(&self, time: Duration) -> bool {
        let (begun, before) = (Instant::now(), self.events());
        loop {
            let left = time.saturating_sub(begun.elapsed());
            if self.stop.wait(left.min(LOOK)) {
                return true;
            }
            if begun.elapsed() >= time || self.events() != before {
                return false;
            }
        }
    }
}
