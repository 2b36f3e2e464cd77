//! What `walkeep status` and `GET /metrics` tell.

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::mirror::{Durability, Lag};
use walkeep_chunkstore::storage::RequestCounts;
use walkeep_proto::lsn::Lsn;

use crate::context::Context;
use crate::schedule::{NewestBackup, ScheduleStatus};
use crate::stream::{Stream, StreamStatus};
use crate::supervise;

/// The agent's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Process id.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// Its version.
    pub version: String,
    /// Bytes of memory it takes; `None` where that cannot be told.
    pub resident_bytes: Option<u64>,
    /// How often one of its threads died by a bug and was started again.
    pub thread_deaths: u64,
}

impl AgentStatus {
    pub(super) fn here(since: Timestamp) -> Self {
        Self {
            pid: std::process::id(),
            since,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resident_bytes: resident_bytes(),
            thread_deaths: supervise::deaths(),
        }
    }
}

/// When a base backup was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupTimes {
    /// When it started.
    pub started: Timestamp,
    /// When it stopped.
    pub stopped: Timestamp,
}

impl BackupTimes {
    pub(super) const fn of(backup: &NewestBackup) -> Self {
        Self { started: backup.started, stopped: backup.stopped }
    }
}

/// One mirror.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Where it is.
    pub url: String,
    /// Whether success waits for it.
    pub durability: Durability,
    /// How far it is behind.
    #[serde(flatten)]
    pub lag: Lag,
    /// Up to where it has the streamed WAL; `None` where nothing is streamed, or that is not known.
    pub mirrored_lsn: Option<Lsn>,
    /// Requests since the process started, by operation; empty for a directory.
    pub requests: RequestCounts,
}

/// The state of things now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The cluster's name in the repository.
    pub cluster: String,
    /// The repository.
    pub repository: String,
    /// The agent; absent when none runs.
    pub agent: Option<AgentStatus>,
    /// The WAL stream; absent when no agent runs, or it does not stream.
    pub stream: Option<StreamStatus>,
    /// The schedule of base backups; absent when no agent runs.
    pub schedule: Option<ScheduleStatus>,
    /// The newest base backup, as far as the agent has looked.
    pub newest_backup: Option<BackupTimes>,
    /// The mirrors.
    pub mirrors: Vec<MirrorStatus>,
}

impl Status {
    /// What is known of the repository and its mirrors.
    pub(super) fn of(context: &Context, lags: Vec<Lag>, stream: Option<&Stream>) -> Self {
        let requests = context.storages.requests();
        let remotes = context.storages.mirrored.iter().flat_map(|mirrored| mirrored.remotes());
        let mirrors = remotes.zip(lags).map(|(remote, lag)| {
            let url = remote.storage.location();
            let requests = requests.get(&url).cloned().unwrap_or_default();
            let mirrored_lsn = lag.complete_before.and_then(|moment| stream?.stored_before(moment));
            MirrorStatus { durability: remote.durability, lag, mirrored_lsn, requests, url }
        });
        Self {
            cluster: context.config.cluster_name().to_owned(),
            repository: context.repository.location(),
            agent: None,
            stream: stream.map(Stream::status),
            schedule: None,
            newest_backup: None,
            mirrors: mirrors.collect(),
        }
    }
}

/// The state of things when no agent runs: both places of every mirror are compared.
pub fn without_agent(context: &Context) -> Result<Status> {
    let mut lags = Vec::new();
    if let Some(mirrored) = &context.storages.mirrored {
        for remote in mirrored.remotes() {
            lags.push(Lag::by_comparison(mirrored.local(), &*remote.storage));
        }
    }
    Ok(Status::of(context, lags, None))
}

/// `VmRSS` of this process (`proc(5)`).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}
