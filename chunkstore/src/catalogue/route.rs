//! The way of recovery along one timeline's history, and how far the archive carries it.

use std::sync::Arc;

use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::wal::SegmentScan;
use walkeep_proto::wal::join::join_crossing_record;
use walkeep_proto::wal::segment_scan::SegmentEnd;

use super::is_of_service;
use super::source::WalSource;
use crate::error::{Error, ErrorKind, Result};
use crate::repository::BackupManifest;
use crate::wal::{Held, StoredTail, WalInventory, segment_on};

/// The segments that recovery reads on its way to one timeline.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    /// The timeline's past.
    pub history: &'a TimelineHistory,
    /// The archived segments.
    pub inventory: &'a WalInventory,
    /// Bytes per segment.
    pub size: WalSegmentSize,
    /// The cluster; segments of another one end the route.
    pub system_identifier: SystemIdentifier,
    /// Where segments are read.
    pub source: &'a dyn WalSource,
}

/// Unbroken WAL on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first segment.
    pub first: SegmentNumber,
    /// Its last segment.
    pub last: SegmentNumber,
    /// Where its records end: behind the last one that is whole.
    pub end: Lsn,
    /// What stands behind it.
    pub ends_by: RunEnd,
    /// The segment of which only a tail is there, if the run ends in one.
    pub tail: Option<WalSegment>,
}

/// What stands behind a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Nothing: it is the newest WAL of the route.
    Newest,
    /// A segment is missing, or only its tail is there, although later ones are.
    Gap {
        /// The missing segment.
        missing: WalSegment,
        /// The next one that is there.
        resumes: WalSegment,
    },
    /// The archive holds two contents of the next segment.
    Disputed(WalSegment),
    /// WAL of another cluster: the one after a `pg_upgrade`.
    OtherCluster(WalSegment),
    /// The last segment's records stop before its end although later segments are there.
    Broken(WalSegment),
    /// The tail of this segment cannot be used, or not to its end.
    Tail(WalSegment, TailProblem),
}

/// Why a tail cannot be used to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailProblem {
    /// Its object is damaged.
    Damaged,
    /// The archive holds two contents of it.
    Disputed,
    /// Its records stop before its end, or do not continue the segment before.
    Broken,
}

impl<'a> Route<'a> {
    /// The segment of this number.
    pub fn segment(&self, number: SegmentNumber) -> WalSegment {
        segment_on(self.history, number, self.size)
    }

    /// The file name of the segment of this number: of the one that is there, or else of the one that should be.
    pub fn file_name(&self, number: SegmentNumber) -> String {
        self.piece(number).map_or_else(|| self.segment(number), |(segment, _)| segment).file_name(self.size)
    }

    /// What recovery finds when it asks for the segment of this number, and under which name: the whole segment, or else a
    /// tail.
    ///
    /// An older timeline's tail belongs to this route only if it ends before that timeline was left; one that goes on leads
    /// astray ([`Route::stranger`]).
    pub fn piece(&self, number: SegmentNumber) -> Option<(WalSegment, Held<'a>)> {
        let wanted = self.segment(number);
        if let Some(stored) = self.inventory.segments.get(&wanted) {
            return Some((wanted, Held::Whole(stored)));
        }
        let (segment, stored) = self.tail(number)?;
        Some((segment, Held::Tail(stored)))
    }

    fn tail(&self, number: SegmentNumber) -> Option<(WalSegment, &'a StoredTail)> {
        let found = self.answer(number)?;
        let stored = self.inventory.tails.get(&found)?;
        let left = self.history.end_of(found.timeline).flatten();
        left.is_none_or(|left| stored.end <= left).then_some((found, stored))
    }

    /// A segment, whole or not, of an older timeline that PostgreSQL would take for the missing one of this number, and so
    /// leave this route without a word.
    pub fn stranger(&self, number: SegmentNumber) -> Option<WalSegment> {
        self.answer(number).filter(|_| self.piece(number).is_none())
    }

