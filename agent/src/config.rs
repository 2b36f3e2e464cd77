//! `walkeep.toml`: read, overlaid with the environment, checked. Past this file nobody sees a raw setting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::mirror::Durability;
use walkeep_chunkstore::storage::{BucketUrl, Place, S3Options};

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

/// `[mirror]` and `[mirror2]`: a second place for the repository. Where `[repository] url` is a bucket, `[mirror]` without
/// a `url` says how to talk to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MirrorSection {
    /// A bucket or a directory.
    pub url: Option<String>,
    /// Whether archive-push and backup wait for it.
    pub durability: Option<Durability>,
    /// How long packs and WAL stay in the local repository after they were mirrored; default: for ever.
    pub local_window: Option<String>,
    /// Base URL of the service; default: AWS.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Whether the bucket's name stands in the path.
    pub path_style: Option<bool>,
    /// PEM file of the authority that signed the endpoint's certificate.
    pub ca_file: Option<PathBuf>,
    /// Server-side encryption: `AES256` or `aws:kms`.
    pub encryption: Option<String>,
    /// Key for `aws:kms`.
    pub kms_key: Option<String>,
    /// Storage class of packs of data.
    pub pack_class: Option<String>,
    /// Storage class of WAL.
    pub wal_class: Option<String>,
    /// Days for which object lock keeps each object but leases.
    pub lock_days: Option<u32>,
    /// Object lock's mode.
    pub lock_mode: Option<String>,
    /// Seconds for one small request.
    pub request_timeout: Option<u64>,
    /// Seconds for one operation with all its repetitions.
    pub total_timeout: Option<u64>,
}

impl MirrorSection {
    fn s3(&self) -> S3Options {
        let this = self.clone();
        S3Options {
            endpoint: this.endpoint,
            region: this.region,
            path_style: this.path_style,
            ca_file: this.ca_file,
            encryption: this.encryption,
            kms_key: this.kms_key,
            pack_class: this.pack_class,
            wal_class: this.wal_class,
            lock_days: this.lock_days,
            lock_mode: this.lock_mode,
            request_timeout: this.request_timeout,
            total_timeout: this.total_timeout,
        }
    }
}

/// A mirror, checked.
#[derive(Clone, Debug)]
pub struct MirrorSettings {
    /// Where it is.
    pub place: Place,
    /// Whether success waits for it.
    pub durability: Durability,
    /// How long what it has stays here.
    pub local_window: Option<Duration>,
    /// How to talk to it.
    pub s3: S3Options,
}

impl MirrorSettings {
    /// The endpoint as it was configured; empty for AWS's own.
    pub fn endpoint(&self) -> &str {
        self.s3.endpoint.as_deref().unwrap_or_default()
    }
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
    /// Bytes per second that go to buckets.
    pub upload_rate: Option<ByteRate>,
    /// Bytes per second that are read: by a backup from the data directory, and from buckets.
    pub read_rate: Option<ByteRate>,
}

/// Bytes per second: a number, or one with KiB, MiB or GiB behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RateText", into = "u64")]
pub struct ByteRate(std::num::NonZeroU64);

impl ByteRate {
    /// The number.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl From<ByteRate> for u64 {
    fn from(rate: ByteRate) -> Self {
        rate.bytes()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RateText {
    Number(u64),
    Text(String),
}

impl TryFrom<RateText> for ByteRate {
    type Error = String;

    fn try_from(rate: RateText) -> Result<Self, String> {
        let bytes = match rate {
            RateText::Number(bytes) => Some(bytes),
            RateText::Text(ref text) => {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let unit = match unit.trim().trim_end_matches("/s") {
                    "" | "B" => Some(1),
                    "KiB" | "K" => Some(1 << 10),
                    "MiB" | "M" => Some(1 << 20),
                    "GiB" | "G" => Some(1 << 30),
                    _ => None,
                };
                unit.and_then(|unit: u64| number.parse::<u64>().ok()?.checked_mul(unit))
            }
        };
        let positive = bytes.and_then(std::num::NonZeroU64::new);
        positive.map(Self).ok_or_else(|| "expected bytes per second above 0, like 50MiB".to_owned())
    }
}

/// `[metrics]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsSection {
    /// Address and port at which the agent answers `GET /metrics`; default: it does not.
    pub listen: Option<std::net::SocketAddr>,
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
    /// A second place for them.
    pub mirror: MirrorSection,
    /// A third.
    pub mirror2: MirrorSection,
    /// How hard to compress.
    pub compression: CompressionSection,
    /// How much to use.
    pub limits: LimitsSection,
    /// What the agent tells a monitoring system.
    pub metrics: MetricsSection,
    /// Where local state lives.
    pub state: StateSection,
}

/// Sections whose keys may also come from `WALKEEP_SECTION_KEY`. Other `WALKEEP_…` variables are none of ours.
const SECTIONS: [&str; 8] = ["cluster", "repository", "mirror", "mirror2", "compression", "limits", "metrics", "state"];

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

