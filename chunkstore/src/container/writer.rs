//! Making containers: compress frames anywhere, append them in one place.

use ulid::Ulid;

use super::format::{Codec, ContainerKind, FrameHeader, FramePosition, Trailer, encode_header};
use super::{FRAME_HEADER, HEADER, TRAILER};
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::storage::{ObjectKey, ObjectWriter, Put, Storage};

/// A frame's stored bytes, made on a worker thread and not yet part of an object.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    raw: u32,
    codec: Codec,
    stored: Vec<u8>,
}

impl EncodedFrame {
    /// Bytes it will take in an object.
    pub fn length(&self) -> u64 {
        (FRAME_HEADER + self.stored.len()) as u64
    }
}

/// Compresses frames, reusing its memory. One per thread.
pub struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
}

impl Compressor {
    /// A compressor of this zstd level.
    ///
    /// Level 1 is tuned: for frames of a few hundred KiB its own table and match length suit text better than pages.
    /// Matches from five bytes on store pages in a tenth fewer bytes at the same speed.
    pub fn new(level: i32) -> Result<Self> {
        use zstd::zstd_safe::CParameter;
        let refuse = |e| Error::Invalid(format!("zstd level {level} is not usable: {e}"));
        let mut zstd = zstd::bulk::Compressor::new(level).map_err(refuse)?;
        if level == 1 {
            zstd.set_parameter(CParameter::MinMatch(5)).map_err(refuse)?;
            zstd.set_parameter(CParameter::HashLog(14)).map_err(refuse)?;
        }
        Ok(Self { zstd })
    }

    /// Compresses one frame's plaintext; what does not shrink is stored as it is.
    pub fn encode(&mut self, plaintext: &[u8]) -> Result<EncodedFrame> {
        let raw = u32::try_from(plaintext.len())
            .ok()
            .filter(|raw| *raw <= super::MAX_RAW_FRAME)
            .ok_or_else(|| Error::Invalid(format!("a frame of {} bytes is too large", plaintext.len())))?;
        let compressed =
            self.zstd.compress(plaintext).map_err(|e| Error::Invalid(format!("zstd refused a frame: {e}")))?;
        if compressed.len() < plaintext.len() {
            Ok(EncodedFrame { raw, codec: Codec::Zstd, stored: compressed })
        } else {
            Ok(EncodedFrame { raw, codec: Codec::Raw, stored: plaintext.to_vec() })
        }
    }
}

/// An object in the making. Frames go straight to storage; only the table is kept by the caller.
pub struct ContainerWriter {
    writer: Box<dyn ObjectWriter>,
    hasher: blake3::Hasher,
    length: u64,
    frames: u32,
}

impl ContainerWriter {
    /// Starts an object of this kind.
    pub fn start(storage: &dyn Storage, kind: ContainerKind, repository: Ulid) -> Result<Self> {
        let mut container = Self { writer: storage.writer()?, hasher: blake3::Hasher::new(), length: 0, frames: 0 };
        container.write(&encode_header(kind, repository))?;
        Ok(container)
    }

    /// Appends a frame and says where it lies.
    pub fn append(&mut self, frame: &EncodedFrame) -> Result<FramePosition> {
        let too_large = || Error::Invalid("a frame is larger than its header can say".to_owned());
        let stored = u32::try_from(frame.stored.len()).map_err(|_| too_large())?;
        let length = stored.checked_add(FRAME_HEADER as u32).ok_or_else(too_large)?;
        let position = FramePosition { offset: self.length, length };
        let header = FrameHeader { sequence: self.frames, stored, raw: frame.raw, codec: frame.codec };
        self.write(&header.encode(&frame.stored))?;
        self.write(&frame.stored)?;
        self.frames += 1;
        Ok(position)
    }

    /// Bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends the table and the trailer, then publishes the object under the key made of its hash. Durable on return.
    pub fn finish(mut self, table: &EncodedFrame, key: impl FnOnce(PackId) -> Result<ObjectKey>) -> Result<Finished> {
        let table = self.append(table)?;
        let length = self.length + TRAILER as u64;
        self.write(&Trailer { table, frames: self.frames, length }.encode())?;
        let hash = PackId::new(*self.hasher.finalize().as_bytes());
        let key = key(hash)?;
        let put = self.writer.publish(&key)?;
        Ok(Finished { hash, key, length, put })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.writer.write(bytes)
    }
}

/// What became of a finished container.
#[derive(Clone, Debug)]
pub struct Finished {
    /// BLAKE3 of all its bytes.
    pub hash: PackId,
    /// Its key.
    pub key: ObjectKey,
    /// Its length in bytes.
    pub length: u64,
    /// Whether it is new.
    pub put: Put,
}

const _: () = assert!(HEADER == 64 && FRAME_HEADER == 24 && TRAILER == 40, "sizes are part of the format");
