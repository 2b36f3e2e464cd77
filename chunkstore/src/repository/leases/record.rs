//! Leases as stored, and looking at all of them.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Holder;
use crate::error::{Error, Result};
use crate::repository::{Repository, layout};
use crate::storage::ObjectKey;

/// Longest lease that is read.
const MAXIMUM: u64 = 1 << 20;

/// What a lease protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseKind {
    /// One base backup per cluster at a time.
    Backup,
    /// A restore that reads packs.
    Restore,
}

impl LeaseKind {
    pub(super) const fn directory(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

impl fmt::Display for LeaseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.directory())
    }
}

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// What it protects.
    pub kind: LeaseKind,
    /// The cluster it is about.
    pub cluster: String,
    /// Who holds it.
    pub holder: Holder,
    /// Command, for people.
    pub purpose: String,
    /// When it was taken.
    pub since: Timestamp,
    /// When it lapses unless renewed.
    pub expires: Timestamp,
    /// How far the holder was when it last renewed the lease, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
}

impl LeaseRecord {
    /// What it is worth.
    pub fn state(&self, now: Timestamp) -> LeaseState {
        if now >= self.expires {
            LeaseState::Expired
        } else if self.holder.is_dead() {
            LeaseState::Dead
        } else {
            LeaseState::Living
        }
    }
}

impl fmt::Display for LeaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { purpose, holder, since, expires, .. } = self;
        write!(f, "'{purpose}' by {holder} since {since}, lapses {expires} unless renewed")?;
        self.progress.as_ref().map_or(Ok(()), |progress| write!(f, ", last seen at {progress}"))
    }
}

/// What a lease is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LeaseState {
    /// It counts.
    Living,
    /// Its process is gone, as this host knows: it counts for nothing.
    Dead,
    /// Its time has come: it counts for nothing.
    Expired,
    /// Nobody can tell whose it is, so it counts.
    Unreadable,
}

impl LeaseState {
    /// Whether it keeps others away.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Living | Self::Unreadable)
    }
}

impl fmt::Display for LeaseState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Living => "living",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
        })
    }
}

/// A lease in a list: one that cannot be read hides no other.
#[derive(Debug)]
pub struct ListedLease {
    /// Its object.
    pub key: ObjectKey,
    /// What it says, or why that cannot be read.
    pub record: Result<LeaseRecord>,
}

impl ListedLease {
    /// What it is worth.
    pub fn state(&self, now: Timestamp) -> LeaseState {
        self.record.as_ref().map_or(LeaseState::Unreadable, |record| record.state(now))
    }
}

/// All leases of all clusters, oldest first within their kind.
pub fn list_leases(repository: &Repository) -> Result<Vec<ListedLease>> {
    list(repository, layout::LEASES)
}

/// Removes a lease, whoever holds it. A holder that still runs notices when it renews it, and stops.
pub fn remove_lease(repository: &Repository, key: &ObjectKey) -> Result<()> {
    if !key.as_str().starts_with(layout::LEASES) {
        return Err(Error::Invalid(format!("'{key}' is no lease")));
    }
    repository.storage().delete(key)
}

pub(super) fn of_kind(repository: &Repository, kind: LeaseKind) -> Result<Vec<ListedLease>> {
    list(repository, &format!("{}{}/", layout::LEASES, kind.directory()))
}

fn list(repository: &Repository, prefix: &str) -> Result<Vec<ListedLease>> {
    let storage = repository.storage();
    let mut found = Vec::new();
    for info in storage.list(prefix)? {
        let record = match storage.get(&info.key, MAXIMUM) {
            // Given back since it was listed.
            Err(error) if error.is_not_found() => continue,
            Err(error) => Err(error),
            Ok(text) => serde_json::from_slice(&text).map_err(|e| Error::damaged(&info.key, e)),
        };
        found.push(ListedLease { key: info.key, record });
    }
    Ok(found)
}
