//! Targets that are a record: found on every branch, and wanted on one.

use anyhow::{Result, bail};
use walkeep_chunkstore::catalogue::{Catalogue, Route, Run, TimedRecord, TimedRecordKind, WalSource};
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::BackupManifest;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::PgTimestamp;
use walkeep_proto::wal::facts::WalFacts;

use super::refuse::Obstacles;
use super::{Found, Request, Stop, backups_on};
use crate::failure::Refusal;
use crate::target::{Instant, RecoveryTarget};

/// Finds the target on the timeline asked for, or on all branches; several that disagree are the user's to choose from.
pub(super) fn on_branches(catalogue: &Catalogue, source: &dyn WalSource, request: &Request) -> Result<Found> {
    let timelines = match request.timeline {
        Some(timeline) => vec![timeline],
        None => catalogue.branches(),
    };
    let (mut found, mut refused): (Vec<Found>, Vec<(TimelineId, Obstacles)>) = (Vec::new(), Vec::new());
    for timeline in timelines {
        if let Err(error) = catalogue.history(timeline) {
            tracing::warn!("timeline {timeline} is passed over: {error}");
            continue;
        }
        match on_timeline(catalogue, source, request, timeline)? {
            Ok(way) => found.push(way),
            Err(obstacles) => refused.push((timeline, obstacles)),
        }
    }
    let Some(first) = found.first().cloned() else { return Err(refuse_all(&refused, request).into()) };
    let place = |way: &Found| {
        let (Stop::Before(lsn) | Stop::After(lsn)) = way.stop else { return None };
        let history = catalogue.history(way.timeline).ok()?;
        Some((history.timeline_at(lsn), way.stop_lsn()))
    };
    if found.iter().any(|way| place(way) != place(&first)) {
        bail!(ambiguous(&found, request));
    }
    Ok(first)
}

impl Found {
    fn stop_lsn(&self) -> Lsn {
        match self.stop {
            Stop::Before(lsn) | Stop::After(lsn) => lsn,
            Stop::Consistent | Stop::EndOfWal => self.run.end,
        }
    }
}

fn refuse_all(refused: &[(TimelineId, Obstacles)], request: &Request) -> Refusal {
    let reach = |obstacles: &Obstacles| {
        let lsn = |limit: &Option<super::refuse::Limit>| limit.as_ref().map(|limit| limit.lsn);
        (lsn(&obstacles.maximum).or(lsn(&obstacles.minimum)), obstacles.remarks.len())
    };
    match refused.iter().max_by_key(|(timeline, obstacles)| (reach(obstacles), *timeline)) {
        Some((timeline, obstacles)) => {
            let others = refused.iter().filter(|(other, _)| other != timeline).map(|(other, _)| other.to_string());
            let others: Vec<String> = others.collect();
            let refusal = obstacles.refusal(request, *timeline);
            if others.is_empty() {
                refusal
            } else {
                refusal.hint(format!("timeline {} does not reach it either", others.join(", ")))
            }
        }
        None => Refusal::new(Exit::NotFound, "the archive holds no timeline that can be read"),
    }
}

fn ambiguous(found: &[Found], request: &Request) -> Refusal {
    let line = |way: &Found| {
        let at = way.record.as_ref().map_or_else(String::new, |record| format!(" of {}", Instant(record.time)));
        format!("--timeline {}: backup {}, stops at {}{at}", way.timeline, way.backup.id, way.stop_lsn())
    };
    let message = format!("{} lies on several timelines: choose one with --timeline", request.target);
    Refusal::new(Exit::Usage, message).hints(found.iter().map(line))
}

/// The way along one timeline, or what stands against it.
fn on_timeline(
    catalogue: &Catalogue,
    source: &dyn WalSource,
    request: &Request,
    timeline: TimelineId,
) -> Result<Result<Found, Obstacles>> {
    let mut search = Search { request, timeline, obstacles: Obstacles::default(), searched_from: None };
    // After a pg_upgrade one name stands for two clusters; the newer one's backups come first.
    for identity in catalogue.identities.iter().rev() {
        let same = |backup: &&BackupManifest| backup.system_identifier == identity.system_identifier;
        let Some(example) = catalogue.backups.iter().find(same) else { continue };
        let route = catalogue.route(timeline, example, source)?;
        search.searched_from = None;
        for backup in backups_on(catalogue, &route, request) {
            if let Some(found) = search.try_backup(&route, backup)? {
                return Ok(Ok(found));
            }
        }
    }
    Ok(Err(search.obstacles))
}

struct Search<'r> {
    request: &'r Request,
    timeline: TimelineId,
    obstacles: Obstacles,
    /// Where the newer backup that was tried before becomes consistent: WAL behind it has been searched.
    searched_from: Option<Lsn>,
}

