//! From settings to an open repository: a directory, a directory with mirrors, or a bucket with a spool.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_chunkstore::mirror::{Keep, LinkState, MirroredStorage, Remote, join};
use walkeep_chunkstore::repository::{Repository, RepositoryConfig};
use walkeep_chunkstore::storage::{
    BucketUrl, ConditionalWrites, LocalStorage, Place, RequestCounts, S3Storage, Storage, open_directory,
};

use crate::config::{Config, LimitsSection, MirrorSettings};
use crate::rates::Rates;

/// How much is asked of mirrors again that was proven before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Nothing: `archive-push` makes no request but its own.
    WhatIsUnknown,
    /// Whether they still hold this repository: one small request each.
    Identity,
    /// That, and what their services can do.
    Everything,
}

/// An S3 bucket that takes part, and what is known of it.
#[derive(Debug)]
pub struct Bucket {
    /// The driver.
    pub storage: Arc<S3Storage>,
    /// Where it is.
    pub url: BucketUrl,
    /// Its section of the configuration.
    pub settings: MirrorSettings,
}

/// The storage that the configuration describes.
pub struct Storages {
    /// What the repository is opened on.
    pub storage: Arc<dyn Storage>,
    /// The same, where it has mirrors.
    pub mirrored: Option<MirroredStorage>,
    /// The buckets among its places.
    pub buckets: Vec<Bucket>,
}

/// Puts the storages together. No request is made.
pub fn storages(config: &Config) -> Result<Storages> {
    let place = config.repository_place()?;
    let mirrors = config.mirrors()?;
    let mut buckets = Vec::new();
    let mut remotes = Vec::new();
    let (local, keep) = match &place {
        Place::Directory(path) => {
            let local = open_directory(path)?;
            let window = mirrors.iter().any(|mirror| mirror.local_window.is_some());
            (local, if window { Keep::Recent } else { Keep::Everything })
        }
        Place::Bucket(url) => {
            let directory = config.spool(url);
            let settings = config.bucket_settings()?;
            let durability = settings.durability;
            remotes.push(Remote { storage: bucket(config, url, settings, &mut buckets)?, durability });
            (LocalStorage::create(&directory)?, Keep::Nothing)
        }
    };
    for settings in mirrors {
        let durability = settings.durability;
        let storage: Arc<dyn Storage> = match &settings.place {
            Place::Directory(path) => Arc::new(LocalStorage::create(path)?),
            Place::Bucket(url) => bucket(config, &url.clone(), settings, &mut buckets)?,
        };
        remotes.push(Remote { storage, durability });
    }
    if remotes.is_empty() {
        return Ok(Storages { storage: Arc::new(local), mirrored: None, buckets });
    }
    let mirrored = MirroredStorage::new(local, remotes, keep)?;
    Ok(Storages { storage: Arc::new(mirrored.clone()), mirrored: Some(mirrored), buckets })
}

fn bucket(
    config: &Config,
    url: &BucketUrl,
    settings: MirrorSettings,
    buckets: &mut Vec<Bucket>,
) -> Result<Arc<S3Storage>> {
    let storage = Arc::new(S3Storage::open(url, &settings.s3)?);
    let bucket = Bucket { storage: Arc::clone(&storage), url: url.clone(), settings };
    let proven = bucket.conditional_writes(&config.state.dir) == Some(ConditionalWrites::Proven);
    storage.set_conditional_writes(proven);
    buckets.push(bucket);
    Ok(storage)
}

impl Storages {
    /// Whether success waits for a mirror.
    pub fn waits_for_mirror(&self) -> bool {
        self.mirrored.as_ref().is_some_and(MirroredStorage::waits)
    }

    /// How fast bytes may move.
    pub fn rates(&self, limits: &LimitsSection) -> Rates {
        Rates::new(self.drivers(), limits)
    }

    /// The buckets' drivers.
    pub fn drivers(&self) -> Vec<Arc<S3Storage>> {
        self.buckets.iter().map(|bucket| Arc::clone(&bucket.storage)).collect()
    }

    /// Requests made so far, bucket by bucket.
    pub fn requests(&self) -> BTreeMap<String, RequestCounts> {
        self.buckets.iter().map(|bucket| (bucket.url.to_string(), bucket.storage.requests())).collect()
    }

    /// Proves that every mirror holds this repository and no other, and what its service does with conditional writes.
    pub fn join(&self, repository: &RepositoryConfig, state_directory: &Path, ask: Ask) -> Result<()> {
        for bucket in &self.buckets {
            let (url, endpoint) = (bucket.url.to_string(), bucket.settings.endpoint());
            let known = LinkState::load(state_directory, &url, endpoint);
            let known = known.filter(|known| known.repository_id == repository.repository_id);
            if ask == Ask::WhatIsUnknown && known.is_some() {
                continue;
            }
            join(repository, &*bucket.storage)?;
            if ask != Ask::Everything && known.is_some() {
                continue;
            }
            let conditional_writes = prove_conditional_writes(&bucket.storage)?;
            let (repository_id, checked) = (repository.repository_id, Timestamp::now());
            let state = LinkState { url, endpoint: endpoint.to_owned(), repository_id, conditional_writes, checked };
            if let Err(error) = state.save(state_directory) {
                tracing::warn!("what was found out about '{}' is not kept: {error}", state.url);
            }
        }
        let Some(mirrored) = &self.mirrored else { return Ok(()) };
        for remote in mirrored.remotes() {
            if !self.buckets.iter().any(|bucket| bucket.storage.location() == remote.storage.location()) {
                join(repository, &*remote.storage)?;
            }
        }
        Ok(())
    }
}

impl Bucket {
    /// What its service was found to do with conditional writes; `None` when nobody looked yet.
    pub fn conditional_writes(&self, state_directory: &Path) -> Option<ConditionalWrites> {
        LinkState::load(state_directory, &self.url.to_string(), self.settings.endpoint())
            .map(|known| known.conditional_writes)
    }
}

/// Writes twice and looks. What does not keep two writers apart is said loudly.
pub fn prove_conditional_writes(bucket: &S3Storage) -> Result<ConditionalWrites> {
    let found = bucket.probe_conditional_writes().context("unable to probe conditional writes")?;
    bucket.set_conditional_writes(found == ConditionalWrites::Proven);
    if found != ConditionalWrites::Proven {
        tracing::warn!(
            "'{}' does not keep two writers apart ({found}): single-writer mode, leases are checked by listing; \
             let no two hosts back up one cluster into it at the same time",
            bucket.location()
        );
    }
    Ok(found)
}

/// Opens the repository that the configuration names.
pub fn open(config: &Config) -> Result<(Storages, Arc<Repository>)> {
    let storages = storages(config)?;
    let repository = Arc::new(Repository::open(Arc::clone(&storages.storage))?);
    Ok((storages, repository))
}
