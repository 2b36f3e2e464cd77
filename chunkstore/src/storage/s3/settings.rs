//! What the options of a bucket mean: checked once, before the first request.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};

use super::options::{authorities, class, encryption, endpoint, lock, wrong};
use crate::error::Result;
use crate::repository::layout::{CLUSTERS, INDEX, LEASES, NODES, PACKS};
use crate::storage::{BucketUrl, ObjectKey, S3Options};

/// Seconds for one request when nothing else is set.
const REQUEST_TIMEOUT: u64 = 30;

/// Seconds for one operation with its repetitions when nothing else is set.
const TOTAL_TIMEOUT: u64 = 120;

/// Bytes per second below which a transfer gets no more time: what a bad line still manages.
const SLOWEST_LINE: u64 = 16 << 10;

/// Names below which nothing is ever kept by object lock: leases are rewritten, probes removed.
pub(super) const PROBES: &str = ".probe/";

/// Checked options.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub url: BucketUrl,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub path_style: Option<bool>,
    /// Content of the PEM file of authorities.
    pub authorities: Option<(PathBuf, Vec<u8>)>,
    pub request_timeout: Duration,
    pub total_timeout: Duration,
    encryption: Option<ServerSideEncryption>,
    kms_key: Option<String>,
    pack_class: Option<StorageClass>,
    wal_class: Option<StorageClass>,
    lock: Option<(ObjectLockMode, Duration)>,
}

/// What a new object is to be besides its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Traits {
    pub class: Option<StorageClass>,
    pub encryption: Option<ServerSideEncryption>,
    pub kms_key: Option<String>,
    pub lock: Option<(ObjectLockMode, SystemTime)>,
}

impl Settings {
    /// Checks every value; no request, but the file of authorities is read.
    pub fn new(url: &BucketUrl, options: &S3Options) -> Result<Self> {
        let encryption = encryption(options)?;
        let request = options.request_timeout.unwrap_or(REQUEST_TIMEOUT);
        let total = options.total_timeout.unwrap_or(TOTAL_TIMEOUT.max(request));
        if request == 0 || total < request {
            return Err(wrong(format_args!("request_timeout {request} and total_timeout {total} allow no request")));
        }
        Ok(Self {
            url: url.clone(),
            endpoint: options.endpoint.as_deref().map(endpoint).transpose()?,
            region: options.region.clone(),
            path_style: options.path_style,
            authorities: options.ca_file.as_deref().map(authorities).transpose()?,
            request_timeout: Duration::from_secs(request),
            total_timeout: Duration::from_secs(total),
            encryption,
            kms_key: options.kms_key.clone(),
            pack_class: class("pack_class", options.pack_class.as_deref())?,
            wal_class: class("wal_class", options.wal_class.as_deref())?,
            lock: lock(options)?,
        })
    }

    /// Whether the bucket's name stands in the path.
    pub fn path_style(&self, own_endpoint: bool) -> bool {
        let no_host_name = |c: char| c == '.' || c == '_' || c.is_ascii_uppercase();
        self.path_style.unwrap_or_else(|| own_endpoint || self.url.bucket.contains(no_host_name))
    }

