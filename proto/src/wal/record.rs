//! WAL records (`access/xlogrecord.h`): header, block references, main data.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::block::BlockReference;
use super::bytes::Cursor;
use crate::lsn::Lsn;
use crate::version::MajorVersion;

/// Bytes of a record's header (`SizeOfXLogRecord`).
pub const RECORD_HEADER: usize = 24;
/// The longest record that is believed: PostgreSQL can read none of more than `MaxAllocSize`, 1 GiB less one byte,
/// and 16 and later write none of more than 1020 MiB.
pub const MAX_RECORD: u32 = 0x3FFF_FFFF;

/// A transaction's number, without its epoch (PostgreSQL's `TransactionId`). 0 means none.
pub type TransactionId = u32;

/// Who wrote a record and can read its main data (`RmgrId`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceManager(u8);

impl ResourceManager {
    /// Checkpoints, restore points, segment switches, page images.
    pub const XLOG: Self = Self(0);
    /// Commits and aborts.
    pub const TRANSACTION: Self = Self(1);
    /// Creation and truncation of relation files.
    pub const STORAGE: Self = Self(2);
    /// Creation and removal of databases.
    pub const DATABASE: Self = Self(4);
    const LAST_BUILT_IN: u8 = 21;
    const FIRST_CUSTOM: u8 = 128;

    /// The names of the built-in managers by number, as `pg_waldump --rmgr=list` prints them.
    const NAMES: [&'static str; 22] = [
        "XLOG",
        "Transaction",
        "Storage",
        "CLOG",
        "Database",
        "Tablespace",
        "MultiXact",
        "RelMap",
        "Standby",
        "Heap2",
        "Heap",
        "Btree",
        "Hash",
        "Gin",
        "Gist",
        "Sequence",
        "SPGist",
        "BRIN",
        "CommitTs",
        "ReplicationOrigin",
        "Generic",
        "LogicalMessage",
    ];

    /// The manager of this number, if `version` has it. 15 and later leave 128 to 255 to extensions.
    pub fn new(id: u8, version: MajorVersion) -> Option<Self> {
        let custom = version >= MajorVersion::V15 && id >= Self::FIRST_CUSTOM;
        (id <= Self::LAST_BUILT_IN || custom).then_some(Self(id))
    }

    /// The number.
    pub const fn id(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ResourceManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "custom{:03}", self.0),
        }
    }
}

/// What is impossible about a record whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordProblem {
    /// A part reaches past the record's end.
    #[error("{0} reaches past the record's end")]
    Truncated(&'static str),
    /// The parts take fewer bytes than the record has.
    #[error("{0} bytes belong to no part of the record")]
    Leftover(usize),
    /// A fragment that this major does not write.
    #[error("fragment {0} is unknown")]
    Fragment(u8),
    /// Block references do not ascend.
    #[error("block reference {found} follows {before}")]
    BlockOrder {
        /// The reference before.
        before: u8,
        /// This one.
        found: u8,
    },
    /// A block reference names a fork that does not exist.
    #[error("block reference {id} names fork {fork}")]
    Fork {
        /// Number of the reference.
        id: u8,
        /// The fork's number.
        fork: u8,
    },
    /// A block reference is for "the same relation" as one before, but it is the first.
    #[error("block reference {0} means the relation of the one before, but it is the first")]
    NoRelation(u8),
    /// The flag that promises data and the data's length disagree.
    #[error("block reference {id} has {length} bytes of data against its flag")]
    BlockData {
        /// Number of the reference.
        id: u8,
        /// Bytes of data.
        length: u16,
    },
    /// A number in the main data names nothing.
    #[error("{what} {value} does not exist")]
    Value {
        /// What the number should name.
        what: &'static str,
        /// The number.
        value: i64,
    },
    /// The record that gives up an unfinished one names another, or does not follow it.
    #[error("the unfinished record {unfinished} was given up, but the record here gives up {named:?}")]
    Overwrites {
        /// Where the unfinished record began.
        unfinished: Lsn,
        /// What the record here names; `None` when it is of another kind.
        named: Option<Lsn>,
    },
}

/// The header of a record (`XLogRecord`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Bytes of the whole record (`xl_tot_len`), without page headers inside it and padding behind it.
    pub total_length: u32,
    /// The transaction that wrote it, or 0 (`xl_xid`).
    pub xid: TransactionId,
    /// Where the record before begins (`xl_prev`).
    pub previous: Lsn,
    /// Flags: the high four bits belong to the resource manager (`xl_info`).
    pub info: u8,
    /// Number of the resource manager (`xl_rmid`).
    pub resource_manager: u8,
    /// CRC-32C of the record without this field, the part behind the header first (`xl_crc`).
    pub checksum: u32,
}