    /// What the archive gives PostgreSQL when it looks for the segment of this number: the one of the newest timeline that
    /// has any, down to the timeline that was read last (`XLogFileReadAnyTLI`).
    fn answer(&self, number: SegmentNumber) -> Option<WalSegment> {
        let before = SegmentNumber::new(number.get().saturating_sub(1));
        let asked = self.segment(before).timeline..=self.segment(number).timeline;
        let timelines = self.history.timelines().rev().filter(|timeline| asked.contains(timeline));
        let held = |segment: &WalSegment| {
            self.inventory.segments.contains_key(segment) || self.inventory.tails.contains_key(segment)
        };
        timelines.map(|timeline| WalSegment { timeline, number }).find(held)
    }

    pub(super) fn scan(&self, number: SegmentNumber) -> Result<Arc<SegmentScan>> {
        let (segment, held) = self.held(number)?;
        self.source.scan(segment, self.size, held)
    }

    pub(super) fn bytes(&self, number: SegmentNumber) -> Result<Vec<u8>> {
        let (segment, held) = self.held(number)?;
        self.source.bytes(segment, self.size, held)
    }

    fn held(&self, number: SegmentNumber) -> Result<(WalSegment, Held<'a>)> {
        let missing = || Error::not_found(format_args!("WAL segment {} in the archive", self.file_name(number)));
        self.piece(number).ok_or_else(missing)
    }

    /// Whether the backup lies on this route.
    pub fn carries(&self, backup: &BackupManifest) -> bool {
        backup.lies_on(self.history, self.system_identifier, self.size)
    }

    /// The first segment that is missing between a backup's start and its stop. In place of the last a tail will do, if it
    /// reaches far enough.
    pub fn missing_for(&self, backup: &BackupManifest) -> Option<WalSegment> {
        let (first, last) = (self.size.segment_at(backup.start_lsn), self.size.segment_before(backup.stop_lsn));
        let missing = self.inventory.first_missing(self.history, first, last, self.size);
        missing.filter(|missing| missing.number != last || self.tail(last).is_none())
    }

    /// The unbroken WAL from the segment at `lsn` on; `None` if not even that is there, or not of this cluster.
    pub fn run_from(&self, lsn: Lsn) -> Result<Option<Run>> {
        let first = self.size.segment_at(lsn);
        let Some(held) = self.inventory.contiguous_end(self.history, first, self.size) else {
            return self.tail_run(first, first, None);
        };
        let Some(last) = self.own_end(first, held)? else { return Ok(None) };
        let scan = self.scan(last)?;
        let complete = scan.is_complete();
        let mut run = Run { first, last, end: self.end_of_records(first, last)?, ends_by: RunEnd::Newest, tail: None };
        if last < held {
            run.ends_by = RunEnd::OtherCluster(self.segment(last.next()));
        } else if complete && self.tail(last.next()).is_some() {
            return self.tail_run(first, last.next(), Some((run, &scan)));
        } else {
            run.ends_by = self.behind(last, complete);
        }
        Ok(Some(run))
    }

    /// The run that begins at `first` and has a tail at `number`, behind what is `before` it. A tail of which nothing can be
    /// used is left out.
    fn tail_run(
        &self,
        first: SegmentNumber,
        number: SegmentNumber,
        before: Option<(Run, &SegmentScan)>,
    ) -> Result<Option<Run>> {
        let without = |ends_by| Ok(before.map(|(run, _)| Run { ends_by, ..run }));
        let Some((segment, _)) = self.tail(number) else { return Ok(None) };
        let scan = match self.scan(number) {
            Ok(scan) => scan,
            Err(error) if is_of_service(&error) => return Err(error),
            Err(error) => match error.kind() {
                ErrorKind::Damaged => return without(RunEnd::Tail(segment, TailProblem::Damaged)),
                ErrorKind::Conflict => return without(RunEnd::Tail(segment, TailProblem::Disputed)),
                _ => return Err(error),
            },
        };
        if scan.header.system_identifier != self.system_identifier {
            return without(RunEnd::OtherCluster(segment));
        }
        let broken = RunEnd::Tail(segment, TailProblem::Broken);
        if before.is_some_and(|(_, previous)| join_crossing_record(previous, &scan).is_err()) {
            return without(broken);
        }
        let ends_by = if matches!(scan.end, SegmentEnd::Stopped(_)) { broken } else { self.behind_tail(number) };
        let finishes_one = scan.continuation.as_ref().is_some_and(|rest| rest.missing == 0 && !rest.given_up);
        if scan.first_record.is_none() && !finishes_one {
            return without(ends_by);
        }
        Ok(Some(Run { first, last: number, end: self.end_of_records(first, number)?, ends_by, tail: Some(segment) }))
    }

