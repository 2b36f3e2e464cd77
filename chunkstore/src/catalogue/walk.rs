//! Looking for records on a route: summaries say which segments are worth reading, the decoder reads those.

use std::ops::ControlFlow;
use std::sync::Arc;

use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::SegmentNumber;
use walkeep_proto::wal::facts::WalFacts;
use walkeep_proto::wal::join::{Joint, join_crossing_record};
use walkeep_proto::wal::record::TransactionId;
use walkeep_proto::wal::{DecodedRecord, PgTimestamp, RecordMeaning, SegmentScan, WalDecoder, WalError};

use super::route::{Route, Run};
use crate::error::{Error, Result};
use crate::parallel::side_by_side;

/// Most summaries that are read ahead at once.
const READ_AHEAD: u64 = 32;

/// A record that says when it was written.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TimedRecord {
    /// Where it begins.
    pub lsn: Lsn,
    /// Where the next one begins.
    #[serde(skip)]
    pub end: Lsn,
    /// When it was written, by the server's clock.
    #[serde(serialize_with = "time_as_text")]
    pub time: PgTimestamp,
    /// What it is.
    #[serde(flatten)]
    pub kind: TimedRecordKind,
}

/// What a record that carries a time is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum TimedRecordKind {
    /// A commit.
    Commit {
        /// The transaction.
        xid: TransactionId,
    },
    /// An abort.
    Abort {
        /// The transaction.
        xid: TransactionId,
    },
    /// A named position.
    RestorePoint {
        /// Its name.
        name: String,
    },
    /// A checkpoint; its time is that of its beginning, in whole seconds.
    Checkpoint,
    /// A promotion.
    EndOfRecovery,
}

impl TimedRecord {
    /// The record, if it carries a time.
    pub fn of(record: &DecodedRecord<'_>) -> Result<Option<Self>, WalError> {
        let (time, kind) = match record.meaning()? {
            RecordMeaning::TransactionEnd(end) if end.committed => (end.time, TimedRecordKind::Commit { xid: end.xid }),
            RecordMeaning::TransactionEnd(end) => (end.time, TimedRecordKind::Abort { xid: end.xid }),
            RecordMeaning::RestorePoint(point) => {
                let name = String::from_utf8_lossy(point.name).into_owned();
                (point.time, TimedRecordKind::RestorePoint { name })
            }
            RecordMeaning::Checkpoint(point) => (point.time, TimedRecordKind::Checkpoint),
            RecordMeaning::EndOfRecovery { time, .. } => (time, TimedRecordKind::EndOfRecovery),
            _ => return Ok(None),
        };
        Ok(Some(Self { lsn: record.start, end: record.end, time, kind }))
    }

    /// Whether it ends a transaction: what recovery compares with a target time.
    pub fn ends_transaction(&self) -> bool {
        matches!(self.kind, TimedRecordKind::Commit { .. } | TimedRecordKind::Abort { .. })
    }

    /// Whether it is a commit.
    pub fn is_commit(&self) -> bool {
        matches!(self.kind, TimedRecordKind::Commit { .. })
    }
}

pub(super) fn time_as_text<S: serde::Serializer>(time: &PgTimestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkEnd {
    /// The visitor had enough.
    Found,
    /// Everything was seen.
    Exhausted,
}

/// The range of a walk: records that begin in `from..until`, within a run.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Where to begin: the start of a record, of a page or of a segment.
    pub from: Lsn,
    /// The first position whose record is not shown.
    pub until: Lsn,
    /// The last segment that may be read.
    pub last: SegmentNumber,
}

impl Run {
    /// The part of the run that begins at `from`.
    pub fn from(&self, from: Lsn) -> Span {
        Span { from, until: Lsn::MAX, last: self.last }
    }

    /// The part of the run that begins at `from` and ends before `until`.
    pub fn between(&self, from: Lsn, until: Lsn) -> Span {
        Span { until, ..self.from(from) }
    }
}

type Visitor<'v> = dyn FnMut(&DecodedRecord<'_>) -> Result<ControlFlow<()>, WalError> + 'v;

