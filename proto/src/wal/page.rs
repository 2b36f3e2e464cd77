//! WAL page headers (`access/xlog_internal.h`): what opens every page, and more at the start of a segment.

use serde::{Deserialize, Serialize};

use super::bytes::Cursor;
use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::segment::{WalSegment, WalSegmentSize};
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

/// Bytes of the header that opens a page (`SizeOfXLogShortPHD`).
pub const SHORT_HEADER: usize = 24;
/// Bytes of the header that opens a segment's first page (`SizeOfXLogLongPHD`).
pub const LONG_HEADER: usize = 40;

/// Size of a WAL page in bytes (`XLOG_BLCKSZ`, chosen when PostgreSQL is compiled): a power of two from 1 to 64 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WalBlockSize(u32);

impl WalBlockSize {
    /// What PostgreSQL is compiled with unless its builder chose otherwise.
    pub const USUAL: Self = Self(8192);

    /// Checks the number against what PostgreSQL's `configure` accepts.
    pub const fn new(bytes: u32) -> Result<Self, PageError> {
        if bytes.is_power_of_two() && bytes >= 1 << 10 && bytes <= 1 << 16 {
            Ok(Self(bytes))
        } else {
            Err(PageError::IllegalBlockSize(bytes))
        }
    }

    /// Bytes per page.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for WalBlockSize {
    type Error = PageError;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<WalBlockSize> for u32 {
    fn from(size: WalBlockSize) -> Self {
        size.0
    }
}

/// Why bytes are no WAL page, or no start of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum PageError {
    /// Fewer bytes than a header has.
    #[error("{have} bytes are too few for a WAL page header of {need}")]
    TooShort {
        /// Bytes at hand.
        have: usize,
        /// Bytes of the header.
        need: usize,
    },
    /// Nothing but zeroes where a header belongs: the page was never written.
    #[error("the WAL page header is all zeroes")]
    Zeroes,
    /// No supported major writes this `xlp_magic`.
    #[error("WAL page magic {0:04X} is of no supported PostgreSQL version (13 to 18)")]
    UnknownMagic(u16),
    /// `xlp_info` has bits that no supported major sets.
    #[error("WAL page flags {0:04X} have unknown bits")]
    UnknownFlags(u16),
    /// `xlp_tli` is 0, which names no timeline.
    #[error("the WAL page names timeline 0")]
    NoTimeline,
    /// The page has no long header, so it does not start a segment.
    #[error("the WAL page has no long header (flags {0:04X}): it does not start a segment")]
    NoLongHeader(u16),
    /// `xlp_seg_size` is impossible.
    #[error("{0} is no WAL segment size: expected a power of two from 1048576 to 1073741824 bytes")]
    IllegalSegmentSize(u32),
    /// `xlp_xlog_blcksz` is impossible.
    #[error("{0} is no WAL page size: expected a power of two from 1024 to 65536 bytes")]
    IllegalBlockSize(u32),
    /// `xlp_pageaddr` of a segment's first page is not a multiple of the segment size.
    #[error("a segment of {segment_size} bytes cannot start at {address}")]
    NoSegmentStart {
        /// Where the page says it is.
        address: Lsn,
        /// The segment size the page states.
        segment_size: u32,
    },
}

/// Bits of `xlp_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageFlags(u16);

impl PageFlags {
    const KNOWN: u16 = 0x000F;

    /// The page begins with the rest of a record that began earlier (`XLP_FIRST_IS_CONTRECORD`).
    pub const fn starts_with_continuation(self) -> bool {
        self.0 & 0x0001 != 0
    }

    /// The long header is present (`XLP_LONG_HEADER`).
    pub const fn has_long_header(self) -> bool {
        self.0 & 0x0002 != 0
    }

    /// The record that the previous page left unfinished was given up; a record that says so begins here
    /// (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
    pub const fn overwrites_continuation(self) -> bool {
        self.0 & 0x0008 != 0
    }

    /// The bits as stored.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// What only a segment's first page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongHeader {
    /// The cluster that wrote the segment (`xlp_sysid`).
    pub system_identifier: SystemIdentifier,
    /// Bytes per segment (`xlp_seg_size`).
    pub segment_size: WalSegmentSize,
    /// Bytes per WAL page (`xlp_xlog_blcksz`).
    pub block_size: WalBlockSize,
}

