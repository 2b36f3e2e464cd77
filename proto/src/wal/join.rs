//! Records that cross from one segment into the next, put together from the scans of both.

use serde::{Deserialize, Serialize};

use super::error::{EndOfWal, EndReason, WalError};
use super::facts::{FactCollector, WalFacts};
use super::page::{LONG_HEADER, SHORT_HEADER};
use super::record::{DecodedRecord, Fragments, Place, RecordHeader, RecordProblem, ResourceManager};
use super::segment_scan::{Crossing, SegmentScan};
use crate::lsn::Lsn;

/// What lies between two adjacent segments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Joint {
    /// No record crosses.
    Nothing,
    /// The record that begins at `start` ends in the second segment, and this is what it says.
    Record {
        /// Where it begins.
        start: Lsn,
        /// What it says.
        facts: Box<WalFacts>,
    },
    /// A record crosses of which not all bytes were kept: both segments must be read for it.
    NotKept {
        /// Where it begins; `None` where that is before the first segment.
        start: Option<Lsn>,
        /// Whether it also runs through the whole second segment.
        continues: bool,
    },
    /// The record that begins at `start` was never finished; the second segment says so and replaces it.
    GivenUp {
        /// Where the void record begins.
        start: Option<Lsn>,
    },
}

/// Why two segments do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The second does not follow the first.
    #[error("segment {next} does not follow {previous}")]
    NotAdjacent {
        /// Name of the first.
        previous: String,
        /// Name of the second.
        next: String,
    },
    /// They are of different clusters or layouts.
    #[error("segments {previous} and {next} are of different clusters or versions")]
    Foreign {
        /// Name of the first.
        previous: String,
        /// Name of the second.
        next: String,
    },
    /// The first is not valid to its end.
    #[error("segment {name} is valid only up to {valid_up_to}")]
    Incomplete {
        /// Its name.
        name: String,
        /// Where its records end.
        valid_up_to: Lsn,
    },
    /// The second continues another record than the first left unfinished.
    #[error("segment {next} begins with {found} bytes of an earlier record, but {expected} are missing")]
    Length {
        /// Name of the second.
        next: String,
        /// Bytes that the first leaves missing.
        expected: u32,
        /// Bytes that the second says it continues with.
        found: u32,
    },
    /// The second's first record does not link to the first's last.
    #[error("the first record of segment {next} says the one before it began at {found}, but that began at {expected}")]
    Link {
        /// Name of the second.
        next: String,
        /// Where the record before begins.
        expected: Lsn,
        /// What the record says.
        found: Lsn,
    },
    /// The record that crosses is damaged or cannot be understood.
    #[error(transparent)]
    Record(#[from] WalError),
}

/// Checks that `next` continues `prev`, and reads the record that crosses between them if both parts were kept.
///
/// `next` may be of a newer timeline. Facts of a whole stretch are those of the first segment, of the joint, of the
/// second segment, and so on, appended in this order.
pub fn join_crossing_record(prev: &SegmentScan, next: &SegmentScan) -> Result<Joint, JoinError> {
    check_adjacent(prev, next)?;
    let next_name = || next.segment.file_name(next.header.segment_size);
    let found = next.continuation.as_ref().map_or(0, |continuation| continuation.length);
    let expected = match (&prev.crossing, &prev.continuation) {
        (Some(crossing), _) => crossing.total_length.saturating_sub(crossing.length_here),
        (None, Some(continuation)) => continuation.missing,
        (None, None) => 0,
    };
    let crossing_start = prev.crossing.as_ref().map(|crossing| crossing.start);
    if expected > 0 && found == 0 && next.overwrites.is_some() {
        check_given_up(prev, next)?;
        return Ok(Joint::GivenUp { start: crossing_start });
    }
    if expected != found {
        return Err(JoinError::Length { next: next_name(), expected, found });
    }
    // Where a record runs through the whole first segment, its start is not known here, nor is the link.
    let through = prev.continuation.as_ref().is_some_and(|continuation| continuation.missing > 0);
    let last = if through { None } else { crossing_start.or(prev.last_record) };
    if let (Some(expected), Some(first)) = (last, next.first_record)
        && first.previous != expected
    {
        return Err(JoinError::Link { next: next_name(), expected, found: first.previous });
    }
    let Some(continuation) = &next.continuation else {
        return Ok(Joint::Nothing);
    };
    if continuation.given_up {
        return Ok(Joint::GivenUp { start: crossing_start });
    }
    let not_kept = Joint::NotKept { start: crossing_start, continues: continuation.missing > 0 };
    let Some((crossing, head)) = prev.crossing.as_ref().and_then(|crossing| Some((crossing, crossing.bytes.as_ref()?)))
    else {
        return Ok(not_kept);
    };
    match &continuation.bytes {
        Some(tail) if continuation.missing == 0 && tail.len() == found as usize => {
            let facts = read_record(prev, next, crossing, &[head.as_slice(), tail].concat())?;
            Ok(Joint::Record { start: crossing.start, facts: Box::new(facts) })
        }
        _ => Ok(not_kept),
    }
}

