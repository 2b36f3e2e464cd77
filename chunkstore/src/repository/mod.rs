//! A repository: its description, its clusters, and the rooms it hands out.

mod backups;
mod config;
mod identity;
pub mod layout;
mod leases;

pub use backups::{
    BackupId, BackupKind, BackupManifest, BackupStatistics, BackupStatus, ListedBackup, PageError, Tablespace,
};
pub use config::{ChunkerConfig, FORMAT, Features, RepositoryConfig};
pub use identity::ClusterIdentity;
pub use leases::{Holder, Lease, LeaseKind, LeaseRecord, LeaseState, ListedLease, list_leases, remove_lease};

use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use crate::error::{Error, Result};
use crate::id::{ChunkId, RepositoryKeys};
use crate::index::find_in_objects;
use crate::node::Location;
use crate::storage::{Put, Storage};

/// An open repository.
#[derive(Debug)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: RepositoryConfig,
    keys: RepositoryKeys,
}

impl Repository {
    /// Opens a repository; says which newer feature it uses if this build cannot.
    pub fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let key = layout::config()?;
        let text = match storage.get(&key, 1 << 20) {
            Err(error) if error.is_not_found() => {
                return Err(Error::not_found(format_args!("a repository at '{}'", storage.location())));
            }
            other => other?,
        };
        let object = format!("{}/{key}", storage.location());
        let config = RepositoryConfig::parse(&object, &text)?;
        let keys = RepositoryKeys::derive(&config.hash_master(&object)?);
        Ok(Self { storage, config, keys })
    }

    /// Creates a repository, or opens the one that is there. Says whether it is new.
    ///
    /// A place that holds something else is refused rather than mixed with.
    pub fn init(storage: Arc<dyn Storage>, now: Timestamp) -> Result<(Self, bool)> {
        let key = layout::config()?;
        if storage.size(&key)?.is_some() {
            return Ok((Self::open(storage)?, false));
        }
        if let Some(foreign) = storage.list("")?.first() {
            let problem = format!("it is no repository, yet it holds '{}'", foreign.key);
            return Err(Error::Conflict { object: format!("'{}'", storage.location()), problem });
        }
        let put = storage.put_if_absent(&key, &RepositoryConfig::generate(now).to_bytes())?;
        Ok((Self::open(storage)?, put == Put::Created))
    }

    /// Written into every object.
    pub fn id(&self) -> Ulid {
        self.config.repository_id
    }

    /// The description.
    pub fn config(&self) -> &RepositoryConfig {
        &self.config
    }

    /// Hashes of this repository.
    pub fn keys(&self) -> &RepositoryKeys {
        &self.keys
    }

    /// Where its objects live.
    pub fn storage(&self) -> &dyn Storage {
        &*self.storage
    }

    /// Its place as the user wrote it.
    pub fn location(&self) -> String {
        self.storage.location()
    }

    /// The clusters it holds, in order of name.
    pub fn cluster_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self
            .storage
            .list(layout::CLUSTERS)?
            .iter()
            .filter(|info| info.key.as_str().contains("/identity/"))
            .filter_map(|info| info.key.as_str().split('/').nth(1).map(str::to_owned))
            .collect();
        names.dedup();
        Ok(names)
    }

    /// Where a chunk is now, according to the index objects: the slow way, for references whose hint has grown old.
    pub fn locate(&self, id: ChunkId) -> Result<Option<Location>> {
        find_in_objects(self, id)
    }
}
