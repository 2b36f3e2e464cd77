//! Where a repository is, as people write it: a directory, or `s3://bucket/prefix`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::s3::S3Storage;
use super::{LocalStorage, Storage};
use crate::error::{Error, Result};

/// A place for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory, absolute.
    Directory(PathBuf),
    /// Objects below a prefix of a bucket.
    Bucket(BucketUrl),
}

/// `s3://bucket/prefix`; the prefix may be empty and never ends in a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    /// The bucket's name.
    pub bucket: String,
    /// What comes before each object key, without slashes around it.
    pub prefix: String,
}

impl FromStr for Place {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let absolute = std::path::absolute(text);
            return absolute.map(Self::Directory).map_err(|e| Error::storage("resolve", text, e));
        };
        if scheme != "s3" {
            return Err(Error::Invalid(format!(
                "repository '{text}': {scheme}:// is unknown, expected a directory or s3://"
            )));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/');
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if bucket.len() < 3 || bucket.len() > 255 || !bucket.chars().all(legal) {
            return Err(Error::Invalid(format!(
                "repository '{text}': '{bucket}' is no bucket name, expected s3://BUCKET/PREFIX"
            )));
        }
        if prefix.split('/').any(|part| part == "." || part == "..") || (prefix.contains("//")) {
            return Err(Error::Invalid(format!("repository '{text}': '{prefix}' is no prefix")));
        }
        Ok(Self::Bucket(BucketUrl { bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

/// How to talk to a bucket. What is not set comes from AWS's own environment variables and profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Options {
    /// Base URL of the service, `https://host:port`; default: AWS.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Whether the bucket's name stands in the path rather than in the host name; default: yes for an own endpoint and
    /// for names that are no host names.
    pub path_style: Option<bool>,
    /// PEM file of the authority that signed the endpoint's certificate; default: the system's.
    pub ca_file: Option<PathBuf>,
    /// Server-side encryption: `AES256` or `aws:kms`.
    pub encryption: Option<String>,
    /// Key for `aws:kms`; default: the account's.
    pub kms_key: Option<String>,
    /// Storage class of packs of data, `packs/`; default: the bucket's.
    pub pack_class: Option<String>,
    /// Storage class of WAL objects; default: the bucket's.
    pub wal_class: Option<String>,
    /// Days for which object lock keeps each object but leases.
    pub lock_days: Option<u32>,
    /// Object lock's mode: `GOVERNANCE` (default) or `COMPLIANCE`.
    pub lock_mode: Option<String>,
    /// Seconds for one request that moves no more than a few MiB; default 30. Larger ones get more.
    pub request_timeout: Option<u64>,
    /// Seconds for one operation with all its repetitions; default 120.
    pub total_timeout: Option<u64>,
}

impl Place {
    /// Opens what is there. For a bucket no request is made.
    pub fn open(&self, options: &S3Options) -> Result<Arc<dyn Storage>> {
        match self {
            Self::Directory(path) => Ok(Arc::new(open_directory(path)?)),
            Self::Bucket(url) => Ok(Arc::new(S3Storage::open(url, options)?)),
        }
    }
}

/// Opens the directory of a repository; one that is missing is said to be that.
pub fn open_directory(path: &Path) -> Result<LocalStorage> {
    LocalStorage::open(path).map_err(|error| match error {
        error if error.is_not_found() => Error::not_found(format_args!("repository '{}'", path.display())),
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, shown) in [
            ("/srv/repo", "/srv/repo"),
            ("s3://bucket", "s3://bucket"),
            ("s3://b.u_cket/a/b/", "s3://b.u_cket/a/b"),
            ("s3://bucket//a", "s3://bucket/a"),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
        }
        for wrong in ["gs://bucket", "s3://", "s3://x", "s3://buc ket", "s3://bucket/a/../b", "s3://bucket/a//b"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }
}
