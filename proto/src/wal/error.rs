//! Why reading WAL stopped.

use serde::{Deserialize, Serialize};

use super::page::{MisnamedSegment, PageError};
use super::record::RecordProblem;
use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Valid WAL ends at `at`.
///
/// In the last segment of a timeline, in a `.partial` and in a stream that was cut, this is simply the end. In the
/// middle of archived WAL it is a gap or damage. The bytes alone cannot tell; the caller can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("WAL is valid up to {at}: {reason}")]
pub struct EndOfWal {
    /// End of the last valid record: where the next one would have begun.
    pub at: Lsn,
    /// What stands there instead of a record.
    pub reason: EndReason,
}

/// What stands where a record should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum EndReason {
    /// A record length of zero: the rest of the page was never written.
    #[error("there are zeroes instead of a record")]
    Zeroes,
    /// A length that no record has.
    #[error("a record states the length {0}, which is less than its header or more than PostgreSQL writes")]
    RecordLength(u32),
    /// A resource manager that this major does not have.
    #[error("a record states resource manager {0}, which this version does not have")]
    ResourceManager(u8),
    /// `xl_prev` is not the start of the record before: stale bytes of a recycled segment, or a gap.
    #[error("a record says the one before it began at {found}, but that began at {expected}")]
    PreviousLink {
        /// Where the record before began.
        expected: Lsn,
        /// What the record says.
        found: Lsn,
    },
    /// `xl_prev` of the first record read is not before it.
    #[error("a record says the one before it began at {0}, which is not earlier")]
    PreviousNotEarlier(Lsn),
    /// The record's CRC-32C does not fit its bytes.
    #[error("a record states the checksum {stored:08X}, its bytes have {computed:08X}")]
    Checksum {
        /// `xl_crc`.
        stored: u32,
        /// What the bytes give.
        computed: u32,
    },
    /// The header of the page at `page` is none.
    #[error("page {page}: {problem}")]
    Page {
        /// Where the page is.
        page: Lsn,
        /// What is wrong with it.
        problem: PageError,
    },
    /// A page of another PostgreSQL version.
    #[error("page {page} has magic {found:04X} instead of {expected:04X}")]
    PageMagic {
        /// Where the page is.
        page: Lsn,
        /// The magic of the version being read.
        expected: u16,
        /// The page's.
        found: u16,
    },
    /// A page from elsewhere: stale bytes of a recycled segment, or a file under a wrong name.
    #[error("page {page} says it is page {found}")]
    PageAddress {
        /// Where the page is.
        page: Lsn,
        /// Where it says it is.
        found: Lsn,
    },
    /// A long header in the middle of a segment, or none at its start.
    #[error("page {page} has a short header where a long one belongs, or the reverse")]
    PageHeaderKind {
        /// Where the page is.
        page: Lsn,
    },
    /// `xlp_tli` went back, or beyond the timeline being read.
    #[error("page {page} is of timeline {found}; expected {lowest} to {highest}")]
    PageTimeline {
        /// Where the page is.
        page: Lsn,
        /// `xlp_tli`.
        found: TimelineId,
        /// The timeline of the page before, or 1.
        lowest: TimelineId,
        /// The timeline being read.
        highest: TimelineId,
    },
    /// The record before the page is unfinished, but the page does not continue it.
    #[error("page {page} does not continue a record that lacks {remaining} bytes")]
    ContinuationMissing {
        /// Where the page is.
        page: Lsn,
        /// Bytes still needed.
        remaining: u32,
    },
    /// The page continues a record of another length.
    #[error("page {page} continues a record that lacks {found} bytes, but the record lacks {remaining}")]
    ContinuationLength {
        /// Where the page is.
        page: Lsn,
        /// Bytes still needed.
        remaining: u32,
        /// `xlp_rem_len`.
        found: u32,
    },
    /// The page continues a record although the one before it is complete.
    #[error("page {page} continues a record by {length} bytes, but none is unfinished")]
    UnexpectedContinuation {
        /// Where the page is.
        page: Lsn,
        /// `xlp_rem_len`.
        length: u32,
    },
}

/// Why WAL cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Valid WAL ends here.
    #[error(transparent)]
    EndOfWal(#[from] EndOfWal),
    /// A record whose checksum is right says something impossible: not damage, but a format this build misreads.
    #[error("record {at}: {problem}")]
    Malformed {
        /// Where the record begins.
        at: Lsn,
        /// What is impossible.
        problem: RecordProblem,
    },
    /// Segments of two clusters, or of one before and after its segment size changed.
    #[error(
        "segment {page} is of cluster {found} with pages and segments of {found_sizes:?} bytes; expected \
             {expected} with {expected_sizes:?}"
    )]
    Foreign {
        /// Where the segment begins.
        page: Lsn,
        /// The cluster being read.
        expected: SystemIdentifier,
        /// The segment's cluster.
        found: SystemIdentifier,
        /// Page and segment size being read.
        expected_sizes: (u32, u32),
        /// The segment's page and segment size.
        found_sizes: (u32, u32),
    },
    /// Reading cannot begin at this position.
    #[error("{start} is not where a record or a page can begin")]
    Start {
        /// The position asked for.
        start: Lsn,
    },
    /// The file's first bytes are no segment header.
    #[error("segment {name}: {problem}")]
    Header {
        /// The file's name.
        name: String,
        /// What is wrong with it.
        problem: PageError,
    },
    /// The file is not the segment that its name says.
    #[error("segment {name}: {problem}")]
    Misnamed {
        /// The file's name.
        name: String,
        /// What contradicts the name.
        problem: MisnamedSegment,
    },
    /// The file is longer than a segment.
    #[error("segment {name} has {found} bytes, more than the {expected} of a segment")]
    TooLong {
        /// The file's name.
        name: String,
        /// Bytes per segment.
        expected: u32,
        /// Bytes of the file.
        found: usize,
    },
}
