//! Target `wal`: a segment as it is, or one that is written from a list of records; whole and in pieces.
//!
//! ```text
//! 0  cut  bytes of a segment …
//! 1  cut  major − 13  { u16 length of body, u8 resource manager, u8 info, body } …
//! ```
//!
//! Random bytes never have the right checksum, so the second form writes page headers, links and checksums itself and
//! leaves the fuzzer what stands in the records.

use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::join::join_crossing_record;
use walkeep_proto::wal::{ScanContext, SegmentHeader, WalDecoder, WalError, scan_segment};

use crate::pieces::cut;

const SEGMENT: usize = 1 << 20;
const PAGE: usize = 8192;
/// Where the written segments begin.
const BASE: u64 = 5 << 20;

/// Runs the target.
pub fn check(input: &[u8]) {
    match input {
        [0, seed, segment @ ..] => read(segment, *seed),
        [1, seed, version, records @ ..] => {
            let version = MajorVersion::ALL[usize::from(*version) % MajorVersion::ALL.len()];
            let written = write(version, records);
            for segment in written.chunks(SEGMENT) {
                read(segment, *seed);
            }
        }
        _ => {}
    }
}

fn read(bytes: &[u8], seed: u8) {
    // The context is what the bytes themselves say: another would be refused at once.
    let Ok(header) = SegmentHeader::parse(bytes) else { return };
    let number = header.segment_size.segment_at(header.page_address);
    let segment = WalSegment { timeline: header.timeline, number };
    let context = ScanContext { segment, segment_size: header.segment_size, system_identifier: None };
    if let Ok(scan) = scan_segment(bytes, &context) {
        let start = segment.start(header.segment_size);
        assert!(start <= scan.valid_up_to && scan.valid_up_to <= number.end(header.segment_size));
        assert!(scan.first_record.map(|record| record.start) <= scan.last_record);
        let _ = join_crossing_record(&scan, &scan);
    }
    let whole = records(&header, &[bytes]);
    assert_eq!(records(&header, &cut(bytes, seed)), whole, "pieces must not matter");
}

/// Starts and ends of all records, and the error that ended the reading.
fn records(header: &SegmentHeader, pieces: &[&[u8]]) -> (Vec<(Lsn, Lsn)>, Option<String>) {
    let mut found = Vec::new();
    let mut decoder = match WalDecoder::new(header.format(), header.timeline, header.page_address) {
        Ok(decoder) => decoder,
        Err(error) => return (found, Some(error.to_string())),
    };
    for piece in pieces {
        let mut records = decoder.feed(piece);
        loop {
            match records.next_record() {
                Ok(Some(record)) => {
                    assert!(record.start < record.end);
                    found.push((record.start, record.end));
                    match record.meaning() {
                        Ok(meaning) => drop(format!("{meaning:?}")),
                        Err(error) => assert!(matches!(error, WalError::Malformed { .. }), "{error}"),
                    }
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error.to_string())),
            }
        }
    }
    let end = decoder.unfinished().map(|record| format!("{} {:?}", record.start, record.total_length));
    (found, end)
}

/// Writes WAL as PostgreSQL would: page headers, checksums, links.
fn write(version: MajorVersion, mut list: &[u8]) -> Vec<u8> {
    let mut wal = Vec::new();
    let mut previous = BASE - 64;
    while let [low, high, manager, info, rest @ ..] = list {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (body, later) = rest.split_at(length);
        list = later;
        page_header(version, &mut wal, 0);
        let start = BASE + wal.len() as u64;
        append(version, &mut wal, &record(previous, *manager, *info, body));
        previous = start;
    }
    wal
}

fn record(previous: u64, manager: u8, info: u8, body: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend(9u32.to_le_bytes());
    record.extend(previous.to_le_bytes());
    record.extend([info, manager, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}

fn append(version: MajorVersion, wal: &mut Vec<u8>, record: &[u8]) {
    let mut rest = record;
    while !rest.is_empty() {
        let continued = if rest.len() < record.len() { rest.len() } else { 0 };
        page_header(version, wal, continued);
        let room = PAGE - wal.len() % PAGE;
        let (now, later) = rest.split_at(room.min(rest.len()));
        wal.extend(now);
        rest = later;
    }
    wal.resize(wal.len().next_multiple_of(8), 0);
}

/// At a page's start, its header; `continued` is what a record that began before still needs.
fn page_header(version: MajorVersion, wal: &mut Vec<u8>, continued: usize) {
    if !wal.len().is_multiple_of(PAGE) {
        return;
    }
    let long = wal.len().is_multiple_of(SEGMENT);
    let address = BASE + wal.len() as u64;
    let flags = u16::from(continued > 0) | if long { 2 } else { 0 };
    wal.extend(version.wal_page_magic().to_le_bytes());
    wal.extend(flags.to_le_bytes());
    wal.extend(TimelineId::FIRST.get().to_le_bytes());
    wal.extend(address.to_le_bytes());
    wal.extend((continued as u64).to_le_bytes());
    if long {
        let size = WalSegmentSize::new(SEGMENT as u32).expect("1 MiB is a segment size");
        wal.extend(77u64.to_le_bytes());
        wal.extend(size.bytes().to_le_bytes());
        wal.extend((PAGE as u32).to_le_bytes());
    }
}