impl Search<'_> {
    fn try_backup(&mut self, route: &Route<'_>, backup: &BackupManifest) -> Result<Option<Found>> {
        if let RecoveryTarget::Lsn(lsn) = self.request.target
            && lsn < backup.stop_lsn
        {
            self.obstacles.minimum = Some(super::refuse::Limit { time: None, lsn: backup.stop_lsn, xid: None });
            return Ok(None);
        }
        let (run, from) = match route.usable(backup)? {
            Ok(usable) => usable,
            Err(problem) => {
                self.obstacles.unusable(backup, &problem);
                return Ok(None);
            }
        };
        let stop = match &self.request.target {
            RecoveryTarget::Time(time) => self.time(route, backup, &run, from, *time)?,
            RecoveryTarget::Lsn(lsn) => self.lsn(route, backup, &run, *lsn)?,
            RecoveryTarget::Transaction(xid) => self.transaction(route, backup, &run, *xid)?,
            RecoveryTarget::Name(name) => self.name(route, backup, &run, name)?,
            RecoveryTarget::Latest | RecoveryTarget::Immediate => None,
        };
        self.searched_from = Some(backup.stop_lsn);
        let Some((stop, record)) = stop else { return Ok(None) };
        let notes = std::mem::take(&mut self.obstacles.remarks);
        Ok(Some(Found { backup: backup.clone(), timeline: self.timeline, run, stop, record, notes }))
    }

    /// Before the first record whose time shows that the target time has passed.
    fn time(
        &mut self,
        route: &Route<'_>,
        backup: &BackupManifest,
        run: &Run,
        from: PgTimestamp,
        time: PgTimestamp,
    ) -> Result<Option<(Stop, Option<TimedRecord>)>> {
        let exclusive = self.request.exclusive;
        let is_past = |at: PgTimestamp| if exclusive { at >= time } else { at > time };
        if is_past(from) {
            self.obstacles.too_early(backup, from);
            return Ok(None);
        }
        let span = run.from(backup.stop_lsn);
        let transactions = |facts: &WalFacts| facts.transactions.max_time.is_some_and(is_past);
        let found = route.first_timed(span, &transactions, |r| r.ends_transaction() && is_past(r.time))?;
        if let Some(record) = found {
            return Ok(Some((Stop::Before(record.lsn), Some(record))));
        }
        // No transaction ended later; any other record of a later time proves that none up to the target is missing.
        let others = |facts: &WalFacts| {
            facts.checkpoints.iter().any(|point| is_past(point.time))
                || facts.restore_points.iter().any(|point| is_past(point.time))
                || !facts.timeline_changes.is_empty()
        };
        if let Some(record) = route.first_timed(span, &others, |record| is_past(record.time))? {
            return Ok(Some((Stop::Before(record.lsn), Some(record))));
        }
        let last = route.last_commit(span)?;
        if let Some(commit) = last.as_ref().filter(|commit| commit.time >= time) {
            let end = route.last_record(run)?.unwrap_or(commit.lsn);
            return Ok(Some((Stop::After(end.max(commit.lsn)), None)));
        }
        self.obstacles.too_late(route, run, last.as_ref());
        Ok(None)
    }

    fn lsn(
        &mut self,
        route: &Route<'_>,
        backup: &BackupManifest,
        run: &Run,
        lsn: Lsn,
    ) -> Result<Option<(Stop, Option<TimedRecord>)>> {
        let last = route.last_record(run)?;
        if last.is_some_and(|last| lsn <= last) {
            let stop = if self.request.exclusive { Stop::Before(lsn) } else { Stop::After(lsn) };
            return Ok(Some((stop, None)));
        }
        // The end of the WAL is what `pg_current_wal_lsn()` shows; no record begins there yet.
        if let Some(last) = last.filter(|last| lsn <= run.end && *last >= backup.stop_lsn) {
            return Ok(Some((Stop::After(last), None)));
        }
        let commit = route.last_commit(run.from(backup.stop_lsn))?;
        self.obstacles.too_late(route, run, commit.as_ref());
        Ok(None)
    }

    /// The part of a run that newer backups have not searched.
    fn unsearched(&self, backup: &BackupManifest, run: &Run) -> walkeep_chunkstore::catalogue::Span {
        run.between(backup.stop_lsn, self.searched_from.unwrap_or(Lsn::MAX))
    }

    fn transaction(
        &mut self,
        route: &Route<'_>,
        backup: &BackupManifest,
        run: &Run,
        xid: u32,
    ) -> Result<Option<(Stop, Option<TimedRecord>)>> {
        let wanted = |facts: &WalFacts| {
            let (low, high) = (facts.transactions.min_xid, facts.transactions.max_xid);
            low.zip(high).is_some_and(|(low, high)| (low..=high).contains(&xid))
        };
        let is_it = |record: &TimedRecord| matches!(record.kind, TimedRecordKind::Commit { xid: x } | TimedRecordKind::Abort { xid: x } if x == xid);
        let found = route.first_timed(self.unsearched(backup, run), &wanted, is_it)?;
        self.at_record(route, backup, run, found)
    }

    fn name(
        &mut self,
        route: &Route<'_>,
        backup: &BackupManifest,
        run: &Run,
        name: &str,
    ) -> Result<Option<(Stop, Option<TimedRecord>)>> {
        let wanted = |facts: &WalFacts| facts.restore_points.iter().any(|point| point.name == name);
        let is_it = |record: &TimedRecord| matches!(&record.kind, TimedRecordKind::RestorePoint { name: found } if found == name);
        let found = route.first_timed(self.unsearched(backup, run), &wanted, is_it)?;
        if let Some(first) = &found
            && let Some(other) = route.first_timed(run.from(first.end), &wanted, is_it)?
        {
            let note = "the name was used again at";
            let (first, lsn) = (Instant(first.time), other.lsn);
            self.obstacles.remarks.push(format!(
                "restore point '{name}' is the one of {first}; {note} {} (--target-lsn {lsn} reaches that one)",
                Instant(other.time)
            ));
        }
        self.at_record(route, backup, run, found)
    }

    fn at_record(
        &mut self,
        route: &Route<'_>,
        backup: &BackupManifest,
        run: &Run,
        found: Option<TimedRecord>,
    ) -> Result<Option<(Stop, Option<TimedRecord>)>> {
        let Some(record) = found else {
            let commit = route.last_commit(run.from(backup.stop_lsn))?;
            self.obstacles.too_late(route, run, commit.as_ref());
            return Ok(None);
        };
        let exclusive = self.request.exclusive && record.ends_transaction();
        let stop = if exclusive { Stop::Before(record.lsn) } else { Stop::After(record.lsn) };
        Ok(Some((stop, Some(record))))
    }
}
