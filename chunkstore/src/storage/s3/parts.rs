//! Storing what is too large for one request: in parts, which are removed again when not all of them arrive.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use tokio::time::timeout;

use super::Bucket;
use super::attempt::Activity;
use super::failure::Failure;
use super::put::{HASH, MARK, Upload, without_deadline};
use crate::error::Result;

/// Bytes of a part.
const PART: u64 = 32 << 20;

/// Largest object that one request may bring.
const LARGEST_REQUEST: u64 = 5 << 30;

/// Most parts of an object.
const MOST_PARTS: u64 = 10_000;

/// Parts on their way at once; each is in memory.
const AT_ONCE: usize = 3;

/// How old an upload must be before it counts as left behind by a crash.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Time for a service to put the parts together.
const COMPLETION: Duration = Duration::from_secs(300);

impl Bucket {
    /// Sends an object in parts. It becomes visible with the last request, or not at all.
    pub async fn send_in_parts(&self, upload: &Upload<'_>) -> Result<(), Failure> {
        let id = match self.begin(upload).await {
            // Some small services cannot take parts: `rclone serve s3` answers what no SDK understands.
            Err(failure) if is_unknown(&failure) && upload.content.length <= LARGEST_REQUEST => {
                tracing::debug!(problem = failure.problem, "the service does not take parts, sending the object whole");
                return self.send(upload).await;
            }
            begun => begun?,
        };
        let result = match self.send_parts(upload, &id).await {
            Ok(parts) => self.complete(upload, &id, parts).await,
            Err(failure) => Err(failure),
        };
        if result.is_err() {
            // What stays is found by `remove_abandoned`; a completed upload is not harmed.
            let abort = self.client.abort_multipart_upload().bucket(self.bucket()).key(&upload.name).upload_id(&id);
            let _ = timeout(self.settings.request_timeout, abort.send()).await;
        }
        result
    }

