//! Both ends of a copy: which places are meant, and how to talk to them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use walkeep_chunkstore::Error;
use walkeep_chunkstore::mirror::join;
use walkeep_chunkstore::repository::{RepositoryConfig, layout};
use walkeep_chunkstore::storage::{LocalStorage, MemoryStorage, Place, RequestCounts, S3Options, S3Storage, Storage};

use crate::cli::{FromS3Args, S3Args, SyncArgs};
use crate::config::Config;
use crate::repository::{self, Storages};

/// Where a repository is copied from.
pub struct Source {
    /// The place.
    pub place: Place,
    /// What is there.
    pub storage: Arc<dyn Storage>,
    endpoint: Option<String>,
    kind: Kind,
}

enum Kind {
    Configured(Box<Storages>),
    Directory,
    Bucket(Arc<S3Storage>),
}

impl Source {
    /// Opens `--from`, else the configured repository with all its places.
    pub fn open(config: &Config, args: &SyncArgs) -> Result<Self> {
        let Some(url) = &args.from else {
            let (place, storages) = (config.repository_place()?, repository::storages(config)?);
            let endpoint = known_options(config, &place)?.unwrap_or_default().endpoint;
            let storage = Arc::clone(&storages.storage);
            return Ok(Self { place, storage, endpoint, kind: Kind::Configured(Box::new(storages)) });
        };
        let place: Place = url.parse()?;
        let known = known_options(config, &place)?.unwrap_or_else(|| overlay(S3Options::default(), &args.s3));
        let options = overlay(known, &of_source(&args.from_s3));
        let (storage, kind): (Arc<dyn Storage>, Kind) = match &place {
            Place::Directory(_) => (place.open(&options)?, Kind::Directory),
            Place::Bucket(url) => {
                let bucket = Arc::new(S3Storage::open(url, &options)?);
                (bucket.clone(), Kind::Bucket(bucket))
            }
        };
        Ok(Self { place, storage, endpoint: options.endpoint, kind })
    }

    /// The buckets among its places.
    pub fn buckets(&self) -> Vec<Arc<S3Storage>> {
        match &self.kind {
            Kind::Configured(storages) => storages.drivers(),
            Kind::Directory => Vec::new(),
            Kind::Bucket(bucket) => vec![Arc::clone(bucket)],
        }
    }

    /// Requests made so far, bucket by bucket.
    pub fn requests(&self) -> BTreeMap<String, RequestCounts> {
        match &self.kind {
            Kind::Configured(storages) => storages.requests(),
            Kind::Directory => BTreeMap::new(),
            Kind::Bucket(bucket) => BTreeMap::from([(self.place.to_string(), bucket.requests())]),
        }
    }
}

/// Where a repository is copied to.
pub struct Target {
    /// The place.
    pub place: Place,
    /// What is there.
    pub storage: Arc<dyn Storage>,
    bucket: Option<Arc<S3Storage>>,
}

impl Target {
    /// Opens `--to` and makes sure that it is empty or holds this repository; then it does. A dry run changes nothing.
    pub fn open(config: &Config, args: &SyncArgs, source: &Source, repository: &RepositoryConfig) -> Result<Self> {
        let place: Place = args.to.parse()?;
        let known = known_options(config, &place)?;
        // The same name at another service is another bucket.
        let known = known.filter(|known| args.s3.endpoint.is_none() || known.endpoint == args.s3.endpoint);
        let options = overlay(known.unwrap_or_default(), &args.s3);
        check_apart(&source.place, &place, source.endpoint == options.endpoint)?;
        let (storage, bucket): (Arc<dyn Storage>, _) = match &place {
            Place::Directory(path) => (directory(path, args.dry_run)?, None),
            Place::Bucket(url) => {
                let bucket = Arc::new(S3Storage::open(url, &options)?);
                if !args.dry_run {
                    prepare(&bucket, args.create_bucket)?;
                }
                (bucket.clone(), Some(bucket))
            }
        };
        let untouched = || Ok::<_, Error>(storage.size(&layout::config()?)?.is_none() && storage.list("")?.is_empty());
        if !(args.dry_run && untouched()?) {
            join(repository, &*storage)?;
        }
        Ok(Self { place, storage, bucket })
    }

    /// The bucket, if it is one.
    pub fn bucket(&self) -> Option<Arc<S3Storage>> {
        self.bucket.clone()
    }

    /// Requests made so far.
    pub fn requests(&self) -> BTreeMap<String, RequestCounts> {
        self.bucket.iter().map(|bucket| (self.place.to_string(), bucket.requests())).collect()
    }
}

