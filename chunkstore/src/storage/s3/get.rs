//! Reading: exactly the bytes that were asked for, of one and the same object, however often the line breaks.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use tokio::time::timeout;

use super::Bucket;
use super::failure::Failure;
use super::reading::{Reading, Refused, beyond};
use crate::error::{Error, Result};
use crate::storage::ObjectKey;

impl Bucket {
    /// The bytes of `range`.
    pub fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        if range.start >= range.end {
            return self.read_nothing(key, &range);
        }
        self.read(key, Reading::of_range(range))
    }

    /// The whole object of at most `limit` bytes, by one request.
    pub fn read_whole(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        self.read(key, Reading::of_whole(limit))
    }

    /// S3 knows no empty range, but whether the object reaches there can be asked.
    fn read_nothing(&self, key: &ObjectKey, range: &Range<u64>) -> Result<Vec<u8>> {
        let shown = self.settings.shown(key.as_str());
        let size = self.size_of(key)?.ok_or_else(|| Error::not_found(format_args!("'{shown}'")))?;
        if range.start > range.end || range.end > size {
            return Err(Error::damaged(shown, beyond(range, Some(size))));
        }
        Ok(Vec::new())
    }

    fn read(&self, key: &ObjectKey, mut reading: Reading) -> Result<Vec<u8>> {
        let name = self.settings.name(key.as_str());
        let expected = reading.length().unwrap_or_default();
        let read = self.block_on(self.patiently(expected, self.limits.read_rate(), async || {
            match self.read_on(&name, &mut reading).await {
                Ok(()) => Ok(Ok(())),
                Err(Refused::Damaged(problem)) => Ok(Err(problem)),
                Err(Refused::Failed(failure)) => Err(failure),
            }
        }));
        let shown = self.settings.shown(key.as_str());
        match read {
            Ok(Ok(())) => Ok(reading.into_bytes()),
            Ok(Err(problem)) => Err(Error::damaged(shown, problem)),
            Err(failure) => Err(failure.into_error("read", shown)),
        }
    }

    /// Sends one request for what is missing and takes what its answer brings.
    async fn read_on(&self, name: &str, reading: &mut Reading) -> Result<(), Refused> {
        let request = self.client.get_object().bucket(self.bucket()).key(name).set_range(reading.range());
        let request = request.set_if_match(reading.version());
        let answer = match request.send().await.map_err(Failure::new) {
            Ok(answer) => answer,
            Err(failure) if failure.status == Some(416) => return Err(Refused::Damaged(reading.too_short(None))),
            Err(failure) if failure.is_precondition() => return Err(reading.changed()),
            Err(failure) => return Err(Refused::Failed(failure)),
        };
        reading.accept(&answer)?;
        self.take(reading, answer).await
    }

    async fn take(&self, reading: &mut Reading, answer: GetObjectOutput) -> Result<(), Refused> {
        let (mut body, patience) = (answer.body, self.settings.request_timeout);
        let broken = |problem: String| Refused::Failed(Failure::own("BrokenOff", problem, true));
        loop {
            let piece = timeout(patience, body.next()).await;
            let piece = piece.map_err(|_| broken(format!("nothing came for {patience:?}")))?;
            match piece {
                None if reading.is_complete() => return Ok(()),
                None => return Err(broken(format!("the answer ended after {} bytes", reading.read()))),
                Some(Ok(bytes)) => {
                    reading.append(&bytes)?;
                    self.limits.read().pass(bytes.len()).await;
                }
                Some(Err(error)) => {
                    let problem = format!("the answer broke off after {} bytes: {error}", reading.read());
                    if reading.is_complete() {
                        // All bytes are there, but they are not the ones that the service's checksum is of.
                        reading.start_again();
                    }
                    return Err(broken(problem));
                }
            }
        }
    }
}