    async fn begin(&self, upload: &Upload<'_>) -> Result<String, Failure> {
        let traits = upload.traits.clone();
        let (mode, until) = traits.lock.map(|(mode, until)| (mode, until.into())).unzip();
        let request = self.client.create_multipart_upload().bucket(self.bucket()).key(&upload.name);
        let request = request
            .metadata(HASH, &upload.content.hash)
            .metadata(MARK, &upload.mark)
            .set_checksum_algorithm(self.sends_checksums().then_some(ChecksumAlgorithm::Crc32C))
            .set_storage_class(traits.class)
            .set_server_side_encryption(traits.encryption)
            .set_ssekms_key_id(traits.kms_key)
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until);
        let answer = request.send().await.map_err(Failure::new)?;
        answer.upload_id.ok_or_else(|| Failure::own("NotS3", "the answer has no UploadId", false))
    }

    /// A few parts at a time; the next ones wait for the first of these.
    async fn send_parts(&self, upload: &Upload<'_>, id: &str) -> Result<Vec<CompletedPart>, Failure> {
        let mut done = Vec::new();
        let ranges = parts(upload.content.length);
        for (round, ranges) in ranges.chunks(AT_ONCE).enumerate() {
            let first = round * AT_ONCE;
            let range = |at: usize| ranges.get(at).cloned().map(|range| (first + at + 1, range));
            let part = async |at: usize| match range(at) {
                Some((number, range)) => self.send_part(upload, id, number, range).await.map(Some),
                None => Ok(None),
            };
            let (a, b, c) = tokio::try_join!(part(0), part(1), part(2))?;
            done.extend([a, b, c].into_iter().flatten());
        }
        Ok(done)
    }

    async fn send_part(
        &self,
        upload: &Upload<'_>,
        id: &str,
        number: usize,
        range: Range<u64>,
    ) -> Result<CompletedPart, Failure> {
        let unreadable = |e: std::io::Error| Failure::own("", format!("unable to read the spooled part: {e}"), false);
        let part = upload.content.part(range).await.map_err(unreadable)?;
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let checksum = self.sends_checksums().then(|| part.checksum());
        let mut left = PART_TRIES;
        loop {
            let activity = Arc::new(Activity::new());
            let request = self.client.upload_part().bucket(self.bucket()).key(&upload.name).upload_id(id);
            let request = request
                .part_number(number)
                .body(part.stream(&self.limits, &activity))
                .content_length(i64::try_from(part.length).unwrap_or(i64::MAX))
                .set_checksum_crc32_c(checksum.clone());
            let request = request.customize().config_override(without_deadline());
            let sent = self.while_moving(&activity, async { request.send().await.map_err(Failure::new) }).await;
            left -= 1;
            match sent {
                Ok(answer) => {
                    let part = CompletedPart::builder().part_number(number).set_e_tag(answer.e_tag);
                    return Ok(part.set_checksum_crc32_c(checksum).build());
                }
                Err(failure) if !failure.passing || left == 0 => return Err(failure),
                Err(_) => tokio::time::sleep(Duration::from_millis(rand::random_range(500..3000))).await,
            }
        }
    }

    async fn complete(&self, upload: &Upload<'_>, id: &str, parts: Vec<CompletedPart>) -> Result<(), Failure> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(self.bucket()).key(&upload.name);
        let request = request
            .upload_id(id)
            .multipart_upload(parts)
            .set_if_none_match(upload.if_absent.then(|| "*".to_owned()))
            .customize()
            .config_override(without_deadline());
        let late = |_| Failure::own("Timeout", format!("no answer within {COMPLETION:?}"), true);
        timeout(COMPLETION, request.send()).await.map_err(late)?.map_err(Failure::new).map(|_| ())
    }

    /// Removes parts of objects that nobody completes any more. Returns of how many objects; none where that is
    /// forbidden or unknown.
    pub async fn abort_abandoned(&self, now: SystemTime) -> Result<usize, Failure> {
        let (mut aborted, mut key, mut id) = (0, None, None);
        let prefix = self.settings.name("");
        loop {
            let request = self.client.list_multipart_uploads().bucket(self.bucket()).prefix(&prefix);
            let request = request.set_key_marker(key.clone()).set_upload_id_marker(id.clone());
            let page = match self.patiently(0, None, async || request.clone().send().await.map_err(Failure::new)).await
            {
                Err(failure) if failure.status.is_some_and(|status| [403, 405, 501].contains(&status)) => {
                    return Ok(aborted);
                }
                other => other?,
            };
            for upload in page.uploads() {
                let begun = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                let age = begun.and_then(|begun| now.duration_since(begun).ok());
                let (Some(name), Some(id)) = (upload.key(), upload.upload_id()) else { continue };
                if !name.starts_with(&prefix) || age.is_none_or(|age| age <= ABANDONED_AFTER) {
                    continue;
                }
                let abort = self.client.abort_multipart_upload().bucket(self.bucket()).key(name).upload_id(id);
                aborted += usize::from(abort.send().await.is_ok());
            }
            let next = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || next.0.is_none() || next == (key, id) {
                return Ok(aborted);
            }
            (key, id) = next;
        }
    }
}

/// Tries of one part, each with the SDK's own repetitions.
const PART_TRIES: u32 = 4;

/// Whether the service does not know the request.
fn is_unknown(failure: &Failure) -> bool {
    !failure.passing
        && (failure.code == "NotS3" || [400, 405, 501].iter().any(|status| failure.status == Some(*status)))
}

/// Equal parts but for the last, no more than S3 allows.
fn parts(length: u64) -> Vec<Range<u64>> {
    let size = PART.max(length.div_ceil(MOST_PARTS));
    (0..length.div_ceil(size)).map(|part| part * size..length.min((part + 1) * size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_object_in_at_most_ten_thousand() {
        for length in [PART + 1, 4 * PART, 5 * PART - 1, MOST_PARTS * PART, MOST_PARTS * PART + 1, 5 << 40] {
            let parts = parts(length);
            assert!(parts.len() as u64 <= MOST_PARTS, "{length}");
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, length));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start && pair[0].end - pair[0].start >= PART));
        }
    }
}