fn directory(path: &Path, dry_run: bool) -> Result<Arc<dyn Storage>> {
    if !dry_run {
        return Ok(Arc::new(LocalStorage::create(path)?));
    }
    match LocalStorage::open(path) {
        Err(error) if error.is_not_found() => Ok(Arc::new(MemoryStorage::new())),
        other => Ok(Arc::new(other?)),
    }
}

/// Creates the bucket if that was asked for, and finds out whether it can refuse to overwrite.
fn prepare(bucket: &S3Storage, create: bool) -> Result<()> {
    if create {
        bucket.create_bucket()?;
    }
    bucket.check()?;
    repository::prove_conditional_writes(bucket).map(drop)
}

/// What the configuration says about a bucket that it names.
fn known_options(config: &Config, place: &Place) -> Result<Option<S3Options>> {
    if config.repository.path.is_none() && config.repository.url.is_none() {
        return Ok(None);
    }
    if config.repository_place()? == *place {
        return Ok(Some(config.bucket_settings()?.s3));
    }
    Ok(config.mirrors()?.into_iter().find(|mirror| mirror.place == *place).map(|mirror| mirror.s3))
}

/// What was given on the command line, over what is known.
fn overlay(known: S3Options, given: &S3Args) -> S3Options {
    let given = given.clone();
    S3Options {
        endpoint: given.endpoint.or(known.endpoint),
        region: given.region.or(known.region),
        path_style: given.path_style.or(known.path_style),
        ca_file: given.ca_file.or(known.ca_file),
        ..known
    }
}

fn of_source(given: &FromS3Args) -> S3Args {
    let given = given.clone();
    S3Args {
        endpoint: given.from_endpoint,
        region: given.from_region,
        path_style: given.from_path_style,
        ca_file: given.from_ca_file,
    }
}

/// Refuses a place that is the source, lies in it, or around it.
fn check_apart(from: &Place, to: &Place, same_service: bool) -> Result<()> {
    let overlap = match (from, to) {
        (Place::Directory(from), Place::Directory(to)) => {
            let (from, to) = (resolved(from), resolved(to));
            from.starts_with(&to) || to.starts_with(&from)
        }
        (Place::Bucket(from), Place::Bucket(to)) => {
            let inside = |inner: &str, outer: &str| {
                outer.is_empty()
                    || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let overlap = inside(&from.prefix, &to.prefix) || inside(&to.prefix, &from.prefix);
            same_service && from.bucket == to.bucket && overlap
        }
        _ => false,
    };
    if overlap {
        return Err(Error::Invalid(format!("unable to copy '{from}' to '{to}': one lies in the other")).into());
    }
    Ok(())
}

/// The path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|there| Some(there.canonicalize().ok()?.join(path.strip_prefix(there).ok()?)))
        .unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use walkeep_chunkstore::ErrorKind;

    use super::*;

    #[test]
    fn a_place_is_not_copied_into_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| Place::Directory(directory.path().join(name));
        std::fs::create_dir(directory.path().join("a")).unwrap();
        std::os::unix::fs::symlink(directory.path().join("a"), directory.path().join("link")).unwrap();
        let apart = |from: &Place, to: &Place| check_apart(from, to, true).is_ok();
        assert!(apart(&path("a"), &path("b")) && apart(&path("a"), &path("ab")));
        assert!(
            !apart(&path("a"), &path("a")) && !apart(&path("a"), &path("a/b/c")) && !apart(&path("a/b"), &path("a"))
        );
        assert!(!apart(&path("a"), &path("link/new")), "links are followed");
        let bucket = |url: &str| url.parse::<Place>().unwrap();
        assert!(apart(&bucket("s3://one/p"), &bucket("s3://two/p")));
        assert!(apart(&bucket("s3://one/p"), &bucket("s3://one/pq")));
        assert!(
            !apart(&bucket("s3://one/p"), &bucket("s3://one/p/q"))
                && !apart(&bucket("s3://one"), &bucket("s3://one/p"))
        );
        assert!(check_apart(&bucket("s3://one/p"), &bucket("s3://one/p"), false).is_ok(), "another service");
        let error = check_apart(&path("a"), &path("a"), true).unwrap_err();
        assert_eq!(error.downcast_ref::<Error>().map(Error::kind), Some(ErrorKind::Invalid));
    }

    #[test]
    fn flags_lie_over_the_configuration() {
        let known = S3Options {
            endpoint: Some("http://known".to_owned()),
            pack_class: Some("STANDARD_IA".to_owned()),
            ..S3Options::default()
        };
        let given = S3Args { region: Some("here".to_owned()), ..S3Args::default() };
        let options = overlay(known, &given);
        assert_eq!(options.endpoint.as_deref(), Some("http://known"));
        assert_eq!((options.region.as_deref(), options.pack_class.as_deref()), (Some("here"), Some("STANDARD_IA")));
    }
}
