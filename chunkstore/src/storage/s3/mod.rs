//! Objects in a bucket, by aws-sdk-s3.
//!
//! Callers are plain threads; the requests run in a small runtime of their own. One object is one `PutObject`, so it
//! becomes visible whole or not at all, and durable as soon as the service says so. Create-if-absent is only worth
//! something where [`S3Storage::probe_conditional_writes`] proved it; elsewhere a plain write is used, and one writer
//! per repository must be enough.

mod attempt;
mod client;
mod content;
mod counts;
mod failure;
mod gate;
mod get;
mod hints;
mod limits;
mod list;
mod options;
mod parts;
mod probe;
mod put;
mod reading;
mod settings;
mod writer;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use counts::RequestCounts;
pub use limits::TransferLimits;
pub use probe::ConditionalWrites;

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use aws_sdk_s3::Client;
use tokio::runtime::Runtime;

use super::{BucketUrl, ObjectInfo, ObjectKey, ObjectWriter, Put, S3Options, Storage};
use crate::error::{Error, Result};
use content::Content;
use counts::Counter;
use failure::Failure;
use gate::Gate;
use settings::Settings;
use writer::{IN_MEMORY, SpoolingWriter};

/// Reads at once: one stream fills a fraction of a line.
const PARALLEL_READS: usize = 16;

/// Objects below a prefix of a bucket.
#[derive(Clone)]
pub struct S3Storage {
    bucket: Arc<Bucket>,
    spool: Option<PathBuf>,
}

/// What all requests to one bucket share.
struct Bucket {
    settings: Settings,
    client: Client,
    /// The service is not AWS.
    own_endpoint: bool,
    region: String,
    conditional: AtomicBool,
    limits: Arc<TransferLimits>,
    counter: Arc<Counter>,
    gate: Arc<Gate>,
    /// Only `None` while this is dropped.
    runtime: Option<Runtime>,
}

impl S3Storage {
    /// Prepares for requests and makes none; credentials are looked for at the first one.
    pub fn open(url: &BucketUrl, options: &S3Options) -> Result<Self> {
        let settings = Settings::new(url, options)?;
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).thread_name("s3").enable_all().build();
        let runtime = runtime.map_err(|e| Error::storage("open", url, e))?;
        let (counter, gate) = (Arc::new(Counter::default()), Arc::new(Gate::new()));
        let built = runtime.block_on(client::build(&settings, counter.clone(), gate.clone()))?;
        let bucket = Bucket {
            settings,
            client: built.client,
            own_endpoint: built.own_endpoint,
            region: built.region,
            conditional: AtomicBool::new(false),
            limits: Arc::default(),
            counter,
            gate,
            runtime: Some(runtime),
        };
        Ok(Self { bucket: Arc::new(bucket), spool: None })
    }

    /// Collects larger objects in unnamed files of this directory instead of the system's for temporary files.
    #[must_use]
    pub fn with_spool(self, directory: PathBuf) -> Self {
        Self { spool: Some(directory), ..self }
    }

    /// Creates the bucket; one that is there already and can be used is as good.
    pub fn create_bucket(&self) -> Result<()> {
        self.bucket.create()
    }

    /// Makes one request that fails when the bucket cannot be used, and says why.
    pub fn check(&self) -> Result<()> {
        self.bucket.check()
    }

    /// Finds out whether the service keeps its promise not to overwrite: it is believed only after it was tried.
    pub fn probe_conditional_writes(&self) -> Result<ConditionalWrites> {
        self.bucket.probe()
    }

    /// Stores objects with the condition that there is none of their key. Only where that was proven; else it is off.
    pub fn set_conditional_writes(&self, on: bool) {
        self.bucket.set_conditional(on);
    }

    /// Requests that were sent so far.
    pub fn requests(&self) -> RequestCounts {
        self.bucket.counter.counts()
    }

    /// How fast bytes may move; changes count at once.
    pub fn limits(&self) -> &TransferLimits {
        &self.bucket.limits
    }
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("S3Storage").field(&self.location()).finish()
    }
}

impl Bucket {
    fn bucket(&self) -> &str {
        &self.settings.url.bucket
    }

    fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("only dropping takes the runtime").block_on(future)
    }

    fn size_of(&self, key: &ObjectKey) -> Result<Option<u64>> {
        let name = self.settings.name(key.as_str());
        let found = self.block_on(async {
            match self.patiently(0, None, async || self.find(&name).await).await {
                Err(failure) if failure.is_silent() => Err(self.reason(&name).await.unwrap_or(failure)),
                other => other,
            }
        });
        let found = found.map_err(|failure| failure.into_error("look for", self.settings.shown(key.as_str())))?;
        Ok(found.map(|found| found.size))
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // No request of anybody is under way, and idle connections need no farewell.
            runtime.shutdown_background();
        }
    }
}

impl Storage for S3Storage {
    fn location(&self) -> String {
        self.bucket.settings.url.to_string()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(SpoolingWriter::new(self.bucket.clone(), self.spool.clone())))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.bucket.read_range(key, range)
    }

    /// By one request: the answer says how long the object is.
    fn get(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        self.bucket.read_whole(key, limit)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.bucket.size_of(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.bucket.list_keys(prefix)
    }

    /// Nothing: everything here is on another machine.
    fn list_at_hand(&self, _prefix: &str) -> Result<Vec<ObjectInfo>> {
        Ok(Vec::new())
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.bucket.replace(key, &Content::of_bytes(bytes.to_vec()))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let bucket = &self.bucket;
        let request = bucket.client.delete_object().bucket(bucket.bucket()).key(bucket.settings.name(key.as_str()));
        let deleted = bucket.patiently(0, None, async || request.clone().send().await.map_err(Failure::new));
        match bucket.block_on(deleted) {
            Err(failure) if !failure.is_missing() => {
                Err(failure.into_error("delete", bucket.settings.shown(key.as_str())))
            }
            _ => Ok(()),
        }
    }

    /// What a service shows is durable.
    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        let missing = || Error::not_found(format_args!("'{}'", self.bucket.settings.shown(key.as_str())));
        self.size(key)?.map(|_| ()).ok_or_else(missing)
    }

    fn remove_abandoned(&self, now: SystemTime) -> Result<usize> {
        let removed = self.bucket.block_on(self.bucket.abort_abandoned(now));
        removed.map_err(|failure| failure.into_error("list the unfinished uploads of", self.location()))
    }

    fn parallel_reads(&self) -> usize {
        PARALLEL_READS
    }

    /// Straight from the file, which is read once for its hash and once for the request.
    fn put_file(&self, key: &ObjectKey, source: &Path) -> Result<Put> {
        let failed = |e| Error::storage("read", source.display(), e);
        let mut file = File::open(source).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let content = if length <= IN_MEMORY as u64 {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map_err(failed)?;
            Content::of_bytes(bytes)
        } else {
            Content::of_file(file).map_err(failed)?
        };
        self.bucket.put(key, &content)
    }

    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Put> {
        self.bucket.put(key, &Content::of_bytes(bytes.to_vec()))
    }
}
