//! `walkeep.toml`: read, overlaid with the environment, checked. Past this file nobody sees a raw setting.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::mirror::Durability;
use walkeep_chunkstore::storage::{BucketUrl, Place, S3Options};

use crate::postgres::conninfo_for;

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
#[serde(try_from = "BytesText", into = "u64")]
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

impl TryFrom<BytesText> for ByteRate {
    type Error = String;

    fn try_from(rate: BytesText) -> Result<Self, String> {
        rate.above_0("/s").map(Self).ok_or_else(|| "expected bytes per second above 0, like 50MiB".to_owned())
    }
}

/// Bytes: a number, or one with KiB, MiB, GiB or TiB behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BytesText", into = "u64")]
pub struct ByteCount(std::num::NonZeroU64);

impl ByteCount {
    /// The number.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl From<ByteCount> for u64 {
    fn from(count: ByteCount) -> Self {
        count.bytes()
    }
}

impl TryFrom<BytesText> for ByteCount {
    type Error = String;

    fn try_from(count: BytesText) -> Result<Self, String> {
        count.above_0("").map(Self).ok_or_else(|| "expected bytes above 0, like 50GiB".to_owned())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BytesText {
    Number(u64),
    Text(String),
}

impl BytesText {
    /// The number of bytes; `suffix` may stand behind the unit.
    fn above_0(&self, suffix: &str) -> Option<std::num::NonZeroU64> {
        let bytes = match self {
            Self::Number(bytes) => *bytes,
            Self::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let unit = unit.trim();
                let unit: u64 = match unit.strip_suffix(suffix).unwrap_or(unit) {
                    "" | "B" => 1,
                    "KiB" | "K" => 1 << 10,
                    "MiB" | "M" => 1 << 20,
                    "GiB" | "G" => 1 << 30,
                    "TiB" | "T" => 1 << 40,
                    _ => return None,
                };
                number.parse::<u64>().ok()?.checked_mul(unit)?
            }
        };
        std::num::NonZeroU64::new(bytes)
    }
}

/// `[stream]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StreamSection {
    /// Whether the agent streams WAL; default: yes.
    pub enabled: Option<bool>,
    /// Name of the replication slot that keeps WAL on the server; empty: none. Default: `walkeep`.
    pub slot: Option<String>,
    /// Whether commits may wait for the agent: it takes the name that `synchronous_standby_names` lists.
    pub synchronous: Option<bool>,
    /// The `application_name` of the stream; default: `walkeep`, and `walkeep_async` where commits do not wait.
    pub application_name: Option<String>,
    /// How often the open segment is taken into the repository, like `5s`.
    pub tail_interval: Option<String>,
    /// Whether a standby may be streamed from.
    pub standby: Option<bool>,
}

/// `[stream]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// The retention slot's name, if there is to be one.
    pub slot: Option<String>,
    /// Whether commits may wait for the agent.
    pub synchronous: bool,
    /// The stream's `application_name`.
    pub application_name: String,
    /// How often the open segment is stored.
    pub tail_interval: Duration,
    /// Whether a standby may be streamed from.
    pub standby: bool,
}

/// `[schedule]`: when the agent takes base backups by itself. Without `base_backup`, `max_age` and `max_wal` it takes none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleSection {
    /// Cron expression of five fields, read in `timezone`.
    pub base_backup: Option<String>,
    /// Name in the IANA time zone database; default: the system's time zone.
    pub timezone: Option<String>,
    /// How old the newest base backup may become, like `7d`.
    pub max_age: Option<String>,
    /// How much WAL may follow the newest base backup, like `50GiB`.
    pub max_wal: Option<ByteCount>,
    /// How long a base backup may take; default: `24h`.
    pub deadline: Option<String>,
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
    /// How WAL is streamed.
    pub stream: StreamSection,
    /// How hard to compress.
    pub compression: CompressionSection,
    /// How much to use.
    pub limits: LimitsSection,
    /// When base backups are taken.
    pub schedule: ScheduleSection,
    /// What the agent tells a monitoring system.
    pub metrics: MetricsSection,
    /// Where local state lives.
    pub state: StateSection,
}

