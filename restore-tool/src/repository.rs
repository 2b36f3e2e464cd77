//! Which repository is meant, and opening it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::{Repository, layout};
use walkeep_chunkstore::storage::{self, S3Options, Storage};

use crate::cli::{RepositoryArgs, S3Args};
use crate::failure::Refusal;

/// The repository's URL and the cluster's name, from the command line, the environment or the configuration file.
pub struct Place {
    /// A directory or a bucket.
    pub url: storage::Place,
    /// How to talk to a bucket.
    pub s3: S3Options,
    /// The cluster, if one was named.
    pub cluster: Option<String>,
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Place {
    /// Takes the first of command line, environment and configuration file.
    pub fn find(args: &RepositoryArgs) -> Result<Self> {
        let (mut url, mut cluster) = (args.repo.clone(), args.cluster.clone());
        url = url.or_else(|| variable("WALKEEP_REPOSITORY_URL")).or_else(|| variable("WALKEEP_REPOSITORY_PATH"));
        cluster = cluster.or_else(|| variable("WALKEEP_CLUSTER_NAME"));
        let mut s3 = bucket_options(&args.s3, variable)?;
        if let Some(path) = &args.config {
            let config = Configured::read(path)?;
            url = url.or(config.url);
            cluster = cluster.or(config.cluster);
            s3 = S3Options {
                endpoint: s3.endpoint.or(config.s3.endpoint),
                region: s3.region.or(config.s3.region),
                path_style: s3.path_style.or(config.s3.path_style),
                ca_file: s3.ca_file.or(config.s3.ca_file),
                ..S3Options::default()
            };
        }
        let Some(url) = url else {
            let refusal = Refusal::new(Exit::Usage, "no repository is named");
            return Err(refusal.hint("name it with --repo URL, or set WALKEEP_REPOSITORY_URL").into());
        };
        // What PostgreSQL runs, it runs in the data directory.
        if let Some(file) = &mut s3.ca_file {
            *file = std::path::absolute(&*file).with_context(|| format!("unable to resolve '{}'", file.display()))?;
        }
        Ok(Self { url: url.parse()?, s3, cluster })
    }

    /// Whether it is a bucket.
    pub fn is_bucket(&self) -> bool {
        matches!(self.url, storage::Place::Bucket(_))
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Arc<Repository>> {
        let unable = format!("unable to open repository '{}'", self.url);
        let storage = match self.url.open(&self.s3) {
            Err(error) if error.is_not_found() => {
                let message = format!("{unable}: there is no such directory");
                return Err(Refusal::new(Exit::Unreachable, message).hint("is it mounted?").into());
            }
            other => other.with_context(|| unable.clone())?,
        };
        match Repository::open(Arc::clone(&storage)) {
            Err(Error::NotFound { .. }) if self.is_bucket() => {
                let message = format!("{unable}: there is no repository");
                let hint = "check the bucket's name and the prefix: the service answers, but has no walkeep.json there";
                Err(Refusal::new(Exit::NotFound, message).hint(hint).into())
            }
            Err(Error::Damaged { .. }) if self.is_bucket() && is_web_page(&*storage) => {
                let message = format!("{unable}: a web page came for walkeep.json");
                let hint = "check the endpoint: the service that answers there is not S3";
                Err(Refusal::new(Exit::Unreachable, message).hint(hint).into())
            }
            other => Ok(Arc::new(other.context(unable)?)),
        }
    }
}

/// Whether a server sends a page for what should be the repository's description.
fn is_web_page(storage: &dyn Storage) -> bool {
    let text = layout::config().and_then(|key| storage.get(&key, 1 << 20)).unwrap_or_default();
    text.trim_ascii_start().starts_with(b"<")
}

/// The options of command line and environment.
fn bucket_options(args: &S3Args, variable: impl Fn(&str) -> Option<String>) -> Result<S3Options> {
    let path_style = match variable("WALKEEP_MIRROR_PATH_STYLE").filter(|_| args.path_style.is_none()) {
        None => args.path_style,
        Some(text) => Some(text.parse().map_err(|_| {
            Refusal::new(Exit::Configuration, format!("WALKEEP_MIRROR_PATH_STYLE is '{text}', expected true or false"))
        })?),
    };
    Ok(S3Options {
        endpoint: args.endpoint.clone().or_else(|| variable("WALKEEP_MIRROR_ENDPOINT")),
        region: args.region.clone().or_else(|| variable("WALKEEP_MIRROR_REGION")),
        path_style,
        ca_file: args.ca_file.clone().or_else(|| variable("WALKEEP_MIRROR_CA_FILE").map(Into::into)),
        ..S3Options::default()
    })
}

/// What a restore needs of the agent's configuration; the agent itself checks the rest.
struct Configured {
    url: Option<String>,
    cluster: Option<String>,
    s3: S3Options,
}

impl Configured {
    fn read(path: &Path) -> Result<Self> {
        let refuse = |problem: String| {
            Refusal::new(Exit::Configuration, format!("unable to read configuration '{}': {problem}", path.display()))
        };
        let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| refuse(e.message().to_owned()))?;
        let value = |section: &str, key: &str| table.get(section).and_then(|section| section.get(key));
        let text = |section: &str, key: &str| value(section, key).and_then(|value| value.as_str()).map(str::to_owned);
        Ok(Self {
            url: text("repository", "url").or_else(|| text("repository", "path")),
            cluster: text("cluster", "name"),
            s3: S3Options {
                endpoint: text("mirror", "endpoint"),
                region: text("mirror", "region"),
                path_style: value("mirror", "path_style").and_then(toml::Value::as_bool),
                ca_file: text("mirror", "ca_file").map(Into::into),
                ..S3Options::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &S3Args, variables: &[(&str, &str)]) -> Result<S3Options> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        bucket_options(args, find)
    }

    #[test]
    fn the_command_line_comes_before_the_environment() {
        let variables = [
            ("WALKEEP_MIRROR_ENDPOINT", "http://environment"),
            ("WALKEEP_MIRROR_REGION", "eu-1"),
            ("WALKEEP_MIRROR_PATH_STYLE", "false"),
            ("WALKEEP_MIRROR_CA_FILE", "/etc/ca.pem"),
        ];
        let found = options(&S3Args::default(), &variables).unwrap();
        assert_eq!(found.endpoint.as_deref(), Some("http://environment"));
        assert_eq!((found.path_style, found.ca_file.as_deref()), (Some(false), Some(Path::new("/etc/ca.pem"))));
        let args = S3Args { endpoint: Some("http://line".to_owned()), path_style: Some(true), ..S3Args::default() };
        let found = options(&args, &variables).unwrap();
        assert_eq!((found.endpoint.as_deref(), found.path_style), (Some("http://line"), Some(true)));
        assert_eq!(found.region.as_deref(), Some("eu-1"));
        assert_eq!(options(&S3Args::default(), &[]).unwrap(), S3Options::default());
        assert!(options(&S3Args::default(), &[("WALKEEP_MIRROR_PATH_STYLE", "perhaps")]).is_err());
    }

    #[test]
    fn the_configuration_comes_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text =
            "[repository]\nurl = 's3://bucket/p'\n[mirror]\nregion = 'eu-2'\npath_style = true\nca_file = 'ca.pem'\n";
        std::fs::write(file.path(), text).unwrap();
        let s3 = S3Args { region: Some("eu-1".to_owned()), ..S3Args::default() };
        let args = RepositoryArgs { repo: None, s3, cluster: None, config: Some(file.path().to_owned()) };
        let place = Place::find(&args).unwrap();
        assert_eq!((place.url.to_string().as_str(), place.is_bucket()), ("s3://bucket/p", true));
        assert_eq!((place.s3.region.as_deref(), place.s3.path_style), (Some("eu-1"), Some(true)));
        assert!(place.s3.ca_file.unwrap().is_absolute(), "PostgreSQL runs restore_command elsewhere");
    }

    #[test]
    fn a_web_page_is_no_description() {
        let storage = storage::MemoryStorage::new();
        assert!(!is_web_page(&storage));
        for (text, is_page) in [("{\"format\": 1}", false), ("", false), ("\n <!doctype html><p>Welcome", true)] {
            storage.overwrite(&layout::config().unwrap(), text.as_bytes()).unwrap();
            assert_eq!(is_web_page(&storage), is_page, "{text}");
        }
    }
}