/// The header of one WAL page (`XLogPageHeaderData`, `XLogLongPageHeaderData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalPageHeader {
    /// The major that wrote the page.
    pub version: MajorVersion,
    /// `xlp_info`.
    pub flags: PageFlags,
    /// The timeline of the page's first record (`xlp_tli`).
    pub timeline: TimelineId,
    /// Where the page is in the WAL (`xlp_pageaddr`).
    pub address: Lsn,
    /// Bytes that the record begun earlier still needs, counted from this page on (`xlp_rem_len`).
    pub remaining: u32,
    /// Present on a segment's first page.
    pub long: Option<LongHeader>,
}

impl WalPageHeader {
    /// Reads the header from a page's first bytes: 24, or 40 where the flags promise a long header.
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        let short = || PageError::TooShort { have: bytes.len(), need: SHORT_HEADER };
        let mut cursor = Cursor::new(bytes);
        let header = cursor.take(SHORT_HEADER).ok_or_else(short)?;
        if header.iter().all(|byte| *byte == 0) {
            return Err(PageError::Zeroes);
        }
        let mut fields = Cursor::new(header);
        let magic = fields.u16().ok_or_else(short)?;
        let info = fields.u16().ok_or_else(short)?;
        let timeline = fields.u32().ok_or_else(short)?;
        let address = fields.u64().ok_or_else(short)?;
        let remaining = fields.u32().ok_or_else(short)?;
        let version = MajorVersion::from_wal_page_magic(magic).ok_or(PageError::UnknownMagic(magic))?;
        if info & !PageFlags::KNOWN != 0 {
            return Err(PageError::UnknownFlags(info));
        }
        let timeline = TimelineId::new(timeline).ok_or(PageError::NoTimeline)?;
        let flags = PageFlags(info);
        let long = if flags.has_long_header() { Some(LongHeader::parse(cursor, bytes.len())?) } else { None };
        Ok(Self { version, flags, timeline, address: Lsn::new(address), remaining, long })
    }

    /// Bytes that the header takes.
    pub const fn length(&self) -> usize {
        if self.long.is_some() { LONG_HEADER } else { SHORT_HEADER }
    }
}

impl LongHeader {
    fn parse(mut fields: Cursor<'_>, have: usize) -> Result<Self, PageError> {
        let short = || PageError::TooShort { have, need: LONG_HEADER };
        let system_identifier = SystemIdentifier::new(fields.u64().ok_or_else(short)?);
        let segment_size = fields.u32().ok_or_else(short)?;
        let block_size = fields.u32().ok_or_else(short)?;
        Ok(Self {
            system_identifier,
            segment_size: WalSegmentSize::new(segment_size).map_err(|_| PageError::IllegalSegmentSize(segment_size))?,
            block_size: WalBlockSize::new(block_size)?,
        })
    }
}

/// How the WAL of one cluster is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFormat {
    /// The major that writes it.
    pub version: MajorVersion,
    /// Bytes per segment.
    pub segment_size: WalSegmentSize,
    /// Bytes per page.
    pub block_size: WalBlockSize,
}

/// What the first 40 bytes of a segment file say about it: enough to refuse a file of another cluster, another
/// version or under a wrong name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The major that wrote the segment.
    pub version: MajorVersion,
    /// The timeline of the first page (`xlp_tli`). It is lower than the file name's where a new timeline's first
    /// segment begins with bytes copied from the old one.
    pub timeline: TimelineId,
    /// Position of the segment's first byte, a multiple of the segment size.
    pub page_address: Lsn,
    /// The cluster that wrote the segment.
    pub system_identifier: SystemIdentifier,
    /// Bytes per segment.
    pub segment_size: WalSegmentSize,
    /// Bytes per WAL page.
    pub wal_block_size: WalBlockSize,
}

/// A segment's header contradicts the name it came under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum MisnamedSegment {
    /// The file holds another part of the WAL.
    #[error("the segment's name says it starts at {named}, its first page says {found}")]
    Address {
        /// What the name says.
        named: Lsn,
        /// What the page says.
        found: Lsn,
    },
    /// The file is of a newer timeline than its name.
    #[error("the segment's name says timeline {named}, its first page says {found}, which is newer")]
    Timeline {
        /// What the name says.
        named: TimelineId,
        /// What the page says.
        found: TimelineId,
    },
}