impl Route<'_> {
    /// Shows the records of `span` to `visit` until it breaks off, leaving out stretches that are not `wanted`.
    pub fn walk(
        &self,
        span: Span,
        wanted: &(dyn Fn(&WalFacts) -> bool + Sync),
        visit: &mut Visitor<'_>,
    ) -> Result<WalkEnd> {
        let mut walker = Walker { route: *self, span, wanted, previous: None, open: None };
        let mut number = self.size.segment_at(span.from);
        let mut ahead = 1;
        while number <= span.last {
            let past_end = number.start(self.size) >= span.until;
            if past_end && walker.open.is_none() {
                break;
            }
            for scan in self.scans(number, ahead.min(span.last.get() - number.get() + 1))? {
                if walker.segment(number, &scan, visit)?.is_break() {
                    return Ok(WalkEnd::Found);
                }
                if !scan.is_complete() {
                    return Ok(WalkEnd::Exhausted);
                }
                walker.previous = Some(scan);
                number = number.next();
            }
            ahead = (ahead * 2).min(READ_AHEAD);
        }
        Ok(WalkEnd::Exhausted)
    }

    /// Summaries of `count` segments, read side by side.
    fn scans(&self, first: SegmentNumber, count: u64) -> Result<Vec<Arc<SegmentScan>>> {
        let numbers: Vec<u64> = (first.get()..first.get().saturating_add(count)).collect();
        let threads = self.source.parallel_reads().max(2);
        side_by_side(&numbers, threads, |number| self.scan(SegmentNumber::new(*number))).into_iter().collect()
    }

    /// The segments of `first..=last` from the last on. Where reads wait for a network, the summaries of the next ones are
    /// fetched meanwhile, more and more of them.
    fn backwards(&self, first: u64, last: u64) -> impl Iterator<Item = SegmentNumber> {
        let far = self.source.parallel_reads() > 1;
        let (mut fetched, mut ahead) = (last.saturating_add(1), 1);
        (first..=last).rev().map(move |number| {
            if far && number < fetched {
                fetched = number.saturating_sub(ahead - 1).max(first);
                // What is wrong with a segment is said when it is its turn.
                let _ = self.scans(SegmentNumber::new(fetched), number - fetched + 1);
                ahead = (ahead * 2).min(READ_AHEAD);
            }
            SegmentNumber::new(number)
        })
    }

    /// The first record of `span` that carries a time and satisfies `is_it`.
    pub fn first_timed(
        &self,
        span: Span,
        wanted: &(dyn Fn(&WalFacts) -> bool + Sync),
        is_it: impl Fn(&TimedRecord) -> bool,
    ) -> Result<Option<TimedRecord>> {
        let mut found = None;
        self.walk(span, wanted, &mut |record| {
            found = TimedRecord::of(record)?.filter(|record| is_it(record));
            Ok(if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(found)
    }

    /// The last commit of `span`, looked for from its end.
    pub fn last_commit(&self, span: Span) -> Result<Option<TimedRecord>> {
        self.last_timed(span, &|facts| facts.transactions.commits > 0, TimedRecord::is_commit)
    }

    fn last_timed(
        &self,
        span: Span,
        wanted: &(dyn Fn(&WalFacts) -> bool + Sync),
        is_it: impl Fn(&TimedRecord) -> bool,
    ) -> Result<Option<TimedRecord>> {
        let first = self.size.segment_at(span.from).get();
        let last = span.last.get().min(self.size.segment_before(span.until).get());
        for number in self.backwards(first, last) {
            let from = span.from.max(number.start(self.size));
            let part = Span { from, until: span.until.min(number.end(self.size)), last: span.last };
            let mut found = None;
            self.walk(part, wanted, &mut |record| {
                found = TimedRecord::of(record)?.filter(|record| is_it(record)).or(found.take());
                Ok(ControlFlow::Continue(()))
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Start of the last whole record of the run.
    pub fn last_record(&self, run: &Run) -> Result<Option<Lsn>> {
        let mut ended_later = false;
        for number in self.backwards(run.first.get(), run.last.get()) {
            let scan = self.scan(number)?;
            if let Some(crossing) = scan.crossing.as_ref().filter(|_| ended_later) {
                return Ok(Some(crossing.start));
            }
            if scan.last_record.is_some() {
                return Ok(scan.last_record);
            }
            let rest = scan.continuation.as_ref();
            ended_later |= rest.is_some_and(|rest| rest.missing == 0 && !rest.given_up);
        }
        Ok(None)
    }

    /// The highest time that a transaction's end or a checkpoint carries in `[from, until)`. A backup that reaches from
    /// one to the other holds everything up to this time, and so serves no earlier target.
    pub fn highest_time(&self, span: Span) -> Result<Option<PgTimestamp>> {
        let mut highest = None;
        let timed = |facts: &WalFacts| facts.transactions.max_time.is_some() || !facts.checkpoints.is_empty();
        self.walk(span, &timed, &mut |record| {
            let timed = TimedRecord::of(record)?;
            let counts = |record: &TimedRecord| record.ends_transaction() || record.kind == TimedRecordKind::Checkpoint;
            highest = timed.filter(counts).map(|record| record.time).max(highest);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(highest)
    }
}

struct Walker<'r> {
    route: Route<'r>,
    span: Span,
    wanted: &'r (dyn Fn(&WalFacts) -> bool + Sync),
    previous: Option<Arc<SegmentScan>>,
    /// Start of the record that the previous segment left unfinished.
    open: Option<Lsn>,
}

impl Walker<'_> {
    fn segment(
        &mut self,
        number: SegmentNumber,
        scan: &SegmentScan,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>> {
        if self.crossing_record(number, scan, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let in_span = number.start(self.route.size) < self.span.until;
        if in_span && (self.wanted)(&scan.facts) {
            let start = number.start(self.route.size);
            let mut decoder = self.decoder(scan, number, start)?;
            let bytes = self.route.bytes(number)?;
            if self.show(&mut decoder, number, &bytes, false, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let runs_through = scan.continuation.as_ref().is_some_and(|rest| rest.missing > 0 && !rest.given_up);
        if !runs_through {
            self.open = scan.crossing.as_ref().map(|crossing| crossing.start);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The record that begins in an earlier segment of the span and ends in this one.
    fn crossing_record(
        &mut self,
        number: SegmentNumber,
        scan: &SegmentScan,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>> {
        let Some(previous) = &self.previous else { return Ok(ControlFlow::Continue(())) };
        let joint = join_crossing_record(previous, scan).map_err(|e| self.damaged(number, e))?;
        let (is_wanted, ends_here) = match joint {
            Joint::Nothing | Joint::GivenUp { .. } => (false, false),
            Joint::Record { facts, .. } => ((self.wanted)(&facts), true),
            Joint::NotKept { continues, .. } => (true, !continues),
        };
        let start =
            self.open.filter(|start| is_wanted && ends_here && (self.span.from..self.span.until).contains(start));
        let Some(start) = start else { return Ok(ControlFlow::Continue(())) };
        let mut decoder = self.decoder(scan, number, start)?;
        for part in self.route.size.segment_at(start).get()..=number.get() {
            let part = SegmentNumber::new(part);
            let bytes = self.route.bytes(part)?;
            let skip = decoder.position().saturating_sub(part.start(self.route.size));
            let rest = usize::try_from(skip).ok().and_then(|skip| bytes.get(skip..)).unwrap_or_default();
            if self.show(&mut decoder, part, rest, true, visit)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if decoder.last_record().is_some() {
                break;
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn decoder(&self, scan: &SegmentScan, number: SegmentNumber, start: Lsn) -> Result<WalDecoder> {
        let highest =
            self.route.piece(number).map_or_else(|| self.route.segment(number), |(segment, _)| segment).timeline;
        WalDecoder::new(scan.format(), highest, start).map_err(|e| self.damaged(number, e))
    }

    /// Shows the records in `bytes` that lie in the span: only the first, or all.
    fn show(
        &self,
        decoder: &mut WalDecoder,
        number: SegmentNumber,
        bytes: &[u8],
        only_first: bool,
        visit: &mut Visitor<'_>,
    ) -> Result<ControlFlow<()>> {
        let mut records = decoder.feed(bytes);
        loop {
            let record = match records.next_record() {
                Ok(Some(record)) => record,
                // The summary has said where valid records end.
                Ok(None) | Err(WalError::EndOfWal(_)) => return Ok(ControlFlow::Continue(())),
                Err(error) => return Err(self.damaged(number, error)),
            };
            if record.start >= self.span.until {
                return Ok(ControlFlow::Continue(()));
            }
            if record.start >= self.span.from && visit(&record).map_err(|e| self.damaged(number, e))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if only_first {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    fn damaged(&self, number: SegmentNumber, problem: impl std::fmt::Display) -> Error {
        Error::damaged(format_args!("WAL segment {}", self.route.file_name(number)), problem)
    }
}
