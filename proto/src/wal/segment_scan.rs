//! What one segment file says, read in isolation.

use serde::{Deserialize, Serialize};

use super::decoder::{KEPT_BYTES, WalDecoder};
use super::error::{EndReason, WalError};
use super::facts::{FactCollector, WalFacts};
use super::page::{LongHeader, SegmentHeader, WalFormat};
use super::special::RecordMeaning;
use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::segment::{WalSegment, WalSegmentSize};

/// What is known about a segment file before it is read.
#[derive(Clone, Copy, Debug)]
pub struct ScanContext {
    /// The segment that the file's name names.
    pub segment: WalSegment,
    /// The cluster's segment size.
    pub segment_size: WalSegmentSize,
    /// The cluster's identifier, if the caller knows it.
    pub system_identifier: Option<SystemIdentifier>,
}

/// The bytes at a segment's start that belong to a record begun in an earlier segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continuation {
    /// Bytes that the record still needs at the segment's start, without page headers.
    pub length: u32,
    /// Those of them that this segment does not hold: more than 0 where the record runs through the whole segment.
    pub missing: u32,
    /// Whether a page inside the segment says that the record was never finished and is void.
    pub given_up: bool,
    /// Those that it holds, if `length` is at most [`KEPT_BYTES`].
    pub bytes: Option<Vec<u8>>,
}

/// The record that begins in a segment and is not complete at its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crossing {
    /// Where it begins.
    pub start: Lsn,
    /// Its length, without page headers.
    pub total_length: u32,
    /// How much of it is in this segment.
    pub length_here: u32,
    /// The bytes in this segment, if there are at most [`KEPT_BYTES`].
    pub bytes: Option<Vec<u8>>,
}

/// Where the first record of a segment is, and which one it says is before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstRecord {
    /// Where it begins.
    pub start: Lsn,
    /// Where the record before begins, which is in an earlier segment.
    pub previous: Lsn,
}

/// How a segment's records end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SegmentEnd {
    /// They fill the segment; the last may go on in the next.
    Full,
    /// By a record that makes the rest padding.
    Switch,
    /// The file is shorter than a segment; all of it was valid.
    Short,
    /// Something else than a record stands at `valid_up_to`.
    Stopped(EndReason),
}

/// What one segment file says. All of it was verified: page headers, checksums, links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentScan {
    /// The segment.
    pub segment: WalSegment,
    /// What its first page says.
    pub header: SegmentHeader,
    /// The end of an earlier record at its start.
    pub continuation: Option<Continuation>,
    /// The first record that begins and ends in it.
    pub first_record: Option<FirstRecord>,
    /// The void record in an earlier segment that the first record gives up.
    pub overwrites: Option<Lsn>,
    /// Start of the last record that begins and ends in it.
    pub last_record: Option<Lsn>,
    /// End of that record.
    pub last_record_end: Option<Lsn>,
    /// The record that begins in it and ends in a later segment.
    pub crossing: Option<Crossing>,
    /// How its records end.
    pub end: SegmentEnd,
    /// Where they end: the segment's end, unless [`SegmentScan::end`] says that they stop before it. A crossing
    /// record's bytes count as valid in a full segment; only its end in the next can prove them.
    pub valid_up_to: Lsn,
    /// What its complete records say.
    pub facts: WalFacts,
}

impl SegmentScan {
    /// Whether the next segment continues this one: nothing is missing at the end.
    pub const fn is_complete(&self) -> bool {
        matches!(self.end, SegmentEnd::Full | SegmentEnd::Switch)
    }

    /// How the WAL is laid out.
    pub const fn format(&self) -> WalFormat {
        self.header.format()
    }
}

/// Reads one segment file, or the part of one that has arrived.
///
/// Records that stop being valid are an answer ([`SegmentEnd::Stopped`]); errors are a file that is not this segment,
/// and records with right checksums that this build cannot understand.
pub fn scan_segment(bytes: &[u8], context: &ScanContext) -> Result<SegmentScan, WalError> {
    let header = check_file(bytes, context)?;
    let start = context.segment.start(context.segment_size);
    let end_of_segment = context.segment.number.end(context.segment_size);
    let mut decoder = WalDecoder::new(header.format(), context.segment.timeline, start)?;
    let mut collector = FactCollector::default();
    let mut first_record = None;
    let mut last_record = None;
    let mut overwrites = None;
    let mut switched = false;
    let mut records = decoder.feed(bytes);
    let stopped = loop {
        match records.next_record() {
            Ok(Some(record)) => {
                if first_record.is_none() {
                    first_record = Some(FirstRecord { start: record.start, previous: record.previous });
                    if let RecordMeaning::OverwriteContrecord { overwritten, .. } = record.meaning()? {
                        overwrites = Some(overwritten);
                    }
                }
                last_record = Some((record.start, record.end));
                switched = record.is_switch();
                collector.add(&record)?;
            }
            Ok(None) => break None,
            Err(WalError::EndOfWal(end)) => break Some(end),
            Err(error) => return Err(error),
        }
    };
    let short = decoder.position() < end_of_segment;
    let (end, valid_up_to) = match stopped {
        Some(stop) => (SegmentEnd::Stopped(stop.reason), stop.at),
        None if switched => (SegmentEnd::Switch, end_of_segment),
        None if short => (SegmentEnd::Short, decoder.boundary()),
        None => (SegmentEnd::Full, end_of_segment),
    };
    Ok(SegmentScan {
        segment: context.segment,
        header,
        continuation: continuation(&decoder),
        first_record,
        overwrites,
        last_record: last_record.map(|(start, _)| start),
        last_record_end: last_record.map(|(_, end)| end),
        crossing: crossing(&decoder),
        end,
        valid_up_to,
        facts: collector.finish(),
    })
}

fn check_file(bytes: &[u8], context: &ScanContext) -> Result<SegmentHeader, WalError> {
    let name = || context.segment.file_name(context.segment_size);
    let header = SegmentHeader::parse(bytes).map_err(|problem| WalError::Header { name: name(), problem })?;
    header.check_name(context.segment).map_err(|problem| WalError::Misnamed { name: name(), problem })?;
    let expected = LongHeader {
        system_identifier: context.system_identifier.unwrap_or(header.system_identifier),
        segment_size: context.segment_size,
        block_size: header.wal_block_size,
    };
    if (expected.system_identifier, expected.segment_size) != (header.system_identifier, header.segment_size) {
        let block = header.wal_block_size.bytes();
        return Err(WalError::Foreign {
            page: header.page_address,
            expected: expected.system_identifier,
            found: header.system_identifier,
            expected_sizes: (block, expected.segment_size.bytes()),
            found_sizes: (block, header.segment_size.bytes()),
        });
    }
    let expected = context.segment_size.bytes();
    if bytes.len() > expected as usize {
        return Err(WalError::TooLong { name: name(), expected, found: bytes.len() });
    }
    Ok(header)
}

fn continuation(decoder: &WalDecoder) -> Option<Continuation> {
    let skipped = decoder.skipped()?;
    Some(Continuation {
        length: skipped.length,
        missing: skipped.missing,
        given_up: skipped.given_up,
        bytes: skipped.bytes.clone(),
    })
}

fn crossing(decoder: &WalDecoder) -> Option<Crossing> {
    let unfinished = decoder.unfinished()?;
    Some(Crossing {
        start: unfinished.start,
        total_length: unfinished.total_length?,
        length_here: u32::try_from(unfinished.bytes.len()).ok()?,
        bytes: (unfinished.bytes.len() <= KEPT_BYTES).then(|| unfinished.bytes.to_vec()),
    })
}
