//! Base backups: the root object of each, and the list of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walkeep_proto::identity::{Oid, SystemIdentifier};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegmentSize;
use walkeep_proto::timeline::{TimelineHistory, TimelineId};
use walkeep_proto::version::MajorVersion;

use super::Repository;
use super::layout::ClusterLayout;
use crate::container::{Compressor, Container, ContainerKind, ContainerWriter};
use crate::error::{Error, Result};
use crate::node::NodeRef;
use crate::parallel::side_by_side;
use crate::storage::{ObjectKey, Put};

/// Largest root this build reads: roots stay far smaller, lists of files are nodes.
const MAXIMUM_ROOT: usize = 16 << 20;

/// Name of a base backup: its start in UTC and four random digits, so names sort by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    /// A name for a backup that starts now.
    pub fn generate(now: Timestamp) -> Self {
        let salt: u16 = rand::random();
        Self(format!("{}-{salt:04x}", now.strftime("%Y%m%dT%H%M%SZ")))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BackupId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        if (1..=40).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Invalid(format!("'{}' is no backup id", text.chars().take(60).collect::<String>())))
        }
    }
}

impl TryFrom<String> for BackupId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<BackupId> for String {
    fn from(id: BackupId) -> Self {
        id.0
    }
}

/// How a backup found out what to store. Every backup is complete, whatever its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Read everything, compared with nothing.
    FullRead,
    /// Read everything, stored the pages whose fingerprint differs from the parent's.
    Scan,
    /// Took what the server names as changed since the parent, and everything else from there.
    Incremental,
}

impl BackupKind {
    /// Whether every page of the cluster was read.
    pub fn has_read_everything(self) -> bool {
        match self {
            Self::FullRead | Self::Scan => true,
            Self::Incremental => false,
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FullRead => "full read",
            Self::Scan => "scan",
            Self::Incremental => "incremental",
        })
    }
}

/// Whether a backup is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupStatus {
    /// Everything was read and every page checksum agreed.
    Ok,
    /// Complete, but pages were already damaged in the cluster; they are named.
    PageErrors,
}

/// A page that was damaged in the cluster itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageError {
    /// File below the data directory.
    pub path: String,
    /// Block inside that file.
    pub block: u32,
    /// What is wrong with it, both values where two disagree.
    pub problem: String,
}

/// A tablespace outside `base` and `global`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its OID.
    pub oid: Oid,
    /// Where its link pointed; `None` for an in-place tablespace, which is a plain directory below `pg_tblspc`.
    pub location: Option<String>,
}

/// What a backup cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupStatistics {
    /// Files, directories not counted.
    pub files: u64,
    /// Bytes of all files.
    pub logical_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Plaintext bytes that no earlier object held.
    pub new_bytes: u64,
    /// Bytes added to the repository, maps and lists included.
    pub stored_bytes: u64,
    /// Bytes of maps and lists among them.
    pub node_bytes: u64,
    /// Pages that differed from the parent's.
    pub changed_pages: u64,
    /// Pages in all relation files.
    pub pages: u64,
}

/// The root of a base backup: everything a restore needs to begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupManifest {
    /// Its name.
    pub id: BackupId,
    /// The cluster's name in the repository.
    pub cluster: String,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Its major version.
    pub major: MajorVersion,
    /// The server's own words about its version.
    pub server_version: String,
    /// Bytes per page.
    pub page_size: u32,
    /// Pages per relation segment file.
    pub pages_per_segment: u32,
    /// Bytes per WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Permission bits of the data directory itself: 0700 or 0750.
    pub directory_mode: u32,
    /// How it found out what to store.
    pub kind: BackupKind,
    /// The backup it compared with. Information only: nothing depends on it.
    pub parent: Option<BackupId>,
    /// Whether it is good.
    pub status: BackupStatus,
    /// Damaged pages, the first thousand.
    pub page_errors: Vec<PageError>,
    /// How many damaged pages there were.
    pub page_error_count: u64,
    /// Timeline of start and stop.
    pub timeline: TimelineId,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the cluster becomes consistent.
    pub stop_lsn: Lsn,
    /// When it started.
    pub started: Timestamp,
    /// When it stopped.
    pub stopped: Timestamp,
    /// PostgreSQL's `backup_label`, byte for byte.
    pub backup_label: String,
    /// PostgreSQL's `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: String,
    /// Tablespaces.
    pub tablespaces: Vec<Tablespace>,
    /// The files, sorted by path over all lists.
    pub file_lists: Vec<NodeRef>,
    /// What it cost.
    pub statistics: BackupStatistics,
    /// `--note` pairs.
    pub notes: BTreeMap<String, String>,
    /// Host that took it.
    pub host: String,
    /// Version of Walkeep.
    pub tool_version: String,
}