    /// Where the last record ends that is whole in these segments, if it may run through some of them.
    fn end_of_records(&self, first: SegmentNumber, last: SegmentNumber) -> Result<Lsn> {
        for number in (first.get()..=last.get()).rev() {
            let scan = self.scan(SegmentNumber::new(number))?;
            let runs_through = scan.continuation.as_ref().is_some_and(|rest| rest.missing > 0);
            let end = match &scan.crossing {
                _ if !scan.is_complete() => Some(scan.valid_up_to),
                Some(crossing) => scan.last_record_end.or(Some(crossing.start)),
                None if runs_through => None,
                None => scan.last_record_end.or(Some(scan.valid_up_to)),
            };
            if let Some(end) = end {
                return Ok(end);
            }
        }
        Ok(first.start(self.size))
    }

    /// The last segment of `first..=held` that is of this cluster. After a `pg_upgrade` the new cluster's WAL carries on
    /// the old one's numbers, so names alone do not tell.
    fn own_end(&self, first: SegmentNumber, held: SegmentNumber) -> Result<Option<SegmentNumber>> {
        let is_own = |number: u64| {
            let scan = self.scan(SegmentNumber::new(number))?;
            Ok::<_, Error>(scan.header.system_identifier == self.system_identifier)
        };
        if is_own(held.get())? {
            return Ok(Some(held));
        }
        if !is_own(first.get())? {
            return Ok(None);
        }
        let (mut own, mut foreign) = (first.get(), held.get());
        while foreign - own > 1 {
            let middle = own + (foreign - own) / 2;
            if is_own(middle)? { own = middle } else { foreign = middle }
        }
        Ok(Some(SegmentNumber::new(own)))
    }

    fn behind(&self, last: SegmentNumber, complete: bool) -> RunEnd {
        let next = self.segment(last.next());
        let Some(resumes) = self.first_held_after(last) else { return RunEnd::Newest };
        if !complete {
            RunEnd::Broken(self.segment(last))
        } else if self.inventory.segments.contains_key(&next) {
            RunEnd::Disputed(next)
        } else {
            RunEnd::Gap { missing: next, resumes }
        }
    }

    /// What stands behind a tail. A cluster that was upgraded leaves one behind: its last segment is never filled.
    fn behind_tail(&self, number: SegmentNumber) -> RunEnd {
        let is_foreign = |segment: &WalSegment| {
            self.scan(segment.number).is_ok_and(|scan| scan.header.system_identifier != self.system_identifier)
        };
        match self.first_held_after(number) {
            None => RunEnd::Newest,
            Some(resumes) if is_foreign(&resumes) => RunEnd::OtherCluster(resumes),
            Some(resumes) => RunEnd::Gap { missing: self.segment(number), resumes },
        }
    }

    /// The first segment of the route behind `number` that the archive holds, whole or not.
    fn first_held_after(&self, number: SegmentNumber) -> Option<WalSegment> {
        let on_route = |segment: &WalSegment| self.segment(segment.number) == *segment;
        let later = |timeline| {
            let from = WalSegment { timeline, number: number.next() };
            let to = WalSegment { timeline, number: SegmentNumber::new(u64::MAX) };
            let whole = self.inventory.segments.range(from..=to).map(|(segment, _)| *segment).find(on_route);
            let tail = self.inventory.tails.range(from..=to).map(|(segment, _)| *segment).find(on_route);
            whole.into_iter().chain(tail).min()
        };
        self.history.timelines().filter_map(later).min_by_key(|segment| segment.number)
    }
}