    /// Where the repository is.
    pub fn repository_place(&self) -> Result<Place> {
        match (&self.repository.path, &self.repository.url) {
            (Some(path), None) => {
                Ok(Place::Directory(std::path::absolute(path).context("unable to make a path absolute")?))
            }
            (None, Some(url)) => place(url),
            (None, None) => bail!(ConfigError("[repository] path is not set: name the repository".to_owned())),
            (Some(_), Some(_)) => {
                bail!(ConfigError("[repository] has both path and url: keep the one that is meant".to_owned()))
            }
        }
    }

    /// The mirrors, in the order of their sections.
    pub fn mirrors(&self) -> Result<Vec<MirrorSettings>> {
        let sections = [("mirror", &self.mirror), ("mirror2", &self.mirror2)];
        let mut mirrors = Vec::new();
        for (name, section) in sections {
            let Some(url) = &section.url else { continue };
            let place = place(url)?;
            if place == self.repository_place()? {
                bail!(ConfigError(format!("[{name}] url is the repository itself: '{place}'")));
            }
            let local_window = section.local_window.as_deref().map(|text| window(name, text)).transpose()?;
            let durability = section.durability.unwrap_or_default();
            mirrors.push(MirrorSettings { place, durability, local_window, s3: section.s3() });
        }
        Ok(mirrors)
    }

    /// How to talk to the bucket that `[repository] url` names: `[mirror]`'s keys, unless that is a mirror of its own.
    /// Success waits for the bucket unless `durability` says otherwise.
    pub fn bucket_settings(&self) -> Result<MirrorSettings> {
        let durability = self.mirror.durability.unwrap_or(Durability::Mirror);
        Ok(MirrorSettings { place: self.repository_place()?, durability, local_window: None, s3: self.mirror.s3() })
    }

    /// Where objects wait that are on their way to the bucket.
    pub fn spool(&self, url: &BucketUrl) -> PathBuf {
        let name: String = url.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.state.dir.join("spool").join(name)
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

/// The place that a URL of the configuration names.
fn place(url: &str) -> Result<Place> {
    url.parse::<Place>().map_err(|error| ConfigError(error.to_string()).into())
}

/// A length of time like `7d` or `36h`; months and years have no length of their own.
fn window(section: &str, text: &str) -> Result<Duration> {
    let length =
        text.parse::<jiff::Span>().and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()));
    let wrong =
        || ConfigError(format!("[{section}] local_window '{text}' is no length of time: expected one like '7d'"));
    Ok(length.ok().and_then(|length| Duration::try_from(length).ok()).ok_or_else(wrong)?)
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
        assert_eq!(config.repository_place().unwrap().to_string(), "/repo");
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
    fn a_bucket_and_its_mirrors_are_read() {
        let text = "[repository]\nurl = 's3://bucket/p'\n[mirror]\nendpoint = 'http://x'\n\
                    [mirror2]\nurl = 's3://other'\nlocal_window = '7d'\n[limits]\nupload_rate = '2MiB'";
        let config = load(text).unwrap();
        assert_eq!(config.repository_place().unwrap().to_string(), "s3://bucket/p");
        let settings = config.bucket_settings().unwrap();
        assert_eq!((settings.endpoint(), settings.durability), ("http://x", Durability::Mirror));
        let mirrors = config.mirrors().unwrap();
        assert_eq!((mirrors.len(), mirrors[0].durability), (1, Durability::Local));
        assert_eq!(mirrors[0].local_window, Some(Duration::from_secs(7 * 86400)));
        assert_eq!(config.limits.upload_rate.map(ByteRate::bytes), Some(2 << 20));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let error = load("[repository]\nurl = 'gs://bucket'").unwrap().repository_place().unwrap_err().to_string();
        assert!(error.contains("gs://"), "{error}");
        let error = load("[limits]\nupload_rate = 'fast'").unwrap_err().to_string();
        assert!(error.contains("limits.upload_rate"), "{error}");
        let config = load("[repository]\npath = '/r'\n[mirror]\nurl = '/r'").unwrap();
        assert!(config.mirrors().unwrap_err().to_string().contains("repository itself"));
    }
}
