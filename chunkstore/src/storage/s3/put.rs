//! Storing: one request per object, create-if-absent where the service proved that it can.
//!
//! Each call marks its object. After a request whose end is unknown the mark says whether the object there is ours.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use tokio::time::timeout;
use ulid::Ulid;

use super::Bucket;
use super::attempt::Activity;
use super::content::Content;
use super::failure::Failure;
use super::settings::{Traits, named_by_content};
use crate::error::{Error, Result};
use crate::storage::{ObjectKey, Put};

/// Metadata: BLAKE3 of the object's bytes.
pub(super) const HASH: &str = "walkeep-blake3";

/// Metadata: which call stored the object.
pub(super) const MARK: &str = "walkeep-put";

/// Bytes up to which an object is sent in one request.
const ONE_REQUEST: u64 = 128 << 20;

/// An object to be stored.
pub(super) struct Upload<'a> {
    /// Its name in the bucket.
    pub name: String,
    pub content: &'a Content,
    pub traits: Traits,
    /// Refuse to replace another object.
    pub if_absent: bool,
    /// Tells this call's object from others' with the same bytes.
    pub mark: String,
}

/// What became of it.
pub(super) enum Stored {
    Created,
    /// Another object of that size is there.
    Taken(u64),
}

/// An object that is there.
pub(super) struct Found {
    pub size: u64,
    hash: Option<String>,
    mark: Option<String>,
}

impl Bucket {
    /// Stores an object if its key is free, as far as the service can say so.
    pub fn put(&self, key: &ObjectKey, content: &Content) -> Result<Put> {
        let upload = self.upload(key.as_str(), content, self.conditional.load(Ordering::Relaxed));
        let size = match self.block_on(self.store(&upload)) {
            Ok(Stored::Created) => return Ok(Put::Created),
            Ok(Stored::Taken(size)) => size,
            Err(failure) => return Err(failure.into_error("store", self.settings.shown(key.as_str()))),
        };
        if size != content.length && named_by_content(key) {
            let object = format!("'{}'", self.settings.shown(key.as_str()));
            let problem = format!("{size} bytes are stored under this name, but its content has {}", content.length);
            return Err(Error::Conflict { object, problem });
        }
        Ok(Put::AlreadyExists)
    }

    /// Stores an object whether there is one or not.
    pub fn replace(&self, key: &ObjectKey, content: &Content) -> Result<()> {
        let stored = self.block_on(self.store(&self.upload(key.as_str(), content, false)));
        stored.map(|_| ()).map_err(|failure| failure.into_error("store", self.settings.shown(key.as_str())))
    }

    pub fn upload<'a>(&self, key: &str, content: &'a Content, if_absent: bool) -> Upload<'a> {
        let traits = self.settings.traits(key, SystemTime::now());
        let (name, mark) = (self.settings.name(key), Ulid::generate().to_string().to_lowercase());
        Upload { name, content, traits, if_absent, mark }
    }

    async fn store(&self, upload: &Upload<'_>) -> Result<Stored, Failure> {
        self.patiently(upload.content.length, self.limits.upload_rate(), async || {
            let sent = if upload.content.length > ONE_REQUEST {
                self.send_in_parts(upload).await
            } else {
                self.send(upload).await
            };
            match sent {
                Err(failure) if failure.is_precondition() => self.taken(upload, failure).await,
                Err(failure) if failure.passing && self.arrived(upload).await => Ok(Stored::Created),
                Err(failure) => Err(failure),
                Ok(()) => Ok(Stored::Created),
            }
        })
        .await
    }

    /// Sends an object in one request.
    pub async fn send(&self, upload: &Upload<'_>) -> Result<(), Failure> {
        let (content, traits, activity) = (upload.content, upload.traits.clone(), Arc::new(Activity::new()));
        let (mode, until) = traits.lock.map(|(mode, until)| (mode, until.into())).unzip();
        let request = self.client.put_object().bucket(self.bucket()).key(&upload.name);
        let request = request
            .body(content.stream(&self.limits, &activity))
            .content_length(i64::try_from(content.length).unwrap_or(i64::MAX))
            .metadata(HASH, &content.hash)
            .metadata(MARK, &upload.mark)
            .set_if_none_match(upload.if_absent.then(|| "*".to_owned()))
            .set_checksum_crc32_c(self.sends_checksums().then(|| content.checksum()))
            .set_storage_class(traits.class)
            .set_server_side_encryption(traits.encryption)
            .set_ssekms_key_id(traits.kms_key)
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until);
        let request = request.customize().config_override(without_deadline());
        let answer = self.while_moving(&activity, async { request.send().await.map_err(Failure::new) }).await?;
        // Many a web server says yes to everything.
        let no_etag =
            || Failure::own("NotS3", "the answer has no ETag, so nothing says that the object is stored", false);
        answer.e_tag.map(|_| ()).ok_or_else(no_etag)
    }

    /// AWS checks what it is told; others need it only for locked objects, and some cannot take it at all.
    pub fn sends_checksums(&self) -> bool {
        !self.own_endpoint || self.settings.locks()
    }

    /// The service says that the name is taken: perhaps by an earlier try of ours whose answer got lost.
    async fn taken(&self, upload: &Upload<'_>, refusal: Failure) -> Result<Stored, Failure> {
        match self.find(&upload.name).await? {
            Some(found) if found.mark.as_ref() == Some(&upload.mark) => Ok(Stored::Created),
            Some(found) => Ok(Stored::Taken(found.size)),
            // It was deleted in between.
            None => Err(Failure { passing: true, ..refusal }),
        }
    }

    /// Whether a request whose end is unknown stored the object.
    async fn arrived(&self, upload: &Upload<'_>) -> bool {
        // Where the service is gone altogether, that is not worth a long wait.
        let found = timeout(self.settings.request_timeout / 3, self.find(&upload.name)).await;
        let Ok(Ok(Some(found))) = found else { return false };
        let ours = found.mark.as_ref() == Some(&upload.mark) || !upload.if_absent;
        ours && found.size == upload.content.length && found.hash.as_ref() == Some(&upload.content.hash)
    }

    /// Looks for an object by its name in the bucket.
    pub async fn find(&self, name: &str) -> Result<Option<Found>, Failure> {
        match self.client.head_object().bucket(self.bucket()).key(name).send().await.map_err(Failure::new) {
            Ok(answer) if is_page(answer.e_tag(), answer.content_type()) => Err(page()),
            Ok(answer) => {
                let size = answer.content_length().and_then(|size| u64::try_from(size).ok());
                let size = size.ok_or_else(|| Failure::own("NotS3", "the answer has no Content-Length", false))?;
                let metadata = |name: &str| answer.metadata().and_then(|metadata| metadata.get(name)).cloned();
                Ok(Some(Found { size, hash: metadata(HASH), mark: metadata(MARK) }))
            }
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// Whether the answer is a page of some web server rather than an object.
pub(super) fn is_page(etag: Option<&str>, content_type: Option<&str>) -> bool {
    etag.is_none() && content_type.is_some_and(|content_type| content_type.starts_with("text/html"))
}

pub(super) fn page() -> Failure {
    Failure::own("NotS3", "the answer is a page, not an object", false)
}

/// Bodies take their time; [`Bucket::while_moving`] looks after them.
pub(super) fn without_deadline() -> Builder {
    let times = TimeoutConfig::builder().disable_operation_attempt_timeout().build();
    aws_sdk_s3::Config::builder().timeout_config(times)
}
