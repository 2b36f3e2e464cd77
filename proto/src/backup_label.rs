//! `backup_label`: where replay of a base backup begins (`access/transam/xlogbackup.c`).
//!
//! The file is stored and restored byte for byte, but for what it says of an incremental backup: merged with what it builds
//! on, such a backup is one like any other.

use crate::lsn::Lsn;
use crate::segment::SegmentFileName;
use crate::timeline::TimelineId;

/// How the backup was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupMethod {
    /// By BASE_BACKUP or by the non-exclusive functions: `streamed`.
    Streamed,
    /// By the exclusive functions of 13 and 14: `pg_start_backup`.
    Exclusive,
}

/// What kind of server the backup was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupFrom {
    /// `primary`; 13 writes `master`.
    Primary,
    /// `standby`: consistency is reached at the `minRecoveryPoint` of the copied `pg_control`.
    Standby,
}

/// What an incremental backup builds on (17 and later).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncrementalFrom {
    /// Start of the earlier backup.
    pub lsn: Lsn,
    /// Timeline of the earlier backup's start.
    pub timeline: TimelineId,
}

/// The content of a `backup_label` file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where replay begins: the redo position of the backup's checkpoint.
    pub start_wal_location: Lsn,
    /// The WAL segment that holds this position, as the server names it.
    pub start_segment: SegmentFileName,
    /// Where the record of the backup's checkpoint begins.
    pub checkpoint_location: Lsn,
    /// How the backup was made.
    pub backup_method: BackupMethod,
    /// What it was taken from.
    pub backup_from: BackupFrom,
    /// When it began, in the server's words and time zone: for people.
    pub start_time: String,
    /// What its maker called it. Bytes that are no UTF-8 are replaced.
    pub label: String,
    /// The timeline on which it began.
    pub start_timeline: TimelineId,
    /// What it builds on, if it is incremental.
    pub incremental_from: Option<IncrementalFrom>,
}

/// Why the bytes are no backup label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line that every server writes is not there.
    #[error("backup_label has no line '{0}'")]
    Missing(&'static str),
    /// A line does not say what it should.
    #[error("backup_label has '{value}' behind '{field}'")]
    Malformed {
        /// The line's beginning.
        field: &'static str,
        /// What follows it, cut at 80 characters.
        value: String,
    },
    /// The start segment and the start timeline contradict each other.
    #[error("backup_label starts on timeline {timeline}, but in segment {segment}")]
    TimelineMismatch {
        /// `START TIMELINE`.
        timeline: TimelineId,
        /// The file name behind `START WAL LOCATION`.
        segment: String,
    },
}

const START: &str = "START WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const FROM: &str = "BACKUP FROM: ";
const TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const TIMELINE: &str = "START TIMELINE: ";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN: ";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI: ";

impl BackupLabel {
    /// Reads the file. Lines of other kinds are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupLabelError> {
        let text = String::from_utf8_lossy(bytes);
        let lines = Lines(&text);
        let start = lines.before_label(START)?;
        let (start_wal_location, start_segment) = start_and_segment(start).ok_or_else(|| malformed(START, start))?;
        let start_timeline = lines.behind_label(TIMELINE).ok_or(BackupLabelError::Missing(TIMELINE))?;
        let start_timeline: TimelineId = parsed(TIMELINE, start_timeline)?;
        if start_timeline != start_segment.timeline {
            let segment = start_segment.to_string();
            return Err(BackupLabelError::TimelineMismatch { timeline: start_timeline, segment });
        }
        let method = lines.before_label(METHOD)?;
        let from = lines.before_label(FROM)?;
        Ok(Self {
            start_wal_location,
            start_segment,
            checkpoint_location: parsed(CHECKPOINT, lines.before_label(CHECKPOINT)?)?,
            backup_method: match method {
                "streamed" => BackupMethod::Streamed,
                "pg_start_backup" => BackupMethod::Exclusive,
                _ => return Err(malformed(METHOD, method)),
            },
            backup_from: match from {
                "primary" | "master" => BackupFrom::Primary,
                "standby" => BackupFrom::Standby,
                _ => return Err(malformed(FROM, from)),
            },
            start_time: lines.before_label(TIME)?.to_owned(),
            label: lines.before_label(LABEL)?.to_owned(),
            start_timeline,
            incremental_from: match lines.behind_label(INCREMENTAL_LSN) {
                None => None,
                Some(lsn) => {
                    let timeline = lines
                        .behind_label(INCREMENTAL_TIMELINE)
                        .ok_or(BackupLabelError::Missing(INCREMENTAL_TIMELINE))?;
                    let (lsn, timeline) = (parsed(INCREMENTAL_LSN, lsn)?, parsed(INCREMENTAL_TIMELINE, timeline)?);
                    Some(IncrementalFrom { lsn, timeline })
                }
            },
        })
    }
}

/// The file of a backup that is incremental no more: a server refuses to start from what is left out.
pub fn without_incremental(text: &str) -> String {
    let from = |line: &str| line.starts_with(INCREMENTAL_LSN) || line.starts_with(INCREMENTAL_TIMELINE);
    // A label may look like any line; these stand behind it, and behind the start timeline.
    let behind = text.rfind(TIMELINE).map_or(0, |at| at + TIMELINE.len());
    let (head, tail) = text.split_at(behind);
    let kept = tail.split_inclusive('\n').enumerate().filter(|(number, line)| *number == 0 || !from(line));
    std::iter::once(head).chain(kept.map(|(_, line)| line)).collect()
}

