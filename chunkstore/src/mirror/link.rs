//! Proof that a repository and its mirror are one repository.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::error::{Error, Result};
use crate::repository::{RepositoryConfig, layout};
use crate::storage::{ConditionalWrites, Put, Storage, files};

/// What was once proven about a bucket, kept beside the index so that `archive-push` need not ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// The bucket as a URL.
    pub url: String,
    /// Endpoint it was reached at; empty for AWS.
    pub endpoint: String,
    /// The repository that is in it.
    pub repository_id: Ulid,
    /// What its service does with `If-None-Match: *`.
    pub conditional_writes: ConditionalWrites,
    /// When that was proven.
    pub checked: Timestamp,
}

impl LinkState {
    fn path(directory: &Path, url: &str, endpoint: &str) -> PathBuf {
        let name = blake3::hash(format!("{url}\n{endpoint}").as_bytes()).to_hex();
        directory.join("buckets").join(format!("{}.json", &name[..16]))
    }

    /// What is known of a bucket; `None` when nothing is, or nothing that can be read.
    pub fn load(directory: &Path, url: &str, endpoint: &str) -> Option<Self> {
        let text = std::fs::read(Self::path(directory, url, endpoint)).ok()?;
        let state: Self = serde_json::from_slice(&text).ok()?;
        (state.url == url && state.endpoint == endpoint).then_some(state)
    }

    /// Keeps it.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = Self::path(directory, &self.url, &self.endpoint);
        let text = serde_json::to_vec_pretty(self).expect("a plain structure always serialises");
        files::replace_file(&path, &text)
    }
}

/// Makes sure that `remote` holds the repository that `local` is: copies the description there if the place is empty.
///
/// A place that holds another repository, or something else, is refused.
pub fn join(local: &RepositoryConfig, remote: &dyn Storage) -> Result<()> {
    let key = layout::config()?;
    let text = match remote.get(&key, 1 << 20) {
        Err(error) if error.is_not_found() => {
            if let Some(foreign) = remote.list("")?.first() {
                let problem = format!("it is no repository, yet it holds '{}'", foreign.key);
                return Err(Error::Conflict { object: format!("'{}'", remote.location()), problem });
            }
            if remote.put_if_absent(&key, &local.to_bytes())? == Put::Created {
                return Ok(());
            }
            remote.get(&key, 1 << 20)?
        }
        other => other?,
    };
    let found = RepositoryConfig::parse(&format!("{}/{key}", remote.location()), &text)?;
    if found.repository_id == local.repository_id {
        return Ok(());
    }
    let problem = format!("it holds repository {}, this one is {}", found.repository_id, local.repository_id);
    Err(Error::Conflict { object: format!("'{}'", remote.location()), problem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, ObjectKey};

    #[test]
    fn an_empty_place_is_taken_and_another_repository_is_refused() {
        let now = Timestamp::UNIX_EPOCH;
        let config = RepositoryConfig::generate(now);
        let remote = MemoryStorage::new();
        join(&config, &remote).unwrap();
        join(&config, &remote).unwrap();
        let error = join(&RepositoryConfig::generate(now), &remote).unwrap_err();
        assert!(error.to_string().contains(&config.repository_id.to_string()), "{error}");
        let foreign = MemoryStorage::new();
        foreign.put_if_absent(&ObjectKey::new("holiday.jpg").unwrap(), b"x").unwrap();
        let error = join(&config, &foreign).unwrap_err();
        assert!(error.to_string().contains("holiday.jpg"), "{error}");
    }

    #[test]
    fn what_was_proven_is_kept_for_that_bucket_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = LinkState {
            url: "s3://b/p".to_owned(),
            endpoint: String::new(),
            repository_id: Ulid::generate(),
            conditional_writes: ConditionalWrites::Proven,
            checked: Timestamp::UNIX_EPOCH,
        };
        state.save(directory.path()).unwrap();
        assert_eq!(LinkState::load(directory.path(), "s3://b/p", ""), Some(state));
        assert_eq!(LinkState::load(directory.path(), "s3://b/p", "https://other"), None);
    }
}
