//! What `walkeep status` and `GET /metrics` tell.

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::mirror::{Durability, Lag};
use walkeep_chunkstore::storage::RequestCounts;

use super::Mirrors;
use crate::context::Context;

/// The agent's process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Process id.
    pub pid: u32,
    /// Since when it runs.
    pub since: Timestamp,
    /// Its version.
    pub version: String,
}

impl AgentStatus {
    pub(super) fn here(since: Timestamp) -> Self {
        Self { pid: std::process::id(), since, version: env!("CARGO_PKG_VERSION").to_owned() }
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
    /// The mirrors.
    pub mirrors: Vec<MirrorStatus>,
}

impl Status {
    pub(super) fn of(context: &Context, mirrors: &Mirrors, agent: Option<AgentStatus>) -> Self {
        Self::with(context, mirrors.lags(), agent)
    }

    fn with(context: &Context, lags: Vec<Lag>, agent: Option<AgentStatus>) -> Self {
        let requests = context.storages.requests();
        let remotes = context.storages.mirrored.iter().flat_map(|mirrored| mirrored.remotes());
        let mirrors = remotes.zip(lags).map(|(remote, lag)| {
            let url = remote.storage.location();
            let requests = requests.get(&url).cloned().unwrap_or_default();
            MirrorStatus { durability: remote.durability, lag, requests, url }
        });
        Self {
            cluster: context.config.cluster_name().to_owned(),
            repository: context.repository.location(),
            agent,
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
    Ok(Status::with(context, lags, None))
}
