//! What nearly every command begins with: the repository, the cluster's rooms in it, and who the cluster is.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::repository::{ClusterIdentity, Repository};
use walkeep_chunkstore::wal::WalArchive;

use crate::config::Config;
use crate::rates::Rates;
use crate::repository::{self, Ask, Storages};

/// An open repository and the configured cluster's place in it.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// Where it is kept.
    pub storages: Storages,
    /// How fast bytes may move.
    pub rates: Rates,
    /// The repository.
    pub repository: Arc<Repository>,
    /// Keys of the cluster.
    pub layout: ClusterLayout,
}

impl Context {
    /// Reads the configuration and opens the repository it names.
    pub fn open(config: Option<&Path>) -> Result<Self> {
        let config = Config::load(config)?;
        let layout = ClusterLayout::new(config.cluster_name())?;
        let (storages, repository) = repository::open(&config)?;
        let rates = storages.rates(&config.limits);
        Ok(Self { config, storages, rates, repository, layout })
    }

    /// Makes sure that the mirrors hold this repository.
    pub fn join_mirrors(&self, ask: Ask) -> Result<()> {
        self.storages.join(self.repository.config(), &self.config.state.dir, ask)
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
