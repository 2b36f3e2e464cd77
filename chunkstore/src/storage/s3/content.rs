//! The bytes of an object on their way up: in memory or in a file, readable as often as a request is repeated.

use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use hyper::body::{Body, Bytes, Frame, SizeHint};
use parking_lot::Mutex;

use super::attempt::Activity;
use super::limits::TransferLimits;

/// Where the bytes are.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Memory(Bytes),
    /// A file that does not change meanwhile.
    File(Arc<File>),
}

/// Hashes of bytes that pass by.
#[derive(Debug, Default)]
pub(super) struct Hashes {
    blake3: blake3::Hasher,
    crc32c: u32,
    length: u64,
}

impl Hashes {
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.length += bytes.len() as u64;
    }
}

/// An object's bytes with what is known about them.
#[derive(Debug)]
pub(super) struct Content {
    source: Source,
    pub length: u64,
    /// BLAKE3, in hexadecimal.
    pub hash: String,
    crc32c: u32,
}

impl Content {
    pub fn new(source: Source, hashes: &Hashes) -> Self {
        let hash = hashes.blake3.finalize().to_hex().to_string();
        Self { source, length: hashes.length, hash, crc32c: hashes.crc32c }
    }

    pub fn of_bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let mut hashes = Hashes::default();
        hashes.update(&bytes);
        Self::new(Source::Memory(bytes), &hashes)
    }

    /// Reads a file twice: now for its hashes, later for the request.
    pub fn of_file(mut file: File) -> io::Result<Self> {
        let (mut hashes, mut block) = (Hashes::default(), vec![0; 256 << 10]);
        loop {
            match io::Read::read(&mut file, &mut block)? {
                0 => return Ok(Self::new(Source::File(Arc::new(file)), &hashes)),
                length => hashes.update(&block[..length]),
            }
        }
    }

    /// The CRC32C as S3 writes it.
    pub fn checksum(&self) -> String {
        data_encoding::BASE64.encode(&self.crc32c.to_be_bytes())
    }

    /// The content's bytes of `range` in memory: one part of many.
    pub async fn part(&self, range: Range<u64>) -> io::Result<Self> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        self.source.read(range.start, length).await.map(Self::of_bytes)
    }

    /// All bytes as a request's body, no faster than the limits let them pass.
    pub fn stream(&self, limits: &Arc<TransferLimits>, activity: &Arc<Activity>) -> ByteStream {
        let (source, length) = (self.source.clone(), self.length);
        let (limits, activity) = (limits.clone(), activity.clone());
        let body = move || {
            let upload = Upload { source: source.clone(), limits: limits.clone(), activity: activity.clone() };
            SdkBody::from_body_1_x(Paced { upload, position: 0, length, next: Mutex::new(None) })
        };
        ByteStream::new(SdkBody::retryable(body))
    }
}

impl Source {
    async fn read(&self, position: u64, length: usize) -> io::Result<Bytes> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(position).map_err(io::Error::other)?;
                let end = start.checked_add(length).filter(|end| *end <= bytes.len());
                end.map(|end| bytes.slice(start..end)).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            }
            Self::File(file) => {
                let file = file.clone();
                let read = move || {
                    let mut bytes = vec![0; length];
                    file.read_exact_at(&mut bytes, position).map(|()| Bytes::from(bytes))
                };
                tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
            }
        }
    }
}

/// What a body needs to go on.
#[derive(Clone)]
struct Upload {
    source: Source,
    limits: Arc<TransferLimits>,
    activity: Arc<Activity>,
}

impl Upload {
    async fn piece(self, position: u64, left: u64) -> io::Result<Bytes> {
        let limit = self.limits.upload();
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(limit.piece());
        let bytes = self.source.read(position, length).await?;
        self.activity.hold(limit.pass(length)).await;
        Ok(bytes)
    }
}

type Piece = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// A body that takes its next piece when the limit lets it.
struct Paced {
    upload: Upload,
    position: u64,
    length: u64,
    /// Never locked: the lock makes the future `Sync`, as the SDK wants it.
    next: Mutex<Option<Piece>>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let left = this.length - this.position;
        if left == 0 {
            return Poll::Ready(None);
        }
        let (upload, position) = (&this.upload, this.position);
        let slot = this.next.get_mut();
        let next = slot.get_or_insert_with(|| Box::pin(upload.clone().piece(position, left)));
        let piece = ready!(next.as_mut().poll(cx));
        *slot = None;
        let bytes = match piece {
            Ok(bytes) => bytes,
            Err(e) => return Poll::Ready(Some(Err(e))),
        };
        this.position += bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.position == self.length
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length - self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_gives_all_bytes_each_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let (limits, activity) = (Arc::new(TransferLimits::default()), Arc::new(Activity::new()));
        for content in [Content::of_bytes(bytes.clone()), Content::of_file(file).unwrap()] {
            assert_eq!((content.length, content.hash.as_str()), (200_000, blake3::hash(&bytes).to_hex().as_str()));
            let body = content.stream(&limits, &activity).into_inner();
            assert_eq!(body.content_length(), Some(200_000));
            for body in [body.try_clone().unwrap(), body] {
                let collected = runtime.block_on(ByteStream::new(body).collect()).unwrap();
                assert!(collected.into_bytes() == bytes);
            }
            let part = runtime.block_on(content.part(10..20)).unwrap();
            assert_eq!(part.hash, blake3::hash(&bytes[10..20]).to_hex().as_str());
            assert!(runtime.block_on(content.part(199_999..200_001)).is_err());
        }
        assert_eq!(Content::of_bytes(&b"123456789"[..]).checksum(), "4waSgw==");
    }
}
