//! What nearly every command begins with: the repository, the cluster's rooms in it, and who the cluster is.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::repository::{ClusterIdentity, Repository};
use walkeep_chunkstore::storage::LocalStorage;
use walkeep_chunkstore::wal::WalArchive;

use crate::config::Config;

/// An open repository and the configured cluster's place in it.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The repository.
    pub repository: Arc<Repository>,
    /// Keys of the cluster.
    pub layout: ClusterLayout,
}

impl Context {
    /// Reads the configuration and opens the repository it names.
    pub fn open(config: Option<&Path>) -> Result<Self> {
        let config = Config::load(config)?;
        let path = config.repository_path()?;
        let layout = ClusterLayout::new(config.cluster_name())?;
        let storage = match LocalStorage::open(&path) {
            Err(error) if error.is_not_found() => {
                let absent = walkeep_chunkstore::Error::not_found(format_args!("repository '{}'", path.display()));
                return Err(absent.into());
            }
            other => other?,
        };
        let repository = Arc::new(Repository::open(Arc::new(storage))?);
        Ok(Self { config, repository, layout })
    }

    /// The cluster that new data must belong to.
    pub fn identity(&self) -> Result<ClusterIdentity> {
        Ok(self.repository.identity(&self.layout, self.config.cluster_name())?)
    }

    /// The cluster's WAL archive.
    pub fn archive(&self) -> WalArchive {
        WalArchive::new(Arc::clone(&self.repository), self.layout.clone())
    }
}
