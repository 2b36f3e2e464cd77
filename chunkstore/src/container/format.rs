//! Fixed-size parts of a container, byte by byte.

use ulid::Ulid;

/// Bytes of the header.
pub const HEADER: usize = 64;
/// Bytes of a frame's header.
pub const FRAME_HEADER: usize = 24;
/// Bytes of the trailer.
pub const TRAILER: usize = 40;
/// Most plaintext bytes one frame may hold; a larger number in a header is damage, not a reason to allocate.
pub const MAX_RAW_FRAME: u32 = 32 << 20;

const MAGIC: &[u8; 8] = b"walkeep\0";
const FRAME_MAGIC: &[u8; 4] = b"WKFR";
const END_MAGIC: &[u8; 8] = b"walkeepE";
const FORMAT: u16 = 1;
const SUITE_NONE: u8 = 0;

/// What a container holds. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ContainerKind {
    /// Chunks of relation data and other files.
    Pack = 1,
    /// Chunks that are page maps, byte maps and file lists.
    Nodes = 2,
    /// Chunk → location tables.
    Index = 3,
    /// Root of a base backup.
    Backup = 4,
    /// A complete WAL segment.
    WalSegment = 5,
    /// The beginning of a segment that is still being written.
    WalTail = 6,
    /// A small file of the WAL archive: `.history`, `.backup`, `.partial`.
    WalFile = 7,
}

impl ContainerKind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Pack, Self::Nodes, Self::Index, Self::Backup, Self::WalSegment, Self::WalTail, Self::WalFile]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// How a frame's plaintext became its stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Codec {
    /// As it is: compression did not help.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// Where a frame lies in its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct FramePosition {
    /// Offset of the frame's header.
    pub offset: u64,
    /// Length of header and stored bytes.
    pub length: u32,
}

impl FramePosition {
    /// Refuses a length that no frame has, before anything is allocated for it: stored bytes are never more than raw ones.
    pub(crate) fn check(self, object: &impl std::fmt::Display) -> Result<(), crate::Error> {
        if self.length <= MAX_RAW_FRAME + FRAME_HEADER as u32 {
            Ok(())
        } else {
            Err(crate::Error::damaged(object, format_args!("a frame of {} bytes at {}", self.length, self.offset)))
        }
    }
}

/// Why bytes are no valid part of a container.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FormatError {
    /// Fewer bytes than the part has.
    #[error("{found} bytes, expected at least {expected}")]
    Short {
        /// Bytes there.
        found: u64,
        /// Bytes needed.
        expected: u64,
    },
    /// Not ours.
    #[error("no {0} magic")]
    Magic(&'static str),
    /// Checksum over the part disagrees.
    #[error("{part} has checksum {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Which part.
        part: &'static str,
        /// Computed over the bytes.
        found: u32,
        /// Stored beside them.
        expected: u32,
    },
    /// A newer format.
    #[error("format {found} is newer than {FORMAT}, the newest this build reads")]
    Newer {
        /// Format in the header.
        found: u16,
    },
    /// A field holds something impossible.
    #[error("{0}")]
    Field(String),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn require(bytes: &[u8], expected: usize) -> Result<(), FormatError> {
    if bytes.len() >= expected {
        Ok(())
    } else {
        Err(FormatError::Short { found: bytes.len() as u64, expected: expected as u64 })
    }
}

/// The header's bytes.
pub(super) fn encode_header(kind: ContainerKind, repository: Ulid) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&FORMAT.to_le_bytes());
    header[10] = kind as u8;
    header[11] = SUITE_NONE;
    header[16..32].copy_from_slice(&repository.to_bytes());
    header
}

