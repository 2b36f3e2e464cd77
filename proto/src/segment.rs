//! WAL segments: their size, their numbers, and the names PostgreSQL gives to files in `pg_wal` and the archive.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Size of a cluster's WAL segments in bytes: a power of two from 1 MiB to 1 GiB, chosen at `initdb`.
///
/// There is no default on purpose: it comes from `pg_control` or from a segment's first page header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct WalSegmentSize(u32);

/// The number is no legal `wal_segment_size`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no WAL segment size: expected a power of two from 1048576 to 1073741824 bytes")]
pub struct IllegalSegmentSize(u32);

impl WalSegmentSize {
    /// Checks the number against PostgreSQL's `IsValidWalSegSize`.
    pub const fn new(bytes: u32) -> Result<Self, IllegalSegmentSize> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Ok(Self(bytes))
        } else {
            Err(IllegalSegmentSize(bytes))
        }
    }

    /// Bytes per segment.
    pub const fn bytes(self) -> u32 {
        self.0
    }

    /// Segments per 4 GiB: what the middle eight digits of a file name count.
    const fn segments_per_log(self) -> u64 {
        (1 << 32) / self.0 as u64
    }

    /// The segment that holds the byte at `lsn`.
    pub const fn segment_at(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.as_u64() / self.0 as u64)
    }

    /// The segment that holds the byte before `lsn`: the last one needed to read up to `lsn`.
    pub const fn segment_before(self, lsn: Lsn) -> SegmentNumber {
        SegmentNumber(lsn.as_u64().saturating_sub(1) / self.0 as u64)
    }

    /// Bytes from the start of its segment to `lsn`.
    pub const fn offset_of(self, lsn: Lsn) -> u32 {
        // The remainder of a division by a u32 fits a u32.
        (lsn.as_u64() % self.0 as u64) as u32
    }
}

impl TryFrom<u32> for WalSegmentSize {
    type Error = IllegalSegmentSize;

    fn try_from(bytes: u32) -> Result<Self, Self::Error> {
        Self::new(bytes)
    }
}

impl From<WalSegmentSize> for u32 {
    fn from(size: WalSegmentSize) -> Self {
        size.0
    }
}

/// A segment's place in the WAL: its first byte is at `number × segment size` (PostgreSQL's `XLogSegNo`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SegmentNumber(u64);

impl SegmentNumber {
    /// The segment of this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next segment; the last one of the number space is its own successor.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Position of the segment's first byte; saturates at the end of the number space.
    pub const fn start(self, size: WalSegmentSize) -> Lsn {
        Lsn::new(self.0.saturating_mul(size.0 as u64))
    }

    /// Position behind the segment's last byte.
    pub const fn end(self, size: WalSegmentSize) -> Lsn {
        self.next().start(size)
    }
}

/// One segment of one timeline: what a 24-digit file name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalSegment {
    /// The timeline in the first eight digits.
    pub timeline: TimelineId,
    /// The number in the other sixteen.
    pub number: SegmentNumber,
}

impl WalSegment {
    /// The 24-digit file name, which depends on the segment size (`XLogFileName`).
    pub fn file_name(self, size: WalSegmentSize) -> String {
        let per_log = size.segments_per_log();
        format!("{:08X}{:08X}{:08X}", self.timeline.get(), self.number.0 / per_log, self.number.0 % per_log)
    }

    /// Reads a 24-digit name. `None` where the digits, the timeline or the low half are impossible for `size`.
    pub fn from_file_name(name: &str, size: WalSegmentSize) -> Option<Self> {
        SegmentFileName::from_str(name).ok()?.segment(size)
    }

    /// Position of the segment's first byte.
    pub const fn start(self, size: WalSegmentSize) -> Lsn {
        self.number.start(size)
    }
}

/// A well-formed 24-digit name whose segment size is not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentFileName {
    /// The timeline in the first eight digits.
    pub timeline: TimelineId,
    log: u32,
    segment: u32,
}

impl SegmentFileName {
    /// The segment that the name means at this segment size, if it can mean one.
    pub const fn segment(self, size: WalSegmentSize) -> Option<WalSegment> {
        let per_log = size.segments_per_log();
        if self.segment as u64 >= per_log {
            return None;
        }
        let number = SegmentNumber(self.log as u64 * per_log + self.segment as u64);
        Some(WalSegment { timeline: self.timeline, number })
    }
}

impl fmt::Display for SegmentFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.get(), self.log, self.segment)
    }
}

