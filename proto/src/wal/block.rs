//! References to blocks inside WAL records, and the page images that come with them.

use super::bytes::Cursor;
use super::record::RecordProblem;
use crate::identity::{BlockNumber, ForkNumber, RelFileLocator};
use crate::version::MajorVersion;

/// How a page image is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCompression {
    /// As it is, less its hole.
    None,
    /// PostgreSQL's own LZ.
    Pglz,
    /// LZ4 (15 and later).
    Lz4,
    /// Zstandard (15 and later).
    Zstd,
}

/// A page image inside a record (`XLogRecordBlockImageHeader`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockImage {
    /// Bytes stored.
    pub length: u16,
    /// Whether replay puts the image in place; otherwise it is for consistency checks only.
    pub apply: bool,
    /// How it is stored.
    pub compression: ImageCompression,
}

impl BlockImage {
    fn parse(cursor: &mut Cursor<'_>, version: MajorVersion) -> Option<Self> {
        const HAS_HOLE: u8 = 0x01;
        let length = cursor.u16()?;
        let _hole_offset = cursor.u16()?;
        let info = cursor.u8()?;
        let (apply, compression) = if version < MajorVersion::V15 {
            let compression = if info & 0x02 != 0 { ImageCompression::Pglz } else { ImageCompression::None };
            (info & 0x04 != 0, compression)
        } else {
            let compression = match info & 0x1C {
                0 => ImageCompression::None,
                0x04 => ImageCompression::Pglz,
                0x08 => ImageCompression::Lz4,
                _ => ImageCompression::Zstd,
            };
            (info & 0x02 != 0, compression)
        };
        if compression != ImageCompression::None && info & HAS_HOLE != 0 {
            let _hole_length = cursor.u16()?;
        }
        Some(Self { length, apply, compression })
    }
}

/// One block that a record changes or shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReference {
    /// Number of the reference inside the record.
    pub id: u8,
    /// The relation.
    pub locator: RelFileLocator,
    /// The fork of the relation.
    pub fork: ForkNumber,
    /// The block of the fork.
    pub block: BlockNumber,
    /// The page image, if the record carries one.
    pub image: Option<BlockImage>,
    /// Whether replay starts the page anew instead of reading it.
    pub will_init: bool,
    /// Bytes of data that belong to this block.
    pub data_length: u16,
}

impl BlockReference {
    /// Whether the record carries an image of the page.
    pub const fn has_image(&self) -> bool {
        self.image.is_some()
    }

    pub(super) fn parse(
        id: u8,
        cursor: &mut Cursor<'_>,
        version: MajorVersion,
        before: Option<&Self>,
    ) -> Result<Self, RecordProblem> {
        const HAS_IMAGE: u8 = 0x10;
        const HAS_DATA: u8 = 0x20;
        const WILL_INIT: u8 = 0x40;
        const SAME_RELATION: u8 = 0x80;
        let short = || RecordProblem::Truncated("a block reference");
        let flags = cursor.u8().ok_or_else(short)?;
        let data_length = cursor.u16().ok_or_else(short)?;
        if (flags & HAS_DATA != 0) != (data_length != 0) {
            return Err(RecordProblem::BlockData { id, length: data_length });
        }
        let fork = flags & 0x0F;
        let fork = ForkNumber::from_number(u32::from(fork)).ok_or(RecordProblem::Fork { id, fork })?;
        let image = match flags & HAS_IMAGE {
            0 => None,
            _ => Some(BlockImage::parse(cursor, version).ok_or_else(short)?),
        };
        let locator = if flags & SAME_RELATION == 0 {
            read_locator(cursor).ok_or_else(short)?
        } else {
            before.ok_or(RecordProblem::NoRelation(id))?.locator
        };
        let block = cursor.u32().ok_or_else(short)?;
        Ok(Self { id, locator, fork, block, image, will_init: flags & WILL_INIT != 0, data_length })
    }

    /// Bytes of image and data behind the record's fragments.
    pub(super) fn stored(&self) -> usize {
        usize::from(self.data_length) + self.image.map_or(0, |image| usize::from(image.length))
    }
}

/// Reads a `RelFileLocator` (`RelFileNode` before 16): tablespace, database, relation.
pub(super) fn read_locator(cursor: &mut Cursor<'_>) -> Option<RelFileLocator> {
    Some(RelFileLocator { tablespace: cursor.u32()?, database: cursor.u32()?, relation: cursor.u32()? })
}
