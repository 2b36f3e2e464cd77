//! Which repository is meant, and opening it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::LocalStorage;

use crate::cli::RepositoryArgs;
use crate::failure::Refusal;

/// The repository's URL and the cluster's name, from the command line, the environment or the configuration file.
pub struct Place {
    /// A directory.
    pub directory: PathBuf,
    /// The cluster, if one was named.
    pub cluster: Option<String>,
}

impl Place {
    /// Takes the first of command line, environment and configuration file.
    pub fn find(args: &RepositoryArgs) -> Result<Self> {
        let (mut url, mut cluster) = (args.repo.clone(), args.cluster.clone());
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        url = url.or_else(|| variable("WALKEEP_REPOSITORY_URL")).or_else(|| variable("WALKEEP_REPOSITORY_PATH"));
        cluster = cluster.or_else(|| variable("WALKEEP_CLUSTER_NAME"));
        if let Some(config) = &args.config {
            let (config_url, config_cluster) = read_config(config)?;
            url = url.or(config_url);
            cluster = cluster.or(config_cluster);
        }
        let Some(url) = url else {
            let refusal = Refusal::new(Exit::Usage, "no repository is named");
            return Err(refusal.hint("name it with --repo DIR, or set WALKEEP_REPOSITORY_PATH").into());
        };
        Ok(Self { directory: directory(&url)?, cluster })
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let shown = self.directory.display();
        let storage = match LocalStorage::open(&self.directory) {
            Err(error) if error.is_not_found() => {
                let message = format!("unable to open repository '{shown}': there is no such directory");
                return Err(Refusal::new(Exit::Unreachable, message).hint("is it mounted?").into());
            }
            other => other.with_context(|| format!("unable to open repository '{shown}'"))?,
        };
        Ok(Arc::new(
            Repository::open(Arc::new(storage)).with_context(|| format!("unable to open repository '{shown}'"))?,
        ))
    }
}

fn directory(url: &str) -> Result<PathBuf> {
    if let Some((scheme, _)) = url.split_once("://") {
        let message = format!("'{url}': {scheme}:// repositories are not supported by this build");
        return Err(Refusal::new(Exit::Usage, message)
            .hint("give a local directory that holds a copy of the repository")
            .into());
    }
    std::path::absolute(url).with_context(|| format!("unable to resolve '{url}'"))
}

/// The two things that a restore needs of the agent's configuration; the agent itself checks the rest.
fn read_config(path: &Path) -> Result<(Option<String>, Option<String>)> {
    let refuse = |problem: String| {
        Refusal::new(Exit::Configuration, format!("unable to read configuration '{}': {problem}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| refuse(e.message().to_owned()))?;
    let text = |section: &str, key: &str| {
        table.get(section).and_then(|section| section.get(key)).and_then(|value| value.as_str()).map(str::to_owned)
    };
    Ok((text("repository", "url").or_else(|| text("repository", "path")), text("cluster", "name")))
}