/// Everything `archive_command` or `restore_command` may be asked for (`access/xlog_internal.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// A complete segment.
    Segment(SegmentFileName),
    /// `<segment>.partial`: the end of a timeline that was left at promotion.
    Partial(SegmentFileName),
    /// `<timeline>.history`.
    History(TimelineId),
    /// `<segment>.<offset>.backup`: where a base backup began.
    BackupHistory(SegmentFileName, u32),
}

/// The name is none that PostgreSQL gives to an archived file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no WAL file name: expected 24 hexadecimal digits, optionally with .partial or .<offset>.backup, \
     or 8 with .history"
)]
pub struct ParseWalFileNameError(String);

/// Parses exactly eight upper-case hexadecimal digits, as PostgreSQL writes them.
fn hex8(digits: &str) -> Option<u32> {
    let upper = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    if upper { u32::from_str_radix(digits, 16).ok() } else { None }
}

impl FromStr for SegmentFileName {
    type Err = ParseWalFileNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let field = |at: usize| name.get(at..at + 8).and_then(hex8);
        let parsed = || {
            (name.len() == 24).then_some(())?;
            Some(Self { timeline: TimelineId::new(field(0)?)?, log: field(8)?, segment: field(16)? })
        };
        parsed().ok_or_else(|| ParseWalFileNameError(name.chars().take(80).collect()))
    }
}

impl FromStr for WalFileName {
    type Err = ParseWalFileNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseWalFileNameError(name.chars().take(80).collect());
        let Some((stem, suffix)) = name.split_once('.') else {
            return name.parse().map(Self::Segment);
        };
        match suffix {
            "partial" => stem.parse().map(Self::Partial).map_err(|_| refuse()),
            "history" => hex8(stem).and_then(TimelineId::new).map(Self::History).ok_or_else(refuse),
            _ => {
                let offset = suffix.strip_suffix(".backup").and_then(hex8).ok_or_else(refuse)?;
                Ok(Self::BackupHistory(stem.parse().map_err(|_| refuse())?, offset))
            }
        }
    }
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(name) => name.fmt(f),
            Self::Partial(name) => write!(f, "{name}.partial"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.get()),
            Self::BackupHistory(name, offset) => write!(f, "{name}.{offset:08X}.backup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes() -> impl Strategy<Value = WalSegmentSize> {
        (20u32..=30).prop_map(|bits| WalSegmentSize::new(1 << bits).unwrap())
    }

    #[test]
    fn names_are_postgresqls() {
        let size = WalSegmentSize::new(16 << 20).unwrap();
        let segment = size.segment_at("1/16B3748".parse().unwrap());
        let name = WalSegment { timeline: TimelineId::FIRST, number: segment }.file_name(size);
        assert_eq!(name, "000000010000000100000001");
        assert_eq!(size.segment_before("0/3000000".parse().unwrap()), SegmentNumber::new(2));
        let gigabyte = WalSegmentSize::new(1 << 30).unwrap();
        assert_eq!(WalSegment::from_file_name("000000010000000100000004", gigabyte), None);
    }

    #[test]
    fn every_archived_name_is_understood_and_nothing_else() {
        for name in [
            "000000010000000000000001",
            "000000010000000000000001.partial",
            "00000002.history",
            "000000010000000000000001.00000028.backup",
        ] {
            assert_eq!(name.parse::<WalFileName>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "00000001000000000000000",
            "0000000100000000000000011",
            "00000001000000000000000g",
            "00000000000000000000000A",
            "00000001000000000000000a",
            "00000000.history",
            "000000010000000000000001.backup",
            "000000010000000000000001.partial.x",
            "../000000010000000000000001",
            "é0000001000000000000000",
        ] {
            assert!(name.parse::<WalFileName>().is_err(), "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn names_and_numbers_agree_at_every_size(size in sizes(), timeline in 1u32.., lsn: u64) {
            let number = size.segment_at(Lsn::new(lsn));
            let segment = WalSegment { timeline: TimelineId::new(timeline).unwrap(), number };
            prop_assert_eq!(WalSegment::from_file_name(&segment.file_name(size), size), Some(segment));
            prop_assert!(number.start(size) <= Lsn::new(lsn));
            prop_assert_eq!(number.start(size).as_u64() + u64::from(size.offset_of(Lsn::new(lsn))), lsn);
        }
        #[test]
        fn any_text_is_a_name_or_an_error(text in "[0-9A-Fa-f.a-z]{0,45}") {
            if let Ok(name) = text.parse::<WalFileName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