    /// The object's name in the bucket.
    pub fn name(&self, key: &str) -> String {
        if self.url.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.url.prefix) }
    }

    /// The part of an object's name behind our prefix; `None` for names of others.
    pub fn key<'a>(&self, name: &'a str) -> Option<&'a str> {
        if self.url.prefix.is_empty() { Some(name) } else { name.strip_prefix(&self.url.prefix)?.strip_prefix('/') }
    }

    /// The object as people write it.
    pub fn shown(&self, key: &str) -> String {
        format!("s3://{}/{}", self.url.bucket, self.name(key))
    }

    /// What an object of this key is to be.
    pub fn traits(&self, key: &str, now: SystemTime) -> Traits {
        let class = if key.starts_with(PACKS) {
            self.pack_class.clone()
        } else if key.starts_with(CLUSTERS) && key.split('/').nth(2) == Some("wal") {
            self.wal_class.clone()
        } else {
            None
        };
        let rewritten = key.starts_with(LEASES) || key.starts_with(PROBES);
        let lock = self.lock.as_ref().filter(|_| !rewritten);
        Traits {
            class,
            encryption: self.encryption.clone(),
            kms_key: self.kms_key.clone(),
            lock: lock.map(|(mode, time)| (mode.clone(), now + *time)),
        }
    }

    /// Whether new buckets and objects are to be kept by object lock.
    pub fn locks(&self) -> bool {
        self.lock.is_some()
    }

    /// How long an operation that moves `length` bytes may be repeated.
    pub fn patience(&self, length: u64) -> Duration {
        self.total_timeout + Duration::from_secs(length >> 20)
    }

    /// How long the last of these repetitions may take while its bytes still move, `rate` bytes in a second at most.
    pub fn longest(&self, length: u64, rate: Option<u64>) -> Duration {
        // A rate is shared by all transfers that are under way.
        let slowest = rate.map_or(SLOWEST_LINE, |rate| SLOWEST_LINE.min(rate / 64)).max(1);
        self.total_timeout + Duration::from_secs(length / slowest)
    }
}

/// Whether the key says which bytes the object must have: then one of another size is no other writer's.
pub(super) fn named_by_content(key: &ObjectKey) -> bool {
    [PACKS, NODES, INDEX].iter().any(|prefix| key.as_str().starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(prefix: &str) -> BucketUrl {
        BucketUrl { bucket: "bucket".to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn keys_and_names_of_objects() {
        let with = Settings::new(&url("a/b"), &S3Options::default()).unwrap();
        let without = Settings::new(&url(""), &S3Options::default()).unwrap();
        assert_eq!(
            (with.name("packs/00"), without.name("packs/00")),
            ("a/b/packs/00".to_owned(), "packs/00".to_owned())
        );
        assert_eq!(with.key("a/b/packs/00"), Some("packs/00"));
        assert_eq!((with.key("a/bc/packs/00"), with.key("x"), without.key("x")), (None, None, Some("x")));
        assert_eq!(with.shown("x"), "s3://bucket/a/b/x");
    }

    #[test]
    fn names_that_are_no_host_names_stand_in_the_path() {
        for (bucket, own, expected) in [
            ("plain-name", false, false),
            ("plain-name", true, true),
            ("with.dot", false, true),
            ("with_line", false, true),
            ("Upper", false, true),
        ] {
            let url = BucketUrl { bucket: bucket.to_owned(), prefix: String::new() };
            let settings = Settings::new(&url, &S3Options::default()).unwrap();
            assert_eq!(settings.path_style(own), expected, "{bucket}");
        }
        let options = S3Options { path_style: Some(false), ..S3Options::default() };
        assert!(!Settings::new(&url(""), &options).unwrap().path_style(true));
    }

    #[test]
    fn classes_and_locks_follow_the_key() {
        let options = S3Options {
            encryption: Some("aws:kms".to_owned()),
            kms_key: Some("alias/x".to_owned()),
            pack_class: Some("STANDARD_IA".to_owned()),
            wal_class: Some("GLACIER_IR".to_owned()),
            lock_days: Some(2),
            ..S3Options::default()
        };
        let settings = Settings::new(&url("p"), &options).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        let until = Some((ObjectLockMode::Governance, now + Duration::from_secs(2 * 24 * 3600)));
        let traits = |key: &str| settings.traits(key, now);
        assert_eq!(traits("packs/00/00").class, Some(StorageClass::StandardIa));
        assert_eq!(traits("nodes/00/00").class, None);
        assert_eq!(traits("clusters/main/wal/00000001/x").class, Some(StorageClass::GlacierIr));
        assert_eq!(traits("clusters/wal/backups/x").class, None);
        assert_eq!((traits("packs/00/00").lock, traits("walkeep.json").lock), (until.clone(), until));
        assert_eq!((traits("leases/backup/x").lock, traits(".probe/x").lock), (None, None));
        assert_eq!(traits("leases/backup/x").kms_key.as_deref(), Some("alias/x"));
    }
}