/// The lines of the file. A label may contain line feeds and so look like any other line, hence two ways to search.
struct Lines<'a>(&'a str);

impl<'a> Lines<'a> {
    /// What follows `field` in the first line that begins so: for lines written before the label, and the label.
    fn before_label(&self, field: &'static str) -> Result<&'a str, BackupLabelError> {
        self.0.lines().find_map(|line| line.strip_prefix(field)).ok_or(BackupLabelError::Missing(field))
    }

    /// What follows `field` in the last line that begins so: for lines written behind the label.
    fn behind_label(&self, field: &'static str) -> Option<&'a str> {
        self.0.lines().rev().find_map(|line| line.strip_prefix(field))
    }
}

/// `X/X (file <24 digits>)`.
fn start_and_segment(text: &str) -> Option<(Lsn, SegmentFileName)> {
    let (lsn, file) = text.split_once(" (file ")?;
    Some((lsn.parse().ok()?, file.strip_suffix(')')?.parse().ok()?))
}

fn parsed<T: std::str::FromStr>(field: &'static str, value: &str) -> Result<T, BackupLabelError> {
    value.parse().map_err(|_| malformed(field, value))
}

fn malformed(field: &'static str, value: &str) -> BackupLabelError {
    BackupLabelError::Malformed { field, value: value.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LABEL_OF_17: &str = "START WAL LOCATION: 2/4000028 (file 000000030000000200000004)\n\
        CHECKPOINT LOCATION: 2/4000080\nBACKUP METHOD: streamed\nBACKUP FROM: standby\n\
        START TIME: 2026-11-21 01:10:29 UTC\nLABEL: nightly: full\nSTART TIMELINE: 3\n";

    fn with_label(label: &str) -> String {
        LABEL_OF_17.replace("nightly: full", label)
    }

    #[test]
    fn a_label_is_understood() {
        let label = BackupLabel::parse(LABEL_OF_17.as_bytes()).unwrap();
        assert_eq!(label.start_wal_location, Lsn::new(0x2_0400_0028));
        assert_eq!(label.start_segment.to_string(), "000000030000000200000004");
        assert_eq!(label.checkpoint_location, Lsn::new(0x2_0400_0080));
        assert_eq!((label.backup_method, label.backup_from), (BackupMethod::Streamed, BackupFrom::Standby));
        assert_eq!((label.start_time.as_str(), label.label.as_str()), ("2026-11-21 01:10:29 UTC", "nightly: full"));
        assert_eq!((label.start_timeline.get(), label.incremental_from), (3, None));
    }

    #[test]
    fn an_incremental_label_names_what_it_builds_on() {
        let text = format!("{LABEL_OF_17}INCREMENTAL FROM LSN: 1/28\nINCREMENTAL FROM TLI: 2\n");
        let from = BackupLabel::parse(text.as_bytes()).unwrap().incremental_from.unwrap();
        assert_eq!((from.lsn, from.timeline.get()), (Lsn::new(0x1_0000_0028), 2));
        let halved = format!("{LABEL_OF_17}INCREMENTAL FROM LSN: 1/28\n");
        assert_eq!(BackupLabel::parse(halved.as_bytes()), Err(BackupLabelError::Missing("INCREMENTAL FROM TLI: ")));
    }

    #[test]
    fn what_was_merged_is_incremental_no_more() {
        let text = format!("{LABEL_OF_17}INCREMENTAL FROM LSN: 1/28\nINCREMENTAL FROM TLI: 2\n");
        assert_eq!(without_incremental(&text), LABEL_OF_17);
        assert_eq!(without_incremental(LABEL_OF_17), LABEL_OF_17);
        let label = with_label("x\nINCREMENTAL FROM LSN: 0/1\nINCREMENTAL FROM TLI: 9");
        assert_eq!(
            without_incremental(&format!("{label}INCREMENTAL FROM LSN: 1/28\nINCREMENTAL FROM TLI: 2\n")),
            label
        );
        assert_eq!(without_incremental(""), "");
    }

    #[test]
    fn a_label_with_line_feeds_overrides_nothing() {
        let text = with_label("x\nSTART TIMELINE: 9\nSTART WAL LOCATION: 0/0\nBACKUP FROM: primary");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert_eq!((label.start_timeline.get(), label.backup_from), (3, BackupFrom::Standby));
        assert_eq!(label.label, "x");
    }

    #[test]
    fn contradictions_and_gaps_are_named() {
        let other = LABEL_OF_17.replace("TIMELINE: 3", "TIMELINE: 4");
        let error = BackupLabel::parse(other.as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "backup_label starts on timeline 4, but in segment 000000030000000200000004");
        for line in LABEL_OF_17.lines() {
            let gap = LABEL_OF_17.replace(line, "");
            assert!(matches!(BackupLabel::parse(gap.as_bytes()), Err(BackupLabelError::Missing(_))), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_label_or_an_error(bytes: Vec<u8>, label: String) {
            let _ = BackupLabel::parse(&bytes);
            prop_assert!(BackupLabel::parse(with_label(&label.replace("START", "")).as_bytes()).is_ok());
        }
    }
}