/// Sections whose keys may also come from `WALKEEP_SECTION_KEY`. Other `WALKEEP_…` variables are none of ours.
const SECTIONS: [&str; 10] =
    ["cluster", "repository", "mirror", "mirror2", "stream", "schedule", "compression", "limits", "metrics", "state"];

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

    /// How to connect to the cluster: as configured, else where the data directory's server listens now.
    pub fn conninfo(&self) -> Result<String> {
        match &self.cluster.conninfo {
            Some(conninfo) => Ok(conninfo.clone()),
            None => conninfo_for(self.pgdata()?),
        }
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
            let window = |text| length_of_time(&format!("[{name}] local_window"), text);
            let local_window = section.local_window.as_deref().map(window).transpose()?;
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

    /// How WAL is streamed; `None` where it is not.
    pub fn stream_settings(&self) -> Result<Option<StreamSettings>> {
        let section = &self.stream;
        if section.enabled == Some(false) {
            return Ok(None);
        }
        let tail_interval = section.tail_interval.as_deref().unwrap_or("5s");
        let tail_interval = length_of_time("[stream] tail_interval", tail_interval)?;
        if tail_interval.is_zero() {
            bail!(ConfigError("[stream] tail_interval is 0: expected a length of time like '5s'".to_owned()));
        }
        let slot = section.slot.clone().unwrap_or_else(|| "walkeep".to_owned());
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if slot.len() > 63 || !slot.bytes().all(legal) {
            bail!(ConfigError(format!(
                "[stream] slot '{slot}' is no name of a replication slot: expected up to 63 lower-case letters, digits or '_'"
            )));
        }
        let synchronous = section.synchronous.unwrap_or(false);
        let usual_name = if synchronous { "walkeep" } else { "walkeep_async" };
        Ok(Some(StreamSettings {
            slot: Some(slot).filter(|slot| !slot.is_empty()),
            synchronous,
            application_name: section.application_name.clone().unwrap_or_else(|| usual_name.to_owned()),
            tail_interval,
            standby: section.standby.unwrap_or(false),
        }))
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

/// A length of time like `7d` or `36h`; months and years have no length of their own. `key` is the one it stands at, with
/// its section: `[schedule] max_age`.
pub fn length_of_time(key: &str, text: &str) -> Result<Duration> {
    let length =
        text.parse::<jiff::Span>().and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()));
    let wrong = || ConfigError(format!("{key} '{text}' is no length of time: expected one like '7d'"));
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
    fn sizes_and_lengths_of_time_are_read() {
        let config = load("[schedule]\nmax_wal = '2 TiB'\nmax_age = '1w 2d'").unwrap();
        assert_eq!(config.schedule.max_wal.map(ByteCount::bytes), Some(2 << 40));
        let config = load("[schedule]\nmax_wal = 5000\n[limits]\nread_rate = '3 KiB/s'").unwrap();
        assert_eq!(config.schedule.max_wal.map(ByteCount::bytes), Some(5000));
        assert_eq!(config.limits.read_rate.map(ByteRate::bytes), Some(3072));
        assert!(load("[schedule]\nmax_wal = '3 KiB/s'").is_err());
        assert!(load("[schedule]\nmax_wal = 0").is_err());
        assert_eq!(length_of_time("k", "1w 2d").unwrap(), Duration::from_secs(9 * 86400));
        for wrong in ["", "7", "1 month", "-1h", "soon"] {
            let error = length_of_time("[schedule] max_age", wrong).unwrap_err().to_string();
            assert!(error.starts_with(&format!("[schedule] max_age '{wrong}' is no length of time")), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let error = load("[repository]\nurl = 'gs://bucket'").unwrap().repository_place().unwrap_err().to_string();
        assert!(error.contains("gs://"), "{error}");
        let error = load("[limits]\nupload_rate = 'fast'").unwrap_err().to_string();
        assert!(error.contains("limits.upload_rate"), "{error}");
        let error = load("[schedule]\nmax_wal = '50 gigabytes'").unwrap_err().to_string();
        assert!(error.contains("schedule.max_wal") && error.contains("like 50GiB"), "{error}");
        let error = load("[schedule]\nbase_backups = '0 3 * * *'").unwrap_err().to_string();
        assert!(error.contains("'schedule.base_backups', did you mean 'schedule.base_backup'?"), "{error}");
        let config = load("[repository]\npath = '/r'\n[mirror]\nurl = '/r'").unwrap();
        assert!(config.mirrors().unwrap_err().to_string().contains("repository itself"));
    }
}
