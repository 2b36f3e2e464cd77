//! What a service can do, found out by asking it: whether it can be used at all, and whether it refuses to overwrite.

use std::fmt;
use std::sync::atomic::Ordering;

use aws_sdk_s3::types::{BucketLocationConstraint, CreateBucketConfiguration};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::Bucket;
use super::content::Content;
use super::failure::Failure;
use super::settings::PROBES;
use crate::error::Result;

/// What a service made of two different objects under one name, both to be stored only if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConditionalWrites {
    /// It refused the second one and kept the first.
    Proven,
    /// It took both: the condition is ignored.
    Overwrites,
    /// It does not know the condition and refuses such requests.
    Refused,
    /// What it answered is not what it did.
    Lies,
}

impl fmt::Display for ConditionalWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proven => "it refuses to overwrite",
            Self::Overwrites => "it ignores the condition and overwrites",
            Self::Refused => "it does not know the condition",
            Self::Lies => "it says that it refuses and overwrites",
        })
    }
}

impl Bucket {
    /// One request that fails if anything is wrong: address, region, credentials, clock, bucket, right to list.
    pub fn check(&self) -> Result<()> {
        let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(self.settings.name("")).max_keys(1);
        let checked = self.patiently(0, None, async || request.clone().send().await.map_err(Failure::new));
        self.block_on(checked).map(|_| ()).map_err(|failure| failure.into_error("use", self.settings.url.to_string()))
    }

    /// Why the service refuses, by a request whose answer says so; `None` when that one is not refused.
    pub async fn reason(&self, name: &str) -> Option<Failure> {
        let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(name).max_keys(1);
        request.send().await.err().map(Failure::new).filter(|failure| !failure.code.is_empty())
    }

    /// Creates the bucket; one that is ours already is as good.
    pub fn create(&self) -> Result<()> {
        // Other services know only their own names of places, if any.
        let place = Some(self.region.as_str()).filter(|region| !self.own_endpoint && *region != "us-east-1");
        let place = place.map(|region| {
            CreateBucketConfiguration::builder().location_constraint(BucketLocationConstraint::from(region)).build()
        });
        let request = self.client.create_bucket().bucket(self.bucket()).set_create_bucket_configuration(place);
        let request = request.set_object_lock_enabled_for_bucket(self.settings.locks().then_some(true));
        let created = self.patiently(0, None, async || request.clone().send().await.map_err(Failure::new));
        match self.block_on(created) {
            Ok(_) => Ok(()),
            Err(failure) if failure.code == "BucketAlreadyOwnedByYou" => Ok(()),
            Err(failure) => {
                let error = failure.clone().into_error("create", format!("s3://{}", self.bucket()));
                // Some services know only one way to say that there is one.
                if failure.code == "BucketAlreadyExists" { self.check().map_err(|_| error) } else { Err(error) }
            }
        }
    }

    /// Writes an object twice to see what create-if-absent is worth here: some services accept the condition and
    /// overwrite.
    pub fn probe(&self) -> Result<ConditionalWrites> {
        let key = format!("{PROBES}{}", Ulid::generate().to_string().to_lowercase());
        let name = self.settings.name(&key);
        let probed = self.block_on(async {
            let probed = self.write_twice(&key).await;
            // Credentials that may only append leave it behind; no listing shows it.
            let _ = self.client.delete_object().bucket(self.bucket()).key(&name).send().await;
            probed
        });
        probed.map_err(|failure| failure.into_error("probe", self.settings.shown(&key)))
    }

    async fn write_twice(&self, key: &str) -> Result<ConditionalWrites, Failure> {
        let (first, second) = (Content::of_bytes(&b"first"[..]), Content::of_bytes(&b"second one"[..]));
        let send = async |content, if_absent| {
            let upload = self.upload(key, content, if_absent);
            self.patiently(0, None, async || self.send(&upload).await).await
        };
        match send(&first, true).await {
            Ok(()) => {}
            // A repetition of our own that met what the first try had stored.
            Err(failure) if failure.is_precondition() => {}
            Err(failure) if failure.status.is_some_and(|status| [400, 501].contains(&status)) => {
                // Is it the condition? Then it works without.
                return send(&first, false).await.map(|()| ConditionalWrites::Refused);
            }
            Err(failure) => return Err(failure),
        }
        let refused = match send(&second, true).await {
            Ok(()) => false,
            Err(failure) if failure.is_precondition() => true,
            Err(failure) => return Err(failure),
        };
        let found = self.patiently(0, None, async || self.find(&self.settings.name(key)).await).await?;
        let size = found.map(|found| found.size);
        Ok(match (refused, size) {
            (true, Some(size)) if size == first.length => ConditionalWrites::Proven,
            (false, Some(size)) if size == second.length => ConditionalWrites::Overwrites,
            _ => ConditionalWrites::Lies,
        })
    }

    /// Whether objects are stored with the condition.
    pub fn set_conditional(&self, on: bool) {
        self.conditional.store(on, Ordering::Relaxed);
    }
}