impl BackupManifest {
    /// Whether it is one of this cluster, and its timeline was not left before it was consistent: then WAL along `history`
    /// carries it on.
    pub fn lies_on(&self, history: &TimelineHistory, cluster: SystemIdentifier, size: WalSegmentSize) -> bool {
        self.system_identifier == cluster
            && self.wal_segment_size == size
            && history.end_of(self.timeline).is_some_and(|end| end.is_none_or(|end| self.stop_lsn <= end))
    }
}

/// A row of the list of backups: a root that could not be read does not hide the others.
#[derive(Debug)]
pub struct ListedBackup {
    /// Its name.
    pub id: String,
    /// Its root, or why it cannot be read.
    pub manifest: Result<BackupManifest>,
}

impl Repository {
    /// Commits a backup: publishes its root. From here on it is listed; before, nothing of it is.
    pub fn commit_backup(&self, cluster: &ClusterLayout, manifest: &BackupManifest) -> Result<u64> {
        let text = serde_json::to_vec(manifest).expect("a plain structure always serialises");
        if text.len() > MAXIMUM_ROOT {
            let size = text.len();
            return Err(Error::Invalid(format!(
                "the backup's root would have {size} bytes, at most {MAXIMUM_ROOT} are read"
            )));
        }
        let mut compressor = Compressor::new(3)?;
        let writer = ContainerWriter::start(self.storage(), ContainerKind::Backup, self.id())?;
        let key = cluster.backup(manifest.id.as_str())?;
        let finished = writer.finish(&compressor.encode(&text)?, |_| Ok(key.clone()))?;
        match finished.put {
            Put::Created => Ok(finished.length),
            Put::AlreadyExists => {
                let problem = "another backup took this name".to_owned();
                Err(Error::Conflict { object: format!("'{key}'"), problem })
            }
        }
    }

    /// Reads a backup's root.
    pub fn backup(&self, cluster: &ClusterLayout, id: &BackupId) -> Result<BackupManifest> {
        let key = cluster.backup(id.as_str())?;
        let size = self.storage().size(&key)?;
        match size.ok_or_else(|| Error::not_found(&key)).and_then(|size| self.read_root(&key, size)) {
            Err(error) if error.is_not_found() => Err(Error::not_found(format_args!("backup '{id}'"))),
            other => other,
        }
    }

    /// All backups of a cluster, oldest first.
    pub fn backups(&self, cluster: &ClusterLayout) -> Result<Vec<ListedBackup>> {
        let listed = self.storage().list(&cluster.backups())?;
        let mut rows = side_by_side(&listed, self.storage().parallel_reads(), |info| ListedBackup {
            id: info.key.name().to_owned(),
            manifest: self.read_root(&info.key, info.size),
        });
        // Names give the second; of two in the same one, the roots know which was first.
        rows.sort_by_cached_key(|row| {
            let second = row.id.split('-').next().unwrap_or_default().to_owned();
            (second, row.manifest.as_ref().ok().map(|manifest| manifest.started))
        });
        Ok(rows)
    }

    fn read_root(&self, key: &ObjectKey, size: u64) -> Result<BackupManifest> {
        let container = Container::open_whole(self.storage(), key, size, ContainerKind::Backup, self.id())?;
        if container.table().len() > MAXIMUM_ROOT {
            return Err(Error::damaged(key, format_args!("root of {} bytes", container.table().len())));
        }
        let manifest: BackupManifest = serde_json::from_slice(container.table()).map_err(|e| Error::damaged(key, e))?;
        if manifest.id.as_str() == key.name() {
            Ok(manifest)
        } else {
            Err(Error::damaged(key, format_args!("says it is backup '{}'", manifest.id)))
        }
    }
}
