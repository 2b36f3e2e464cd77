//! Reading containers: everything is checked before it is used, and sizes are bounded before anything is allocated.

use ulid::Ulid;

use super::format::{Codec, ContainerKind, FormatError, FrameHeader, FramePosition, Trailer, decode_header};
use super::{FRAME_HEADER, HEADER, MAX_RAW_FRAME, TRAILER};
use crate::error::{Error, Result};
use crate::storage::{ObjectKey, Storage};

/// Turns stored bytes into plaintext, reusing its memory. One per thread.
pub struct Decompressor {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decompressor {
    /// A decompressor.
    pub fn new() -> Result<Self> {
        let zstd = zstd::bulk::Decompressor::new().map_err(|e| Error::Invalid(format!("zstd failed: {e}")))?;
        Ok(Self { zstd })
    }

    /// Checks one frame of `object` and appends its plaintext to `out`; never more than [`MAX_RAW_FRAME`] bytes.
    pub fn decode(&mut self, object: &ObjectKey, frame: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let (header, stored) = FrameHeader::decode(frame).map_err(|e| refuse(object, &e))?;
        debug_assert!(header.raw <= MAX_RAW_FRAME);
        if header.codec == Codec::Raw {
            out.extend_from_slice(stored);
            return Ok(());
        }
        let start = out.len();
        let raw = header.raw as usize;
        out.resize(start + raw, 0);
        let written = self
            .zstd
            .decompress_to_buffer(stored, &mut out[start..])
            .map_err(|e| Error::damaged(object, format_args!("frame {} does not decompress: {e}", header.sequence)))?;
        if written == raw {
            Ok(())
        } else {
            let problem = format!("frame {} gives {written} bytes, its header says {raw}", header.sequence);
            Err(Error::damaged(object, problem))
        }
    }
}

fn refuse(object: &ObjectKey, error: &FormatError) -> Error {
    if matches!(error, FormatError::Newer { .. }) {
        Error::Unsupported { object: format!("'{object}'"), problem: error.to_string() }
    } else {
        Error::damaged(object, error)
    }
}

/// How many bytes at an object's end are fetched at first: enough for the table of most objects.
const FIRST_READ: u64 = 64 << 10;

/// Longest object that [`Container::open_whole`] takes into memory at once.
const WHOLE: u64 = 64 << 20;

/// What is fetched of an object when it is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// Its end, and its header.
    Checked,
    /// Its end, and its header only where that is part of it.
    End,
    /// All of it.
    Whole,
}

/// A container whose trailer and table have been read.
pub struct Container {
    key: ObjectKey,
    trailer: Trailer,
    table: Vec<u8>,
    /// The last bytes of the object, fetched together with the table.
    end: Vec<u8>,
}

impl Container {
    /// Opens an object of this kind and repository: one read for small objects, two for large ones.
    pub fn open(storage: &dyn Storage, key: &ObjectKey, kind: ContainerKind, repository: Ulid) -> Result<Self> {
        let length = storage.size(key)?.ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        Self::open_sized(storage, key, length, kind, repository)
    }

    /// Like [`Container::open`] for an object whose size a listing has told.
    pub fn open_sized(
        storage: &dyn Storage,
        key: &ObjectKey,
        length: u64,
        kind: ContainerKind,
        repository: Ulid,
    ) -> Result<Self> {
        Self::open_as(storage, key, length, (kind, repository), Opening::Checked)
    }

    /// Like [`Container::open_sized`], in one read, for objects of which all will be wanted. Long ones stay where they are.
    pub(crate) fn open_whole(
        storage: &dyn Storage,
        key: &ObjectKey,
        length: u64,
        kind: ContainerKind,
        repository: Ulid,
    ) -> Result<Self> {
        let opening = if length <= WHOLE { Opening::Whole } else { Opening::Checked };
        Self::open_as(storage, key, length, (kind, repository), opening)
    }

