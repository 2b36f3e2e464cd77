//! `walkeep.toml`: read, overlaid with the environment, checked. Past this room nobody sees a raw setting.

mod amounts;
mod load;
mod mirrors;
mod sections;
mod stream;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::storage::{BucketUrl, Place};

use crate::postgres::conninfo_for;

pub use amounts::{ByteCount, ByteRate, length_of_time};
pub use mirrors::MirrorSettings;
pub use sections::{
    ClusterSection, CompressionSection, LimitsSection, MetricsSection, MirrorSection, RepositorySection,
    ScheduleSection, StateSection, StreamSection,
};
pub use stream::StreamSettings;

/// Where the file is looked for unless `--config` or `WALKEEP_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/walkeep/walkeep.toml";

/// The file could not be used: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which PostgreSQL cluster.
    pub cluster: ClusterSection,
    /// Where backups and WAL go.
    pub repository: RepositorySection,
    /// A second place for them.
    pub mirror: MirrorSection,
    /// A third.
    pub mirror2: MirrorSection,
    /// How WAL is streamed.
    pub stream: StreamSection,
    /// How hard to compress.
    pub compression: CompressionSection,
    /// How much to use.
    pub limits: LimitsSection,
    /// When base backups are taken.
    pub schedule: ScheduleSection,
    /// What the agent tells a monitoring system.
    pub metrics: MetricsSection,
    /// Where local state lives.
    pub state: StateSection,
}

impl Config {
    /// The cluster's name in the repository.
    pub fn cluster_name(&self) -> &str {
        self.cluster.name.as_deref().unwrap_or("main")
    }

    /// The data directory.
    pub fn pgdata(&self) -> Result<&Path> {
        let missing = || ConfigError("[cluster] pgdata is not set: name the data directory".to_owned());
        Ok(self.cluster.pgdata.as_deref().ok_or_else(missing)?)
    }

    /// How to connect to the cluster: as configured, else where the data directory's server listens now.
    pub fn conninfo(&self) -> Result<String> {
        match &self.cluster.conninfo {
            Some(conninfo) => Ok(conninfo.clone()),
            None => conninfo_for(self.pgdata()?),
        }
    }

    /// Where the repository is.
    pub fn repository_place(&self) -> Result<Place> {
        match (&self.repository.path, &self.repository.url) {
            (Some(path), None) => {
                Ok(Place::Directory(std::path::absolute(path).context("unable to make a path absolute")?))
            }
            (None, Some(url)) => place(url),
            (None, None) => bail!(ConfigError("[repository] path is not set: name the repository".to_owned())),
            (Some(_), Some(_)) => {
                bail!(ConfigError("[repository] has both path and url: keep the one that is meant".to_owned()))
            }
        }
    }

    /// Where objects wait that are on their way to the bucket.
    pub fn spool(&self, url: &BucketUrl) -> PathBuf {
        let name: String = url.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.state.dir.join("spool").join(name)
    }

    /// Threads of a backup.
    pub fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.limits.jobs.filter(|jobs| *jobs > 0).unwrap_or_else(cores)
    }

    /// After how long a backup reads everything again.
    pub fn full_read_every(&self) -> Result<Duration> {
        full_read_every(&self.schedule)
    }

    /// How long a backup waits for a segment to be archived.
    pub fn archive_timeout(&self) -> Duration {
        Duration::from_secs(self.limits.archive_timeout.unwrap_or(60))
    }
}

/// After how long a backup reads everything again.
pub fn full_read_every(section: &ScheduleSection) -> Result<Duration> {
    length_of_time("[schedule] full_read_every", section.full_read_every.as_deref().unwrap_or("7d"))
}

/// The place that a URL of the configuration names.
fn place(url: &str) -> Result<Place> {
    url.parse::<Place>().map_err(|error| ConfigError(error.to_string()).into())
}