fn check_adjacent(prev: &SegmentScan, next: &SegmentScan) -> Result<(), JoinError> {
    let names = || {
        let name = |scan: &SegmentScan| scan.segment.file_name(scan.header.segment_size);
        (name(prev), name(next))
    };
    if prev.format() != next.format() || prev.header.system_identifier != next.header.system_identifier {
        let (previous, next) = names();
        return Err(JoinError::Foreign { previous, next });
    }
    if prev.segment.number.next() != next.segment.number || prev.segment.timeline > next.segment.timeline {
        let (previous, next) = names();
        return Err(JoinError::NotAdjacent { previous, next });
    }
    if !prev.is_complete() {
        return Err(JoinError::Incomplete { name: names().0, valid_up_to: prev.valid_up_to });
    }
    Ok(())
}

/// The record that gives up an unfinished one must name it.
fn check_given_up(prev: &SegmentScan, next: &SegmentScan) -> Result<(), JoinError> {
    match (prev.crossing.as_ref(), next.overwrites, next.first_record) {
        (Some(crossing), named, Some(first)) if named != Some(crossing.start) => {
            let problem = RecordProblem::Overwrites { unfinished: crossing.start, named };
            Err(WalError::Malformed { at: first.start, problem }.into())
        }
        _ => Ok(()),
    }
}

/// Checks and reads the record whose bytes are `record`.
fn read_record(
    prev: &SegmentScan,
    next: &SegmentScan,
    crossing: &Crossing,
    record: &[u8],
) -> Result<WalFacts, WalError> {
    let refuse = |reason| WalError::EndOfWal(EndOfWal { at: crossing.start, reason });
    let short = || refuse(EndReason::RecordLength(crossing.total_length));
    let header = RecordHeader::parse(record).ok_or_else(short)?;
    let computed = RecordHeader::compute_checksum(record).ok_or_else(short)?;
    if computed != header.checksum {
        return Err(refuse(EndReason::Checksum { stored: header.checksum, computed }));
    }
    let found = header.previous;
    if let Some(expected) = prev.last_record
        && expected != found
    {
        return Err(refuse(EndReason::PreviousLink { expected, found }));
    }
    let version = prev.header.version;
    let resource_manager = ResourceManager::new(header.resource_manager, version)
        .ok_or_else(|| refuse(EndReason::ResourceManager(header.resource_manager)))?;
    let mut blocks = Vec::new();
    let fragments = Fragments::parse(record, version, &mut blocks)
        .map_err(|problem| WalError::Malformed { at: crossing.start, problem })?;
    let tail = u64::from(crossing.total_length.saturating_sub(crossing.length_here));
    let place = Place { start: crossing.start, end: end_of_continuation(next, tail), version };
    let record = DecodedRecord::assemble(record, &header, resource_manager, &fragments, &blocks, place);
    let mut collector = FactCollector::default();
    collector.add(&record)?;
    Ok(collector.finish())
}

/// Where a record ends of which `tail` bytes are in `next`, past the page headers between them.
fn end_of_continuation(next: &SegmentScan, tail: u64) -> Lsn {
    let page = u64::from(next.header.wal_block_size.bytes());
    let (long, short) = (LONG_HEADER as u64, SHORT_HEADER as u64);
    // How many more pages the tail touches once the first is full.
    let more_pages = tail.saturating_sub(page - long).div_ceil(page - short);
    let length = long + tail + more_pages * short;
    next.header.page_address.saturating_add(length.next_multiple_of(8))
}