impl RecordHeader {
    /// Reads a record's first [`RECORD_HEADER`] bytes; `None` if there are fewer.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(bytes);
        let total_length = cursor.u32()?;
        let xid = cursor.u32()?;
        let previous = Lsn::new(cursor.u64()?);
        let info = cursor.u8()?;
        let resource_manager = cursor.u8()?;
        cursor.u16()?;
        let checksum = cursor.u32()?;
        Some(Self { total_length, xid, previous, info, resource_manager, checksum })
    }

    /// The checksum that a whole record's bytes give; `None` where they are shorter than a header.
    #[inline]
    pub fn compute_checksum(record: &[u8]) -> Option<u32> {
        let (header, body) = record.split_at_checked(RECORD_HEADER)?;
        Some(crc32c::crc32c_append(crc32c::crc32c(body), header.get(..RECORD_HEADER - 4)?))
    }
}

/// What a record's fragments say besides its block references.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragments {
    main_length: usize,
    origin: Option<u16>,
    toplevel_xid: Option<TransactionId>,
}

impl Fragments {
    /// Reads the fragments of a whole record; block references go into `blocks`, which is emptied first.
    pub(super) fn parse(
        record: &[u8],
        version: MajorVersion,
        blocks: &mut Vec<BlockReference>,
    ) -> Result<Self, RecordProblem> {
        const MAX_BLOCK: u8 = 32;
        blocks.clear();
        let short = RecordProblem::Truncated;
        let mut found = Self::default();
        let mut cursor = Cursor::new(record);
        cursor.take(RECORD_HEADER).ok_or(short("the header"))?;
        // Bytes behind the fragments that those read so far lay claim to.
        let mut claimed = 0usize;
        while cursor.remaining() > claimed {
            match cursor.u8().ok_or(short("a fragment"))? {
                255 => found.main_length = usize::from(cursor.u8().ok_or(short("the main data's length"))?),
                254 => {
                    let length = cursor.u32().ok_or(short("the main data's length"))?;
                    found.main_length = usize::try_from(length).map_err(|_| short("the main data"))?;
                }
                253 => {
                    found.origin = Some(cursor.u16().ok_or(short("the origin"))?);
                    continue;
                }
                252 if version >= MajorVersion::V14 => {
                    found.toplevel_xid = Some(cursor.u32().ok_or(short("the top-level transaction"))?);
                    continue;
                }
                id if id <= MAX_BLOCK => {
                    let before = blocks.last();
                    if let Some(before) = before
                        && before.id >= id
                    {
                        return Err(RecordProblem::BlockOrder { before: before.id, found: id });
                    }
                    let block = BlockReference::parse(id, &mut cursor, version, before)?;
                    claimed = claimed.saturating_add(block.stored());
                    blocks.push(block);
                    continue;
                }
                id => return Err(RecordProblem::Fragment(id)),
            }
            // Main data is the last fragment.
            claimed = claimed.saturating_add(found.main_length);
            break;
        }
        match cursor.remaining().checked_sub(claimed) {
            Some(0) => Ok(found),
            Some(leftover) => Err(RecordProblem::Leftover(leftover)),
            None => Err(short("the data behind the fragments")),
        }
    }
}

/// A whole record, its checksum verified and its fragments read.
#[derive(Clone, Copy, Debug)]
pub struct DecodedRecord<'a> {
    /// Where the record begins.
    pub start: Lsn,
    /// Where the next record may begin: padding is behind us, a page header is not. Behind a segment switch it is the
    /// next segment's start, as in PostgreSQL's `EndRecPtr`.
    pub end: Lsn,
    /// The major whose layouts the record follows.
    pub version: MajorVersion,
    /// Bytes of the record itself.
    pub total_length: u32,
    /// Where the record before begins.
    pub previous: Lsn,
    /// The transaction that wrote it, or 0.
    pub xid: TransactionId,
    /// The top-level transaction, where a subtransaction's first record states it (14 and later).
    pub toplevel_xid: Option<TransactionId>,
    /// Who wrote it.
    pub resource_manager: ResourceManager,
    /// Flags (`xl_info`).
    pub info: u8,
    /// The replication origin, if the change came from another cluster.
    pub origin: Option<u16>,
    /// The blocks that it changes or shows.
    pub block_refs: &'a [BlockReference],
    /// What the resource manager wrote besides block data.
    pub main_data: &'a [u8],
}

impl<'a> DecodedRecord<'a> {
    /// Puts together what was read of `record`.
    pub(super) fn assemble(
        record: &'a [u8],
        header: &RecordHeader,
        resource_manager: ResourceManager,
        fragments: &Fragments,
        block_refs: &'a [BlockReference],
        place: Place,
    ) -> Self {
        let main_start = record.len().saturating_sub(fragments.main_length);
        Self {
            start: place.start,
            end: place.end,
            version: place.version,
            total_length: header.total_length,
            previous: header.previous,
            xid: header.xid,
            toplevel_xid: fragments.toplevel_xid,
            resource_manager,
            info: header.info,
            origin: fragments.origin,
            block_refs,
            main_data: record.get(main_start..).unwrap_or_default(),
        }
    }

