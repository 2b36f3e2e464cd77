//! WAL for tests, as a server would write it: one record on each page, every one with its checksum.

use jiff::Timestamp;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;

use super::spool::Spool;

/// Bytes per segment.
pub(super) const SEGMENT: u64 = 1 << 20;
/// Bytes per page.
pub(super) const PAGE: usize = 8192;
const LONG_HEADER: usize = 40;
const SHORT_HEADER: usize = 24;
const MAJOR: MajorVersion = MajorVersion::V17;
const SYSTEM_IDENTIFIER: u64 = 77;
/// `RM_LOGICALMSG_ID`: replay does nothing for it.
const LOGICAL_MESSAGE: u8 = 21;

/// Bytes per segment, as a size.
pub(super) fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT as u32).unwrap()
}

/// The segment of this number on this timeline.
pub(super) fn segment(timeline: u32, number: u64) -> WalSegment {
    WalSegment { timeline: TimelineId::new(timeline).unwrap(), number: SegmentNumber::new(number) }
}

/// The position this far inside the segment of this number.
pub(super) fn at(number: u64, offset: u64) -> Lsn {
    Lsn::new(number * SEGMENT + offset)
}

/// The cluster that writes it.
pub(super) fn identity() -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: SystemIdentifier::new(SYSTEM_IDENTIFIER),
        major: MAJOR,
        page_size: 8192,
        pages_per_segment: 131_072,
        wal_segment_size: size(),
        registered: Timestamp::UNIX_EPOCH,
    }
}

/// An empty spool, and the directory that it goes with.
pub(super) fn spool() -> (tempfile::TempDir, Spool) {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path().join("stream/main"), size()).unwrap();
    (directory, spool)
}

/// A whole segment. What its records hold is of one byte, `filling`.
pub(super) fn bytes(segment: WalSegment, filling: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let start = segment.start(size()).as_u64();
    let mut previous = start - (PAGE - SHORT_HEADER) as u64;
    while bytes.len() < SEGMENT as usize {
        let address = start + bytes.len() as u64;
        let long = bytes.is_empty();
        bytes.extend(MAJOR.wal_page_magic().to_le_bytes());
        bytes.extend(if long { 2_u16 } else { 0 }.to_le_bytes());
        bytes.extend(segment.timeline.get().to_le_bytes());
        bytes.extend(address.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        if long {
            bytes.extend(SYSTEM_IDENTIFIER.to_le_bytes());
            bytes.extend((SEGMENT as u32).to_le_bytes());
            bytes.extend((PAGE as u32).to_le_bytes());
        }
        let header = if long { LONG_HEADER } else { SHORT_HEADER };
        bytes.extend(record(PAGE - header, previous, filling));
        previous = address + header as u64;
    }
    bytes
}

/// A record of this length, behind the one at `previous`.
fn record(length: usize, previous: u64, filling: u8) -> Vec<u8> {
    // 254: main data, whose length takes four bytes (`XLR_BLOCK_ID_DATA_LONG`).
    let main = length - 24 - 5;
    let body = [&[254], &(main as u32).to_le_bytes()[..], &vec![filling; main]].concat();
    let mut record = Vec::new();
    record.extend((length as u32).to_le_bytes());
    record.extend(9_u32.to_le_bytes());
    record.extend(previous.to_le_bytes());
    record.extend([0, LOGICAL_MESSAGE, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}
