//! Which PostgreSQL cluster a name in the repository stands for.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::segment::WalSegmentSize;
use walkeep_proto::version::MajorVersion;

use super::Repository;
use super::layout::ClusterLayout;
use crate::error::{Error, Result};
use crate::storage::{ObjectInfo, Put};

/// What must not change between two pushes or backups under one name. `pg_upgrade` adds another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// `pg_control`'s system identifier.
    pub system_identifier: SystemIdentifier,
    /// Major version.
    pub major: MajorVersion,
    /// Bytes per page.
    pub page_size: u32,
    /// Pages per relation segment file.
    pub pages_per_segment: u32,
    /// Bytes per WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// When it was registered.
    pub registered: Timestamp,
}

/// More identities than any cluster has upgrades.
const MAXIMUM: u32 = 9999;

impl ClusterIdentity {
    /// Whether both describe the same cluster, whenever they were registered.
    pub fn is_same(&self, other: &Self) -> bool {
        Self { registered: other.registered, ..self.clone() } == *other
    }
}

impl Repository {
    /// All identities of a cluster, oldest first; none for an unknown name.
    pub fn identities(&self, cluster: &ClusterLayout) -> Result<Vec<ClusterIdentity>> {
        self.read_identities(&self.storage().list(&cluster.identities())?)
    }

    fn read_identities(&self, listed: &[ObjectInfo]) -> Result<Vec<ClusterIdentity>> {
        let read = |key| {
            let text = self.storage().get(key, 1 << 20)?;
            serde_json::from_slice(&text).map_err(|e| Error::damaged(key, e))
        };
        listed.iter().map(|info| read(&info.key)).collect()
    }

    /// The identity that new data must match.
    ///
    /// Every `archive-push` asks for it, so no other machine is asked where some identity is at hand: a spool keeps the ones
    /// it has seen. It may be old only after another host registered this cluster's `pg_upgrade`; then new data does not
    /// match it and is refused, never archived under a wrong one, and `walkeep init` on this host brings it up to date.
    pub fn identity(&self, cluster: &ClusterLayout, name: &str) -> Result<ClusterIdentity> {
        let at_hand = self.storage().list_at_hand(&cluster.identities())?;
        let newest = match at_hand.last() {
            Some(newest) => self.read_identities(std::slice::from_ref(newest))?.pop(),
            None => self.identities(cluster)?.pop(),
        };
        newest.ok_or_else(|| Error::not_found(format_args!("cluster '{name}' in repository '{}'", self.location())))
    }

    /// Registers a cluster, or its next major version. Registering what is there is a success.
    pub fn register(&self, cluster: &ClusterLayout, name: &str, identity: &ClusterIdentity) -> Result<()> {
        self.config().check_writable()?;
        loop {
            let known = self.identities(cluster)?;
            if let Some(newest) = known.last() {
                if newest.is_same(identity) {
                    return Ok(());
                }
                if newest.major >= identity.major {
                    return Err(self.other_cluster(name, newest, identity));
                }
            }
            let number = u32::try_from(known.len()).ok().filter(|number| *number <= MAXIMUM);
            let number = number.ok_or_else(|| Error::Invalid(format!("cluster '{name}' has too many identities")))?;
            let text = serde_json::to_vec_pretty(identity).expect("a plain structure always serialises");
            if self.storage().put_if_absent(&cluster.identity(number)?, &text)? == Put::Created {
                return Ok(());
            }
        }
    }

    fn other_cluster(&self, name: &str, known: &ClusterIdentity, found: &ClusterIdentity) -> Error {
        let problem = format!(
            "the repository holds system identifier {} of PostgreSQL {}, this is {} of PostgreSQL {}",
            known.system_identifier, known.major, found.system_identifier, found.major
        );
        Error::Conflict { object: format!("cluster '{name}'"), problem }
    }
}