    /// The resource manager's own four bits of [`DecodedRecord::info`], which say what kind of record this is.
    pub const fn kind(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether the record changes relation files in a way that its block references do not show
    /// (`XLR_SPECIAL_REL_UPDATE`).
    pub const fn is_special_relation_update(&self) -> bool {
        self.info & 0x01 != 0
    }
}

/// Where a record is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) version: MajorVersion,
}

#[cfg(test)]
mod tests {
    use super::super::block::{BlockImage, ImageCompression};
    use super::*;
    use crate::identity::{ForkNumber, RelFileLocator};
    use proptest::prelude::*;

    fn parse(version: MajorVersion, fragments: &[u8]) -> Result<(Fragments, Vec<BlockReference>), RecordProblem> {
        let mut record = vec![0; RECORD_HEADER];
        record.extend_from_slice(fragments);
        let mut blocks = Vec::new();
        Fragments::parse(&record, version, &mut blocks).map(|found| (found, blocks))
    }

    const PLAIN_BLOCK: [u8; 20] = [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0];

    #[test]
    fn fragments_of_every_kind_are_read() {
        let mut bytes = vec![253, 7, 0, 252, 9, 0, 0, 0];
        bytes.extend(PLAIN_BLOCK);
        // Same relation, visibility map, two bytes of data and an image of three bytes with a hole.
        bytes.extend([5, 0x80 | 0x20 | 0x10 | 0x40 | 2, 2, 0, 3, 0, 0, 0, 0x05, 8, 0, 6, 0, 0, 0]);
        bytes.extend([255, 1, b'i', b'i', b'i', b'd', b'd', b'm']);
        let (found, blocks) = parse(MajorVersion::V15, &bytes).unwrap();
        assert_eq!(found, Fragments { main_length: 1, origin: Some(7), toplevel_xid: Some(9) });
        let locator = RelFileLocator { tablespace: 1, database: 2, relation: 3 };
        assert_eq!((blocks[0].locator, blocks[0].block), (locator, 4));
        assert_eq!((blocks[1].locator, blocks[1].block, blocks[1].id), (locator, 6, 5));
        assert_eq!(blocks[1].fork, ForkNumber::VisibilityMap);
        let image = BlockImage { length: 3, apply: false, compression: ImageCompression::Pglz };
        assert_eq!((blocks[1].image, blocks[1].will_init), (Some(image), true));
    }

    #[test]
    fn image_flags_depend_on_the_major() {
        // Flags 0x06: applied and compressed in 13 and 14, pglz and applied in 15; 0x03: no hole length before 15's
        // compression bits, since 0x02 means "compressed" there.
        let with_info = |info: u8, hole: &[u8]| {
            let mut bytes = vec![0, 0x10, 0, 0, 1, 0, 0, 0, info];
            bytes.extend(hole);
            bytes.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, b'i']);
            bytes
        };
        for version in [MajorVersion::V14, MajorVersion::V18] {
            let (_, blocks) = parse(version, &with_info(0x06, &[])).unwrap();
            assert!(blocks[0].image.unwrap().apply);
            assert_eq!(blocks[0].image.unwrap().compression, ImageCompression::Pglz);
        }
        assert!(parse(MajorVersion::V14, &with_info(0x03, &[9, 0])).is_ok());
        assert!(parse(MajorVersion::V15, &with_info(0x03, &[])).is_ok());
        assert!(parse(MajorVersion::V15, &with_info(0x11, &[9, 0])).is_ok());
    }

    #[test]
    fn impossible_fragments_are_named() {
        let v18 = MajorVersion::V18;
        assert_eq!(parse(MajorVersion::V13, &[252, 1, 0, 0, 0]), Err(RecordProblem::Fragment(252)));
        assert_eq!(parse(v18, &[33]), Err(RecordProblem::Fragment(33)));
        assert_eq!(parse(v18, &[255, 2, 0]), Err(RecordProblem::Truncated("the data behind the fragments")));
        assert_eq!(parse(v18, &[255, 1, 0, 0]), Err(RecordProblem::Leftover(1)));
        assert_eq!(parse(v18, &[0, 0x80, 0, 0, 4, 0, 0, 0]), Err(RecordProblem::NoRelation(0)));
        assert_eq!(parse(v18, &[0, 4, 0, 0, 0]), Err(RecordProblem::Fork { id: 0, fork: 4 }));
        assert_eq!(parse(v18, &[0, 0x20, 0, 0, 0]), Err(RecordProblem::BlockData { id: 0, length: 0 }));
        let twice = [PLAIN_BLOCK, PLAIN_BLOCK].concat();
        assert_eq!(parse(v18, &twice), Err(RecordProblem::BlockOrder { before: 0, found: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_fragments_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            version in proptest::sample::select(&MajorVersion::ALL[..]),
        ) {
            let _ = parse(version, &bytes);
            let _ = RecordHeader::parse(&bytes);
            let _ = RecordHeader::compute_checksum(&bytes);
        }
    }
}