    /// Like [`Container::open_sized`] without a read for the header of a long object alone. For what is only looked at: an
    /// object of another kind or repository is found when its content is read.
    pub(crate) fn open_end(
        storage: &dyn Storage,
        key: &ObjectKey,
        length: u64,
        kind: ContainerKind,
        repository: Ulid,
    ) -> Result<Self> {
        Self::open_as(storage, key, length, (kind, repository), Opening::End)
    }

    fn open_as(
        storage: &dyn Storage,
        key: &ObjectKey,
        length: u64,
        expected: (ContainerKind, Ulid),
        opening: Opening,
    ) -> Result<Self> {
        if length < (HEADER + FRAME_HEADER + TRAILER) as u64 {
            return Err(Error::damaged(key, format_args!("only {length} bytes long")));
        }
        let first = if opening == Opening::Whole { 0 } else { length.saturating_sub(FIRST_READ) };
        let mut end = storage.get_range(key, first..length)?;
        let trailer = Trailer::decode(&end, length).map_err(|e| refuse(key, &e))?;
        trailer.table.check(key)?;
        if trailer.table.offset < length - end.len() as u64 {
            end = storage.get_range(key, trailer.table.offset..length)?;
        }
        if end.len() as u64 == length {
            check_header(key, &end[..HEADER], expected)?;
        } else if opening != Opening::End {
            check_header(key, &storage.get_range(key, 0..HEADER as u64)?, expected)?;
        }
        let mut container = Self { key: key.clone(), trailer, table: Vec::new(), end };
        let mut table = Vec::new();
        container.frame_from_end(trailer.table, &mut Decompressor::new()?, &mut table)?;
        container.table = table;
        Ok(container)
    }

    /// The table's plaintext.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// The object's key.
    pub fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// Appends a frame's plaintext to `out`, from the bytes at hand or else from storage.
    pub fn frame(
        &self,
        storage: &dyn Storage,
        position: FramePosition,
        decompressor: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        if self.offset_in_end(position).is_some() {
            return self.frame_from_end(position, decompressor, out);
        }
        read_frame(storage, &self.key, position, decompressor, out)
    }

    fn offset_in_end(&self, position: FramePosition) -> Option<usize> {
        let first = self.trailer.length - self.end.len() as u64;
        position.offset.checked_sub(first).and_then(|offset| usize::try_from(offset).ok())
    }

    fn frame_from_end(&self, position: FramePosition, zstd: &mut Decompressor, out: &mut Vec<u8>) -> Result<()> {
        let frame = self
            .offset_in_end(position)
            .and_then(|at| self.end.get(at..)?.get(..position.length as usize))
            .ok_or_else(|| Error::damaged(&self.key, format_args!("no frame at {}", position.offset)))?;
        zstd.decode(&self.key, frame, out)
    }
}

/// Fetches one frame of an object and appends its plaintext to `out`.
pub(crate) fn read_frame(
    storage: &dyn Storage,
    key: &ObjectKey,
    position: FramePosition,
    decompressor: &mut Decompressor,
    out: &mut Vec<u8>,
) -> Result<()> {
    position.check(key)?;
    let end = position
        .offset
        .checked_add(u64::from(position.length))
        .ok_or_else(|| Error::damaged(key, format_args!("no frame at {}", position.offset)))?;
    let frame = storage.get_range(key, position.offset..end)?;
    decompressor.decode(key, &frame, out)
}

fn check_header(key: &ObjectKey, header: &[u8], (kind, repository): (ContainerKind, Ulid)) -> Result<()> {
    let (found_kind, found_repository) = decode_header(header).map_err(|e| refuse(key, &e))?;
    if found_kind != kind {
        return Err(Error::damaged(key, format_args!("holds {found_kind:?}, expected {kind:?}")));
    }
    if found_repository != repository {
        let problem = format!("belongs to repository {found_repository}, this one is {repository}");
        return Err(Error::Conflict { object: format!("'{key}'"), problem });
    }
    Ok(())
}
