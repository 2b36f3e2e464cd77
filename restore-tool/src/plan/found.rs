//! From a way to the target to the plan that is shown and carried out.

use std::ops::ControlFlow;

use anyhow::Result;
use walkeep_chunkstore::catalogue::{Catalogue, Route, Run, Span, TimedRecord, WalSource};
use walkeep_chunkstore::wal::Held;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::SegmentNumber;
use walkeep_proto::wal::PgTimestamp;

use super::{Found, Leg, Request, RestorePlan, Stop, TimelineSetting, WalNeeded, page_error_note};
use crate::target::RecoveryTarget;

/// Segments behind the stop in which commits of earlier times are looked for.
const LOOKED_BEHIND: u64 = 64;
/// Most such commits that are named.
const NAMED_BEHIND: usize = 20;

impl Found {
    pub(super) fn into_plan(
        self,
        catalogue: &Catalogue,
        source: &dyn WalSource,
        request: &Request,
    ) -> Result<RestorePlan> {
        let route = catalogue.route(self.timeline, &self.backup, source)?;
        let reaches = self.reaches(&route)?;
        let included = self.run.between(self.backup.stop_lsn, reaches);
        let last_included = match route.last_commit(included)? {
            None => route.last_commit(self.run.between(self.backup.start_lsn, reaches))?,
            found => found,
        };
        let any = |facts: &walkeep_proto::wal::facts::WalFacts| facts.transactions.max_time.is_some();
        let first_excluded = match &self.record {
            Some(record) if record.ends_transaction() && matches!(self.stop, Stop::Before(_)) => Some(record.clone()),
            _ if self.stop == Stop::EndOfWal => None,
            _ => route.first_timed(self.run.from(reaches), &any, TimedRecord::ends_transaction)?,
        };
        let left_behind = match request.target {
            RecoveryTarget::Time(time) => left_behind(&route, &self.run, reaches, time, request.exclusive)?,
            _ => Vec::new(),
        };
        let timeline_setting = self.timeline_setting(catalogue, request);
        let mut notes = self.notes.clone();
        notes.extend(page_error_note(&self.backup));
        Ok(RestorePlan {
            timeline: self.timeline,
            timeline_setting,
            path: path(&route, self.backup.timeline),
            stop: self.stop,
            reaches,
            last_included,
            first_excluded,
            wal: wal_needed(&route, &self.backup.start_lsn, reaches),
            left_behind,
            notes,
            backup: self.backup,
        })
    }

    /// Where the timeline's own WAL is not in the archive yet and the way ends in the tail of one that it left, recovery
    /// follows the older one: it would otherwise end on a timeline whose beginning it has not reached.
    pub(super) fn on_timeline_of_tail(mut self) -> Self {
        if let Some(tail) = self.run.tail.filter(|tail| tail.timeline < self.timeline) {
            let (own, newer) = (tail.timeline, self.timeline);
            self.notes.push(format!("no WAL of timeline {newer} is in the archive: recovery ends on timeline {own}"));
            self.timeline = own;
        }
        self
    }

    /// Position behind the last record that is replayed.
    fn reaches(&self, route: &Route<'_>) -> Result<Lsn> {
        Ok(match self.stop {
            Stop::EndOfWal => self.run.end,
            Stop::Consistent => self.backup.stop_lsn,
            Stop::Before(lsn) => lsn.max(self.backup.stop_lsn),
            Stop::After(lsn) => match &self.record {
                Some(record) if record.lsn == lsn => record.end,
                _ => end_of_record_at(route, &self.run, lsn)?.unwrap_or(self.run.end),
            },
        })
    }

    /// A number needs the timeline's history file, which only timeline 1 can do without.
    fn timeline_setting(&self, catalogue: &Catalogue, request: &Request) -> TimelineSetting {
        let by_number = catalogue.has_history(self.timeline);
        let own = self.timeline == self.backup.timeline;
        if own && (request.target == RecoveryTarget::Immediate || !by_number) {
            TimelineSetting::Current
        } else {
            TimelineSetting::Number(self.timeline)
        }
    }
}

/// The end of the first record that begins at or behind `lsn`.
fn end_of_record_at(route: &Route<'_>, run: &Run, lsn: Lsn) -> Result<Option<Lsn>> {
    let mut end = None;
    route.walk(run.from(lsn), &|_| true, &mut |record| {
        end = Some(record.end);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(end)
}

fn left_behind(
    route: &Route<'_>,
    run: &Run,
    stop: Lsn,
    time: PgTimestamp,
    exclusive: bool,
) -> Result<Vec<TimedRecord>> {
    let in_time = |at: PgTimestamp| if exclusive { at < time } else { at <= time };
    let last = SegmentNumber::new(route.size.segment_at(stop).get().saturating_add(LOOKED_BEHIND)).min(run.last);
    let span = Span { last, ..run.from(stop) };
    let mut found = Vec::new();
    let wanted = |facts: &walkeep_proto::wal::facts::WalFacts| facts.transactions.min_time.is_some_and(in_time);
    route.walk(span, &wanted, &mut |record| {
        found.extend(TimedRecord::of(record)?.filter(|record| record.is_commit() && in_time(record.time)));
        Ok(if found.len() < NAMED_BEHIND { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    Ok(found)
}

fn path(route: &Route<'_>, from: walkeep_proto::timeline::TimelineId) -> Vec<Leg> {
    let timelines = route.history.timelines().filter(|timeline| *timeline >= from);
    timelines.map(|timeline| Leg { timeline, until: route.history.end_of(timeline).flatten() }).collect()
}

fn wal_needed(route: &Route<'_>, start: &Lsn, reaches: Lsn) -> WalNeeded {
    let first = route.size.segment_at(*start);
    let last = route.size.segment_before(reaches).max(first);
    let numbers = (first.get()..=last.get()).map(SegmentNumber::new);
    let stored = |number| route.piece(number).map_or(0, |(_, held)| held.stored_bytes());
    let tail_end_lsn = match route.piece(last) {
        Some((_, Held::Tail(tail))) => Some(tail.end),
        _ => None,
    };
    WalNeeded {
        first_segment: route.file_name(first),
        last_segment: route.file_name(last),
        segments: last.get() - first.get() + 1,
        replay_bytes: reaches.saturating_sub(*start),
        stored_bytes: numbers.map(stored).sum(),
        tail_end_lsn,
    }
}
