//! Leases: visible locks that die with their holder.
//!
//! A lease is a JSON object below `leases/<kind>/`. Taking one is: look for others, write it, look again, and step back if
//! a living one stands there now. Clocks of hosts differ, so no order among them is trusted: of two that start in the
//! same moment both step back and try again after a random pause. A holder renews its lease; one whose process is gone
//! (same host and boot), or that expired, is ignored and removed.
//!
//! Nothing here needs create-if-absent, nor the right to delete: a lease that cannot be removed is marked as lapsed.

mod holder;
mod record;

pub use holder::Holder;
pub use record::{LeaseKind, LeaseRecord, LeaseState, ListedLease, list_leases, remove_lease};

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use ulid::Ulid;

use super::{Repository, layout};
use crate::error::{Error, Result};
use crate::storage::ObjectKey;

/// How long a lease lives without renewal.
const LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// How often two that start in the same moment try to step out of each other's way.
const ATTEMPTS: u32 = 4;

/// A lease held by this process; dropping it gives it back.
#[derive(Debug)]
pub struct Lease {
    repository: Arc<Repository>,
    key: ObjectKey,
    record: LeaseRecord,
}

impl Lease {
    /// Takes the lease of this kind for a cluster, or says who holds it.
    pub fn take(
        repository: &Arc<Repository>,
        kind: LeaseKind,
        cluster: &str,
        purpose: &str,
        now: Timestamp,
    ) -> Result<Self> {
        let record = LeaseRecord {
            kind,
            cluster: cluster.to_owned(),
            holder: Holder::this_process(),
            purpose: purpose.to_owned(),
            since: now,
            expires: now.checked_add(LIFETIME).unwrap_or(now),
            progress: None,
        };
        let key = layout::lease(kind.directory(), Ulid::generate())?;
        let lease = Self { repository: Arc::clone(repository), key, record };
        for _ in 1..ATTEMPTS {
            lease.check_others(now)?;
            lease.write()?;
            if lease.check_others(now).is_ok() {
                return Ok(lease);
            }
            lease.give_back();
            std::thread::sleep(Duration::from_millis(rand::random_range(20..200)));
        }
        lease.check_others(now)?;
        lease.write()?;
        lease.check_others(now)?;
        Ok(lease)
    }

    /// Renews the lease and says how far the work is. If it was lost, the error says so and the holder must stop publishing.
    pub fn renew(&mut self, now: Timestamp, progress: Option<String>) -> Result<()> {
        if self.repository.storage().size(&self.key)?.is_none() {
            let problem = "it was removed by somebody else; this operation must not go on".to_owned();
            return Err(Error::Conflict { object: format!("lease '{}'", self.key), problem });
        }
        // Somebody may have held this one for lapsed and not been allowed to remove it.
        for (key, record) in self.others()?.iter().filter_map(|other| Some((&other.key, other.record.as_ref().ok()?))) {
            if record.state(now) == LeaseState::Living {
                return Err(in_use(key, record));
            }
        }
        self.record.expires = now.checked_add(LIFETIME).unwrap_or(now);
        self.record.progress = progress;
        self.write()
    }

    fn write(&self) -> Result<()> {
        store(&self.repository, &self.key, &self.record)
    }

    /// Leases of this kind that stand or may stand against this one.
    fn others(&self) -> Result<Vec<ListedLease>> {
        let mut others = record::of_kind(&self.repository, self.record.kind)?;
        others.retain(|other| {
            let same_cluster = other.record.as_ref().map_or(true, |record| record.cluster == self.record.cluster);
            other.key != self.key && same_cluster
        });
        Ok(others)
    }

    fn check_others(&self, now: Timestamp) -> Result<()> {
        for ListedLease { key, record } in self.others()? {
            match record {
                Ok(record) if record.state(now) == LeaseState::Living => return Err(in_use(&key, &record)),
                Ok(_) => {
                    if let Err(error) = self.repository.storage().delete(&key) {
                        tracing::debug!("lease '{key}' counts for nothing and stays: {error}");
                    }
                }
                Err(Error::Damaged { object, problem }) => {
                    let remedy =
                        "so nobody can tell who holds this lease: if no backup runs, remove it by `walkeep unlock";
                    return Err(Error::damaged(object, format_args!("{problem}; {remedy} {key} --force`")));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes the lease; one that cannot be removed is marked as lapsed, so that nobody waits for it.
    fn give_back(&self) {
        let Err(error) = self.repository.storage().delete(&self.key) else { return };
        tracing::debug!("lease '{}' cannot be removed: {error}", self.key);
        let lapsed = LeaseRecord { expires: self.record.since, ..self.record.clone() };
        if let Err(error) = store(&self.repository, &self.key, &lapsed) {
            tracing::debug!("lease '{}' stays until it lapses: {error}", self.key);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}

fn store(repository: &Repository, key: &ObjectKey, record: &LeaseRecord) -> Result<()> {
    let text = serde_json::to_vec_pretty(record).expect("a plain structure always serialises");
    repository.storage().overwrite(key, &text)
}

fn in_use(key: &ObjectKey, record: &LeaseRecord) -> Error {
    let object = format!("cluster '{}' is in use", record.cluster);
    Error::Conflict { object, problem: format!("{record} ('{key}')") }
}

#[cfg(test)]
mod tests;
