//! The sections as they are written: one field for each key.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use walkeep_chunkstore::mirror::Durability;

use super::amounts::{ByteCount, ByteRate};

/// `[cluster]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Its name in the repository.
    pub name: Option<String>,
    /// The data directory.
    pub pgdata: Option<PathBuf>,
    /// How to connect; default: what `postmaster.pid` in the data directory says.
    pub conninfo: Option<String>,
}

/// `[repository]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositorySection {
    /// A directory.
    pub path: Option<PathBuf>,
    /// A directory, or a bucket where this build supports one.
    pub url: Option<String>,
}

/// `[mirror]` and `[mirror2]`: a second place for the repository. Where `[repository] url` is a bucket, `[mirror]` without
/// a `url` says how to talk to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorSection {
    /// A bucket or a directory.
    pub url: Option<String>,
    /// Whether archive-push and backup wait for it.
    pub durability: Option<Durability>,
    /// How long packs and WAL stay in the local repository after they were mirrored; default: for ever.
    pub local_window: Option<String>,
    /// Base URL of the service; default: AWS.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Whether the bucket's name stands in the path.
    pub path_style: Option<bool>,
    /// PEM file of the authority that signed the endpoint's certificate.
    pub ca_file: Option<PathBuf>,
    /// Server-side encryption: `AES256` or `aws:kms`.
    pub encryption: Option<String>,
    /// Key for `aws:kms`.
    pub kms_key: Option<String>,
    /// Storage class of packs of data.
    pub pack_class: Option<String>,
    /// Storage class of WAL.
    pub wal_class: Option<String>,
    /// Days for which object lock keeps each object but leases.
    pub lock_days: Option<u32>,
    /// Object lock's mode.
    pub lock_mode: Option<String>,
    /// Seconds for one small request.
    pub request_timeout: Option<u64>,
    /// Seconds for one operation with all its repetitions.
    pub total_timeout: Option<u64>,
}

/// `[stream]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSection {
    /// Whether the agent streams WAL; default: yes.
    pub enabled: Option<bool>,
    /// Name of the replication slot that keeps WAL on the server; empty: none. Default: `walkeep`.
    pub slot: Option<String>,
    /// Whether commits may wait for the agent: it takes the name that `synchronous_standby_names` lists.
    pub synchronous: Option<bool>,
    /// The `application_name` of the stream; default: `walkeep`, and `walkeep_async` where commits do not wait.
    pub application_name: Option<String>,
    /// How often the open segment is taken into the repository, like `5s`.
    pub tail_interval: Option<String>,
    /// Whether a standby may be streamed from.
    pub standby: Option<bool>,
}

/// `[schedule]`: when the agent takes base backups by itself. Without `base_backup`, `max_age` and `max_wal` it takes none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSection {
    /// Cron expression of five fields, read in `timezone`.
    pub base_backup: Option<String>,
    /// Name in the IANA time zone database; default: the system's time zone.
    pub timezone: Option<String>,
    /// How old the newest base backup may become, like `7d`.
    pub max_age: Option<String>,
    /// How much WAL may follow the newest base backup, like `50GiB`.
    pub max_wal: Option<ByteCount>,
    /// How long a base backup may take; default: `24h`.
    pub deadline: Option<String>,
    /// After how long a backup must read everything again that others took from the server's word; default: `7d`. Holds for
    /// every backup, scheduled or not.
    pub full_read_every: Option<String>,
}

/// `[compression]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionSection {
    /// zstd level.
    pub level: i32,
}

impl Default for CompressionSection {
    fn default() -> Self {
        Self { level: 1 }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Threads of a backup; default: one per core.
    pub jobs: Option<usize>,
    /// Seconds that a backup waits for a WAL segment to be archived.
    pub archive_timeout: Option<u64>,
    /// Bytes per second that go to buckets.
    pub upload_rate: Option<ByteRate>,
    /// Bytes per second that are read: by a backup from the data directory, and from buckets.
    pub read_rate: Option<ByteRate>,
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Address and port at which the agent answers `GET /metrics`; default: it does not.
    pub listen: Option<std::net::SocketAddr>,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateSection {
    /// Directory of the index. It can be deleted at any time.
    pub dir: PathBuf,
}

impl Default for StateSection {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/walkeep") }
    }
}
