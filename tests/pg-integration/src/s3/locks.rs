//! Object Lock, as far as writers notice it: which buckets have it, and until when objects are retained.
//!
//! Removing a retained object is not refused: in AWS's versioned buckets, too, a DELETE without a version succeeds.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use s3s::dto::{ObjectLockMode, PutObjectInput, Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

/// How an object is retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// `GOVERNANCE` or `COMPLIANCE`.
    pub mode: String,
    /// Until when.
    pub until: SystemTime,
}

/// What a server remembers of it.
#[derive(Debug, Default)]
pub(super) struct Locks {
    buckets: Mutex<HashSet<String>>,
    objects: Mutex<HashMap<(String, String), Retention>>,
}

/// A retention that was asked for, to be remembered once the object is there.
pub(super) type Wanted = Option<((String, String), Retention)>;

impl Locks {
    pub(super) fn enable(&self, bucket: &str) {
        self.buckets.lock().insert(bucket.to_owned());
    }

    pub(super) fn enabled(&self, bucket: &str) -> bool {
        self.buckets.lock().contains(bucket)
    }

    /// What a PutObject asks for; refused where AWS refuses it.
    pub(super) fn of_put(&self, input: &PutObjectInput) -> S3Result<Wanted> {
        let checked = input.content_md5.is_some()
            || input.checksum_algorithm.is_some()
            || input.checksum_crc32.is_some()
            || input.checksum_crc32c.is_some()
            || input.checksum_crc64nvme.is_some()
            || input.checksum_sha1.is_some()
            || input.checksum_sha256.is_some();
        let wanted = self.wanted(
            (&input.bucket, &input.key),
            input.object_lock_mode.as_ref(),
            input.object_lock_retain_until_date.as_ref(),
        )?;
        if wanted.is_some() && !checked {
            return Err(s3_error!(
                InvalidRequest,
                "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
            ));
        }
        Ok(wanted)
    }

    /// What any write asks for.
    pub(super) fn wanted(
        &self,
        (bucket, key): (&str, &str),
        mode: Option<&ObjectLockMode>,
        until: Option<&Timestamp>,
    ) -> S3Result<Wanted> {
        let (mode, until) = match (mode, until) {
            (None, None) => return Ok(None),
            (Some(mode), Some(until)) => (mode.as_str().to_owned(), time_of(until)),
            _ => {
                return Err(s3_error!(
                    InvalidRequest,
                    "x-amz-object-lock-retain-until-date and x-amz-object-lock-mode must both be supplied"
                ));
            }
        };
        if !self.enabled(bucket) {
            return Err(s3_error!(InvalidRequest, "Bucket is missing Object Lock Configuration"));
        }
        if until <= SystemTime::now() {
            return Err(s3_error!(InvalidArgument, "The retain until date must be in the future!"));
        }
        Ok(Some(((bucket.to_owned(), key.to_owned()), Retention { mode, until })))
    }

    pub(super) fn remember(&self, wanted: Wanted) {
        self.objects.lock().extend(wanted);
    }

    pub(super) fn of(&self, bucket: &str, key: &str) -> Option<Retention> {
        self.objects.lock().get(&(bucket.to_owned(), key.to_owned())).cloned()
    }
}

fn time_of(timestamp: &Timestamp) -> SystemTime {
    let mut text = Vec::new();
    let written = timestamp.format(TimestampFormat::EpochSeconds, &mut text);
    let seconds = written.ok().and_then(|()| String::from_utf8(text).ok()?.parse().ok()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
}
