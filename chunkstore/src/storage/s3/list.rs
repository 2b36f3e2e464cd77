//! Listing: page after page, nothing believed that was not asked for.

use std::collections::HashSet;

use aws_sdk_s3::types::Object;

use super::Bucket;
use super::failure::Failure;
use crate::error::Result;
use crate::storage::{ObjectInfo, ObjectKey};

/// Pages without an object of ours that are taken in a row: filters may leave some empty, but not all.
const EMPTY_PAGES: u32 = 10_000;

impl Bucket {
    /// All objects whose key starts with `prefix`, in key order. Names that are no keys are not ours.
    pub fn list_keys(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let listed = self.block_on(self.pages(prefix));
        let mut found = listed.map_err(|failure| failure.into_error("list", self.settings.shown(prefix)))?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        Ok(found)
    }

    async fn pages(&self, prefix: &str) -> Result<Vec<ObjectInfo>, Failure> {
        let request = self.client.list_objects_v2().bucket(self.bucket()).prefix(self.settings.name(prefix));
        let (mut found, mut tokens, mut token, mut empty) = (Vec::new(), HashSet::new(), None::<String>, 0);
        loop {
            let request = request.clone().set_continuation_token(token.clone());
            let page = self.patiently(0, None, async || request.clone().send().await.map_err(Failure::new)).await?;
            let before = found.len();
            for object in page.contents() {
                found.extend(self.listed(prefix, object)?);
            }
            empty = if found.len() > before { 0 } else { empty + 1 };
            let next = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
            match next {
                None if page.is_truncated == Some(true) => {
                    return Err(strange("says that there is more, but not where"));
                }
                None => return Ok(found),
                Some(next) if empty > EMPTY_PAGES || !tokens.insert(next.clone()) => {
                    return Err(strange("leads to the same page again and again"));
                }
                next => token = next,
            }
        }
    }

    /// An object of the listing if its name is a key.
    fn listed(&self, prefix: &str, object: &Object) -> Result<Option<ObjectInfo>, Failure> {
        let name = object.key().unwrap_or_default();
        let Some(key) = self.settings.key(name).filter(|key| key.starts_with(prefix)) else {
            return Err(strange("has objects outside the prefix that was asked for"));
        };
        let Ok(key) = ObjectKey::new(key) else { return Ok(None) };
        match object.size().and_then(|size| u64::try_from(size).ok()) {
            Some(size) => Ok(Some(ObjectInfo { key, size })),
            None => Err(strange("has an object without a size")),
        }
    }
}

fn strange(problem: &str) -> Failure {
    Failure::own("NotS3", format!("the listing {problem}"), false)
}
