//! Timelines and their history files.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lsn::Lsn;

/// A timeline (PostgreSQL's `TimeLineID`): one unbranched history of WAL. Text form is decimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimelineId(NonZeroU32);

impl TimelineId {
    /// The timeline that `initdb` starts.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// The timeline of this number; 0 names none.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The eight hexadecimal digits that open a segment's file name.
    pub fn hex8(self) -> String {
        format!("{:08X}", self.get())
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text was no timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no timeline: expected a number from 1 to 4294967295")]
pub struct ParseTimelineError(String);

impl FromStr for TimelineId {
    type Err = ParseTimelineError;

    /// Decimal, or hexadecimal behind `0x` as in `recovery_target_timeline`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_hexdigit()) => u32::from_str_radix(digits, 16).ok(),
            None if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        number.and_then(Self::new).ok_or_else(|| ParseTimelineError(text.chars().take(40).collect()))
    }
}

/// One line of a history file: the timeline that was left, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The timeline that ended for this history.
    pub parent: TimelineId,
    /// The first position that belongs to the next timeline, not to `parent`.
    pub switch_lsn: Lsn,
    /// What PostgreSQL wrote behind it, for people.
    pub reason: String,
}

/// The ancestry of one timeline, as its `.history` file tells it (`access/transam/timeline.c`).
///
/// Switches are in ascending order of timeline and of LSN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
}

/// The bytes were no history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("history of timeline {timeline} is malformed at line {line}: {problem}")]
pub struct ParseHistoryError {
    timeline: TimelineId,
    line: usize,
    problem: &'static str,
}

impl TimelineHistory {
    /// The history of a timeline without ancestors: timeline 1 has no file.
    pub const fn without_ancestors(timeline: TimelineId) -> Self {
        Self { timeline, switches: Vec::new() }
    }

    /// Reads the file of `timeline`. Comments (`#`) and empty lines are skipped, as PostgreSQL does.
    pub fn parse(timeline: TimelineId, text: &[u8]) -> Result<Self, ParseHistoryError> {
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        for (index, line) in String::from_utf8_lossy(text).lines().enumerate() {
            let refuse = |problem| ParseHistoryError { timeline, line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.splitn(3, |c: char| c.is_ascii_whitespace());
            let parent = fields.next().and_then(|f| f.parse().ok()).ok_or_else(|| refuse("no timeline number"))?;
            let switch_lsn = fields
                .next()
                .and_then(|f| f.parse().ok())
                .ok_or_else(|| refuse("no switch position behind the timeline"))?;
            let reason = fields.next().unwrap_or_default().trim().to_owned();
            if parent >= timeline {
                return Err(refuse("an ancestor is not older than the timeline itself"));
            }
            if let Some(last) = switches.last()
                && (last.parent >= parent || last.switch_lsn > switch_lsn)
            {
                return Err(refuse("timelines do not ascend"));
            }
            switches.push(TimelineSwitch { parent, switch_lsn, reason });
        }
        Ok(Self { timeline, switches })
    }

    /// The timeline whose past this is.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// The timeline that the byte at `lsn` belongs to in this history.
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        self.switches.iter().find(|switch| lsn < switch.switch_lsn).map_or(self.timeline, |switch| switch.parent)
    }

    /// Where this history leaves `timeline`: `Some(None)` for the newest, which has no end; `None` for a stranger.
    pub fn end_of(&self, timeline: TimelineId) -> Option<Option<Lsn>> {
        if timeline == self.timeline {
            return Some(None);
        }
        self.switches.iter().find(|switch| switch.parent == timeline).map(|switch| Some(switch.switch_lsn))
    }

    /// Where `timeline` begins in this history: 0/0 for the oldest; `None` for a stranger.
    pub fn start_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let position = self.switches.iter().position(|switch| switch.parent == timeline);
        let index = position.or_else(|| (timeline == self.timeline).then_some(self.switches.len()))?;
        Some(index.checked_sub(1).map_or(Lsn::INVALID, |before| self.switches[before].switch_lsn))
    }

    /// All timelines of this history, oldest first, the timeline itself last.
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = TimelineId> + '_ {
        self.switches.iter().map(|switch| switch.parent).chain(std::iter::once(self.timeline))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    #[test]
    fn a_history_tells_which_timeline_owns_a_position() {
        let text = b"1\t0/3000000\tno recovery target specified\n\n# a comment\n4\t0/5000028\tbefore 2026\n";
        let history = TimelineHistory::parse(timeline(5), text).unwrap();
        assert_eq!(history.timeline_at(Lsn::new(0x2FF_FFFF)), timeline(1));
        assert_eq!(history.timeline_at(Lsn::new(0x300_0000)), timeline(4));
        assert_eq!(history.timeline_at(Lsn::new(0x500_0028)), timeline(5));
        assert_eq!(history.end_of(timeline(4)), Some(Some(Lsn::new(0x500_0028))));
        assert_eq!(history.end_of(timeline(5)), Some(None));
        assert_eq!(history.end_of(timeline(3)), None);
        assert_eq!(history.start_of(timeline(1)), Some(Lsn::INVALID));
        assert_eq!(history.start_of(timeline(5)), Some(Lsn::new(0x500_0028)));
    }

    #[test]
    fn a_history_that_does_not_ascend_is_refused() {
        for text in [&b"5\t0/1\tx"[..], b"2\t0/5\tx\n1\t0/6\ty", b"1\t0/5\tx\n2\t0/4\ty", b"x", b"1"] {
            assert!(TimelineHistory::parse(timeline(5), text).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_history_or_an_error(bytes: Vec<u8>) {
            let _ = TimelineHistory::parse(timeline(9), &bytes);
        }
        #[test]
        fn any_text_is_a_timeline_or_an_error(text: String) {
            let _ = text.parse::<TimelineId>();
        }
    }
}
