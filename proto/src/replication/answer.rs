//! The rows with which a walsender answers replication commands, as values.

use bytes::Bytes;

use super::error::AnswerError;
use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// The columns of one row; NULL is `None`.
pub type Row<'a> = &'a [Option<Bytes>];

/// A row, and whose answer it is.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    command: &'static str,
    row: Row<'a>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(command: &'static str, row: Row<'a>, count: usize) -> Result<Self, AnswerError> {
        let columns = Self { command, row };
        if row.len() < count {
            return Err(columns.unexpected(format!("it has {} columns, not {count}", row.len())));
        }
        Ok(columns)
    }

    fn unexpected(&self, problem: String) -> AnswerError {
        AnswerError { command: self.command, problem }
    }

    fn bytes(&self, index: usize) -> Option<&'a Bytes> {
        self.row.get(index).and_then(Option::as_ref)
    }

    /// The text of a column; `None` for NULL.
    pub(super) fn optional(&self, index: usize) -> Result<Option<&'a str>, AnswerError> {
        let text = self.bytes(index).map(|bytes| str::from_utf8(bytes)).transpose();
        text.map_err(|_| self.unexpected(format!("column {} is not UTF-8", index + 1)))
    }

    pub(super) fn text(&self, index: usize, name: &str) -> Result<&'a str, AnswerError> {
        self.optional(index)?.ok_or_else(|| self.unexpected(format!("{name} is NULL")))
    }

    pub(super) fn parse<T: std::str::FromStr>(&self, text: &str, name: &str) -> Result<T, AnswerError> {
        let shown: String = text.chars().take(80).collect();
        text.parse().map_err(|_| self.unexpected(format!("{name} is '{shown}'")))
    }

    pub(super) fn value<T: std::str::FromStr>(&self, index: usize, name: &str) -> Result<T, AnswerError> {
        self.parse(self.text(index, name)?, name)
    }
}

/// Answer to `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentification {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// How far its WAL is flushed; on a standby, how far it is received or replayed.
    pub position: Lsn,
    /// The database of the session; none in a physical one.
    pub database: Option<String>,
}

impl SystemIdentification {
    /// Reads the row.
    pub fn parse(row: Row<'_>) -> Result<Self, AnswerError> {
        let columns = Columns::new("IDENTIFY_SYSTEM", row, 4)?;
        Ok(Self {
            system_identifier: columns.value(0, "the system identifier")?,
            timeline: columns.value(1, "the timeline")?,
            position: columns.value(2, "the WAL position")?,
            database: columns.optional(3)?.map(str::to_owned),
        })
    }
}

/// Answer to `TIMELINE_HISTORY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistoryFile {
    /// The file's name, such as `00000002.history`.
    pub name: String,
    /// Its bytes, as they are on the server.
    pub content: Bytes,
}

impl TimelineHistoryFile {
    /// Reads the row.
    pub fn parse(row: Row<'_>) -> Result<Self, AnswerError> {
        let columns = Columns::new("TIMELINE_HISTORY", row, 2)?;
        let content = columns.bytes(1).ok_or_else(|| columns.unexpected("the content is NULL".to_owned()))?;
        Ok(Self { name: columns.text(0, "the file name")?.to_owned(), content: content.clone() })
    }
}

/// Where a timeline goes on that has ended: the row behind a stream that the server ended, and the answer to
/// `START_REPLICATION` at the very end of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextTimeline {
    /// The next timeline; any number greater than that of the ended one.
    pub timeline: TimelineId,
    /// The first position that belongs to it.
    pub start: Lsn,
}

impl NextTimeline {
    /// Reads the row.
    pub fn parse(row: Row<'_>) -> Result<Self, AnswerError> {
        let columns = Columns::new("START_REPLICATION", row, 2)?;
        Ok(Self {
            timeline: columns.value(0, "the next timeline")?,
            start: columns.value(1, "the start of the next timeline")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<Option<Bytes>> {
        values.iter().map(|value| value.map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect()
    }

    #[test]
    fn a_cluster_identifies_itself() {
        let answer = row(&[Some("7398123456789012345"), Some("4294967295"), Some("1/A0"), None]);
        let identification = SystemIdentification::parse(&answer).unwrap();
        assert_eq!(identification.system_identifier, SystemIdentifier::new(7_398_123_456_789_012_345));
        assert_eq!(identification.timeline, TimelineId::new(u32::MAX).unwrap());
        assert_eq!((identification.position, identification.database), (Lsn::new(0x1_0000_00A0), None));
        let error = SystemIdentification::parse(&row(&[Some("7"), Some("0"), Some("1/A0"), None])).unwrap_err();
        assert_eq!(error.to_string(), "the answer to IDENTIFY_SYSTEM is not as expected: the timeline is '0'");
        for bad in [
            row(&[None, Some("1"), Some("0/1"), None]),
            row(&[Some("7"), Some("1"), Some("0"), None]),
            row(&[Some("7"), Some("1"), Some("0/1")]),
        ] {
            assert!(SystemIdentification::parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_history_file_is_bytes() {
        let answer = vec![Some(Bytes::from("00000002.history")), Some(Bytes::from_static(b"1\t0/3000000\t\xFF\n"))];
        let file = TimelineHistoryFile::parse(&answer).unwrap();
        assert_eq!((file.name.as_str(), &file.content[..]), ("00000002.history", &b"1\t0/3000000\t\xFF\n"[..]));
    }

    #[test]
    fn the_next_timeline_need_not_be_the_next_number() {
        let next = NextTimeline::parse(&row(&[Some("9"), Some("0/3000128")])).unwrap();
        assert_eq!((next.timeline.get(), next.start), (9, Lsn::new(0x300_0128)));
    }

    proptest! {
        #[test]
        fn any_row_is_an_answer_or_an_error(answer in proptest::collection::vec(
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from)), 0..6,
        )) {
            let _ = SystemIdentification::parse(&answer);
            let _ = TimelineHistoryFile::parse(&answer);
            let _ = NextTimeline::parse(&answer);
        }
    }
}
