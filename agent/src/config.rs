//! `walkeep.toml`: read, overlaid with the environment, checked. Past this file nobody sees a raw setting.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where the file is looked for unless `--config` or `WALKEEP_CONFIG` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/walkeep/walkeep.toml";

/// The file could not be used: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// `[cluster]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSection {
    /// Its name in the repository.
    pub name: Option<String>,
    /// The data directory.
    pub pgdata: Option<PathBuf>,
    /// How to connect; default: what `postmaster.pid` in the data directory says.
    pub conninfo: Option<String>,
}

/// `[repository]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepositorySection {
    /// A directory.
    pub path: Option<PathBuf>,
    /// A directory, or a bucket where this build supports one.
    pub url: Option<String>,
}

/// `[compression]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompressionSection {
    /// zstd level.
    pub level: i32,
}

impl Default for CompressionSection {
    fn default() -> Self {
        Self { level: 1 }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Threads of a backup; default: one per core.
    pub jobs: Option<usize>,
    /// Seconds that a backup waits for a WAL segment to be archived.
    pub archive_timeout: Option<u64>,
}

/// `[state]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateSection {
    /// Directory of the index. It can be deleted at any time.
    pub dir: PathBuf,
}

impl Default for StateSection {
    fn default() -> Self {
        Self { dir: PathBuf::from("/var/lib/walkeep") }
    }
}

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which PostgreSQL cluster.
    pub cluster: ClusterSection,
    /// Where backups and WAL go.
    pub repository: RepositorySection,
    /// How hard to compress.
    pub compression: CompressionSection,
    /// How much to use.
    pub limits: LimitsSection,
    /// Where local state lives.
    pub state: StateSection,
}

/// Sections whose keys may also come from `WALKEEP_SECTION_KEY`. Other `WALKEEP_…` variables are none of ours.
const SECTIONS: [&str; 5] = ["cluster", "repository", "compression", "limits", "state"];

impl Config {
    /// Reads the file, lays the environment over it, and refuses keys that mean nothing.
    ///
    /// A missing file at the default place is an empty one; one that was asked for must exist.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        use figment::Figment;
        use figment::providers::{Env, Format, Toml};
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut figment = Figment::new();
        match std::fs::read_to_string(file) {
            Ok(text) => {
                // The parser's own display would show the line, and with it what may be a password.
                if let Err(error) = text.parse::<toml::Table>() {
                    let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count());
                    let (file, problem) = (file.display(), error.message());
                    return Err(
                        ConfigError(format!("unable to use configuration '{file}': line {line}: {problem}")).into()
                    );
                }
                figment = figment.merge(Toml::string(&text));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && path.is_none() => {}
            Err(e) => return Err(ConfigError(format!("unable to read '{}': {e}", file.display())).into()),
        }
        let environment = Env::prefixed("WALKEEP_")
            .filter(|name| {
                SECTIONS.iter().any(|section| name.as_str().to_lowercase().starts_with(&format!("{section}_")))
            })
            .map(|name| name.as_str().replacen('_', ".", 1).into());
        let figment = figment.merge(environment);
        figment.extract().map_err(|error| ConfigError(explain(&error, file)).into())
    }

    /// The cluster's name in the repository.
    pub fn cluster_name(&self) -> &str {
        self.cluster.name.as_deref().unwrap_or("main")
    }

    /// The data directory.
    pub fn pgdata(&self) -> Result<&Path> {
        let missing = || ConfigError("[cluster] pgdata is not set: name the data directory".to_owned());
        Ok(self.cluster.pgdata.as_deref().ok_or_else(missing)?)
    }

    /// The repository's directory.
    pub fn repository_path(&self) -> Result<PathBuf> {
        match (&self.repository.path, &self.repository.url) {
            (Some(path), None) => Ok(path.clone()),
            (None, Some(url)) => local_path(url),
            (None, None) => bail!(ConfigError("[repository] path is not set: name the repository".to_owned())),
            (Some(_), Some(_)) => {
                bail!(ConfigError("[repository] has both path and url: keep the one that is meant".to_owned()))
            }
        }
    }

    /// Threads of a backup.
    pub fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.limits.jobs.filter(|jobs| *jobs > 0).unwrap_or_else(cores)
    }

    /// How long a backup waits for a segment to be archived.
    pub fn archive_timeout(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.limits.archive_timeout.unwrap_or(60))
    }
}

/// The directory that a repository URL names.
pub fn local_path(url: &str) -> Result<PathBuf> {
    if let Some((scheme, _)) = url.split_once("://") {
        bail!(ConfigError(format!("repository '{url}': this build has no driver for {scheme}://, name a directory")));
    }
    std::path::absolute(url).with_context(|| format!("unable to make '{url}' absolute"))
}

/// figment's error with the key, the file, and the nearest key that exists.
fn explain(error: &figment::Error, file: &Path) -> String {
    let mut text = format!("unable to use configuration '{}'", file.display());
    for error in error.clone() {
        let place = error.path.join(".");
        text.push_str(": ");
        match &error.kind {
            figment::error::Kind::UnknownField(name, known) => {
                // figment's path ends at the section or at the key itself.
                let section = place.split('.').next().filter(|section| section != name).unwrap_or_default();
                text.push_str(&format!("unknown key '{}'", key(section, name)));
                let nearest = known
                    .iter()
                    .map(|known| (strsim::damerau_levenshtein(name, known), known))
                    .min()
                    .filter(|(distance, known)| *distance <= known.len().div_ceil(2));
                if let Some((_, nearest)) = nearest {
                    text.push_str(&format!(", did you mean '{}'?", key(section, nearest)));
                }
            }
            kind => text.push_str(&format!("'{place}': {kind}")),
        }
    }
    text
}

/// A key below its section, if it is in one.
fn key(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()))
    }

    #[test]
    fn a_file_reads() {
        let config =
            load("[cluster]\npgdata = '/data'\n[repository]\npath = '/repo'\n[compression]\nlevel = 3").unwrap();
        assert_eq!(config.pgdata().unwrap(), Path::new("/data"));
        assert_eq!(config.repository_path().unwrap(), Path::new("/repo"));
        assert_eq!((config.compression.level, config.cluster_name()), (3, "main"));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = load("[cluster]\npgdta = '/data'").unwrap_err().to_string();
        assert!(error.contains("'cluster.pgdta', did you mean 'cluster.pgdata'?"), "{error}");
        let error = load("[clutser]\npgdata = '/data'").unwrap_err().to_string();
        assert!(error.contains("'clutser', did you mean 'cluster'?"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_its_key() {
        let error = load("[compression]\nlevel = 'high'").unwrap_err().to_string();
        assert!(error.contains("compression.level"), "{error}");
    }

    #[test]
    fn a_bucket_is_refused_by_name() {
        let error = load("[repository]\nurl = 's3://b/p'").unwrap().repository_path().unwrap_err().to_string();
        assert!(error.contains("s3://"), "{error}");
    }
}
