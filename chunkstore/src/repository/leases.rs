//! Leases: visible locks that die with their holder.
//!
//! A lease is a JSON object below `leases/<kind>/`. Taking one is: look for others, write it, look again, and step back if
//! a living one stands there now. Clocks of hosts differ, so no order among them is trusted: of two that start in the
//! same moment both step back and try again after a random pause. A holder renews its lease; one whose process is gone
//! (same host and boot), or that expired, is ignored and removed.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{Repository, layout};
use crate::error::{Error, Result};
use crate::storage::ObjectKey;

/// How long a lease lives without renewal.
const LIFETIME: SignedDuration = SignedDuration::from_mins(15);

/// How often two that start in the same moment try to step out of each other's way.
const ATTEMPTS: u32 = 4;

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
    const fn directory(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
        }
    }
}

/// The process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// Kernel's boot id: a process id means nothing after a restart.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: process ids are used again.
    pub started_ticks: u64,
}

impl Holder {
    /// This process.
    pub fn this_process() -> Self {
        let pid = std::process::id();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { host, boot_id: boot_id(), pid, started_ticks: started_ticks(pid).unwrap_or(0) }
    }

    /// Whether the process is certainly gone: only its own host can tell.
    fn is_dead(&self) -> bool {
        let here = Self::this_process();
        if self.host != here.host {
            return false;
        }
        self.boot_id != here.boot_id || started_ticks(self.pid) != Some(self.started_ticks)
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)), counted behind the command name's closing parenthesis.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
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
}

impl LeaseRecord {
    fn is_alive(&self, now: Timestamp) -> bool {
        now < self.expires && !self.holder.is_dead()
    }
}

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

    /// Renews the lease. If it was lost, the error says so and the holder must stop publishing.
    pub fn renew(&mut self, now: Timestamp) -> Result<()> {
        if self.repository.storage().size(&self.key)?.is_none() {
            let problem = "it was removed by somebody else; this operation must not go on".to_owned();
            return Err(Error::Conflict { object: format!("lease '{}'", self.key), problem });
        }
        self.record.expires = now.checked_add(LIFETIME).unwrap_or(now);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.record).expect("a plain structure always serialises");
        self.repository.storage().overwrite(&self.key, &text)
    }

    fn check_others(&self, now: Timestamp) -> Result<()> {
        for (key, other) in list(&self.repository, self.record.kind)? {
            if key == self.key || other.cluster != self.record.cluster {
                continue;
            }
            if !other.is_alive(now) {
                self.repository.storage().delete(&key)?;
            } else {
                let Holder { host, pid, .. } = &other.holder;
                let problem = format!(
                    "'{}' by process {pid} on {host} since {}, lapses {} unless renewed ('{key}')",
                    other.purpose, other.since, other.expires
                );
                return Err(Error::Conflict { object: format!("cluster '{}' is in use", other.cluster), problem });
            }
        }
        Ok(())
    }
}

impl Lease {
    fn give_back(&self) {
        if let Err(error) = self.repository.storage().delete(&self.key) {
            tracing::debug!("lease '{}' stays until it lapses: {error}", self.key);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// All readable leases of a kind.
fn list(repository: &Repository, kind: LeaseKind) -> Result<Vec<(ObjectKey, LeaseRecord)>> {
    let mut found = Vec::new();
    for info in repository.storage().list(&format!("{}{}/", layout::LEASES, kind.directory()))? {
        match repository.storage().get(&info.key, 1 << 20) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(record) => found.push((info.key, record)),
                Err(error) => return Err(Error::damaged(&info.key, error)),
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, Storage};

    fn repository() -> Arc<Repository> {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        Arc::new(Repository::init(storage, Timestamp::UNIX_EPOCH).unwrap().0)
    }

    fn take(repository: &Arc<Repository>, cluster: &str, now: Timestamp) -> Result<Lease> {
        Lease::take(repository, LeaseKind::Backup, cluster, "test", now)
    }

    #[test]
    fn one_at_a_time_per_cluster() {
        let repository = repository();
        let now = Timestamp::UNIX_EPOCH;
        let held = take(&repository, "a", now).unwrap();
        let refused = take(&repository, "a", now).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()), "{refused}");
        take(&repository, "b", now).unwrap();
        drop(held);
        take(&repository, "a", now).unwrap();
    }

    #[test]
    fn a_dead_or_lapsed_holder_is_no_obstacle() {
        let repository = repository();
        let now = Timestamp::UNIX_EPOCH;
        let mut dead = take(&repository, "a", now).unwrap();
        dead.record.holder.started_ticks += 1;
        dead.write().unwrap();
        let mut elsewhere = take(&repository, "a", now).unwrap();
        assert!(dead.renew(now).is_err(), "it was removed");
        elsewhere.record.holder.host = "elsewhere.example".to_owned();
        elsewhere.write().unwrap();
        assert!(take(&repository, "a", now).is_err());
        take(&repository, "a", now.checked_add(LIFETIME).unwrap()).unwrap();
    }
}