impl SegmentHeader {
    /// Reads the header from a segment's first bytes, of which it needs [`LONG_HEADER`].
    pub fn parse(bytes: &[u8]) -> Result<Self, PageError> {
        if bytes.len() < LONG_HEADER {
            return Err(PageError::TooShort { have: bytes.len(), need: LONG_HEADER });
        }
        let page = WalPageHeader::parse(bytes)?;
        let long = page.long.ok_or(PageError::NoLongHeader(page.flags.bits()))?;
        if long.segment_size.offset_of(page.address) != 0 {
            return Err(PageError::NoSegmentStart { address: page.address, segment_size: long.segment_size.bytes() });
        }
        Ok(Self {
            version: page.version,
            timeline: page.timeline,
            page_address: page.address,
            system_identifier: long.system_identifier,
            segment_size: long.segment_size,
            wal_block_size: long.block_size,
        })
    }

    /// Whether the file may carry the name of `segment`: same position, and a timeline that is not newer.
    pub fn check_name(&self, segment: WalSegment) -> Result<(), MisnamedSegment> {
        let named = segment.start(self.segment_size);
        if self.page_address != named {
            return Err(MisnamedSegment::Address { named, found: self.page_address });
        }
        if self.timeline > segment.timeline {
            return Err(MisnamedSegment::Timeline { named: segment.timeline, found: self.timeline });
        }
        Ok(())
    }

    /// How the WAL that this segment belongs to is laid out.
    pub const fn format(&self) -> WalFormat {
        WalFormat { version: self.version, segment_size: self.segment_size, block_size: self.wal_block_size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(0xD116u16.to_le_bytes());
        bytes.extend(2u16.to_le_bytes());
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(0x0500_0000u64.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(77u64.to_le_bytes());
        bytes.extend((1u32 << 20).to_le_bytes());
        bytes.extend(8192u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_segment_says_what_it_is() {
        let found = SegmentHeader::parse(&header()).unwrap();
        assert_eq!(found.version, MajorVersion::V17);
        assert_eq!(found.page_address, Lsn::new(0x0500_0000));
        assert_eq!(found.system_identifier, SystemIdentifier::new(77));
        assert_eq!(found.segment_size.bytes(), 1 << 20);
        let number = found.segment_size.segment_at(found.page_address);
        let named = |timeline| WalSegment { timeline: TimelineId::new(timeline).unwrap(), number };
        assert!(found.check_name(named(3)).is_ok());
        assert!(found.check_name(named(4)).is_ok());
        assert!(matches!(found.check_name(named(2)), Err(MisnamedSegment::Timeline { .. })));
        let elsewhere = WalSegment { timeline: TimelineId::new(3).unwrap(), number: number.next() };
        assert!(matches!(found.check_name(elsewhere), Err(MisnamedSegment::Address { .. })));
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        let changed = |at: usize, bytes: &[u8]| {
            let mut header = header();
            header[at..at + bytes.len()].copy_from_slice(bytes);
            SegmentHeader::parse(&header).unwrap_err()
        };
        assert_eq!(changed(0, &[0x21, 0xD1]), PageError::UnknownMagic(0xD121));
        assert_eq!(changed(2, &[0]), PageError::NoLongHeader(0));
        assert_eq!(changed(2, &[0x12]), PageError::UnknownFlags(0x12));
        assert_eq!(changed(4, &[0]), PageError::NoTimeline);
        assert_eq!(
            changed(8, &[1]),
            PageError::NoSegmentStart { address: Lsn::new(0x0500_0001), segment_size: 1 << 20 }
        );
        assert_eq!(changed(32, &[1]), PageError::IllegalSegmentSize((1 << 20) + 1));
        assert_eq!(changed(36, &[1]), PageError::IllegalBlockSize(8193));
        assert_eq!(SegmentHeader::parse(&[0; 40]), Err(PageError::Zeroes));
        assert_eq!(SegmentHeader::parse(&header()[..39]), Err(PageError::TooShort { have: 39, need: 40 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = SegmentHeader::parse(&bytes);
            let _ = WalPageHeader::parse(&bytes);
        }
        #[test]
        fn a_damaged_header_is_a_header_or_an_error(at in 0usize..40, byte: u8) {
            let mut bytes = header();
            bytes[at] = byte;
            let _ = SegmentHeader::parse(&bytes);
        }
    }
}