/// Checks a header and gives the kind and the repository it names.
pub(super) fn decode_header(bytes: &[u8]) -> Result<(ContainerKind, Ulid), FormatError> {
    require(bytes, HEADER)?;
    if &bytes[..8] != MAGIC {
        return Err(FormatError::Magic("object"));
    }
    let format = u16::from_le_bytes([bytes[8], bytes[9]]);
    if format != FORMAT {
        return Err(FormatError::Newer { found: format });
    }
    if bytes[11] != SUITE_NONE {
        return Err(FormatError::Field(format!("cipher suite {} is not known to this build", bytes[11])));
    }
    // Nothing else covers these bytes in objects that are not named by their hash.
    if bytes[12..16].iter().chain(&bytes[32..HEADER]).any(|byte| *byte != 0) {
        return Err(FormatError::Field("reserved bytes of the header are not zero".to_owned()));
    }
    let kind = ContainerKind::from_number(bytes[10])
        .ok_or_else(|| FormatError::Field(format!("object kind {} is not known to this build", bytes[10])))?;
    let mut repository = [0; 16];
    repository.copy_from_slice(&bytes[16..32]);
    Ok((kind, Ulid::from_bytes(repository)))
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) sequence: u32,
    pub(super) stored: u32,
    pub(super) raw: u32,
    pub(super) codec: Codec,
}

impl FrameHeader {
    /// Header bytes for these stored bytes.
    pub(super) fn encode(self, stored: &[u8]) -> [u8; FRAME_HEADER] {
        let mut header = [0; FRAME_HEADER];
        header[..4].copy_from_slice(FRAME_MAGIC);
        header[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        header[8..12].copy_from_slice(&self.stored.to_le_bytes());
        header[12..16].copy_from_slice(&self.raw.to_le_bytes());
        header[16] = self.codec as u8;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..20]), stored);
        header[20..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Checks a whole frame and gives its header and stored bytes.
    pub(super) fn decode(frame: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        require(frame, FRAME_HEADER)?;
        let (header, rest) = frame.split_at(FRAME_HEADER);
        if &header[..4] != FRAME_MAGIC {
            return Err(FormatError::Magic("frame"));
        }
        let codec = match header[16] {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            other => return Err(FormatError::Field(format!("codec {other} is not known to this build"))),
        };
        let decoded = Self { sequence: u32_at(header, 4), stored: u32_at(header, 8), raw: u32_at(header, 12), codec };
        let length = decoded.stored as usize;
        let stored =
            rest.get(..length).ok_or(FormatError::Short { found: rest.len() as u64, expected: length as u64 })?;
        let found = crc32c::crc32c_append(crc32c::crc32c(&header[..20]), stored);
        let expected = u32_at(header, 20);
        if found != expected {
            return Err(FormatError::Checksum { part: "frame", found, expected });
        }
        if decoded.raw > MAX_RAW_FRAME || (codec == Codec::Raw && decoded.raw != decoded.stored) {
            return Err(FormatError::Field(format!("frame of {} plaintext bytes", decoded.raw)));
        }
        Ok((decoded, stored))
    }
}

/// The end of an object: where its table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Where the table frame lies.
    pub table: FramePosition,
    /// How many frames there are, the table included.
    pub frames: u32,
    /// Length of the whole object.
    pub length: u64,
}

impl Trailer {
    /// The trailer's bytes.
    pub(super) fn encode(self) -> [u8; TRAILER] {
        let mut bytes = [0; TRAILER];
        bytes[..8].copy_from_slice(&self.table.offset.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.frames.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.table.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes[32..].copy_from_slice(END_MAGIC);
        bytes
    }

    /// Reads the last bytes of an object that is `length` bytes long.
    pub(super) fn decode(end: &[u8], length: u64) -> Result<Self, FormatError> {
        require(end, TRAILER)?;
        let bytes = &end[end.len() - TRAILER..];
        if &bytes[32..] != END_MAGIC {
            return Err(FormatError::Magic("end"));
        }
        let (found, expected) = (crc32c::crc32c(&bytes[..28]), u32_at(bytes, 28));
        if found != expected {
            return Err(FormatError::Checksum { part: "trailer", found, expected });
        }
        let table = FramePosition { offset: u64_at(bytes, 0), length: u32_at(bytes, 12) };
        let trailer = Self { table, frames: u32_at(bytes, 8), length: u64_at(bytes, 16) };
        if trailer.length != length {
            return Err(FormatError::Field(format!("{length} bytes long, its trailer says {}", trailer.length)));
        }
        let table_end = table.offset.checked_add(u64::from(table.length));
        if table_end.and_then(|at| at.checked_add(TRAILER as u64)) != Some(length) || table.offset < HEADER as u64 {
            return Err(FormatError::Field("table does not end where the trailer begins".to_owned()));
        }
        Ok(trailer)
    }
}
