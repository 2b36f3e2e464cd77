//! `latest` and `immediate`: targets that begin with a backup instead of ending at a record.

use anyhow::Result;
use walkeep_chunkstore::catalogue::{Catalogue, Route, Run, RunEnd, TailProblem, WalSource, describe_end};
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::BackupManifest;
use walkeep_proto::timeline::TimelineId;

use super::refuse::Obstacles;
use super::{Found, Request, Stop, backups_on};
use crate::failure::Refusal;

/// Everything that is archived, along the newest timeline that the newest backup leads to.
pub(super) fn latest(catalogue: &Catalogue, source: &dyn WalSource, request: &Request) -> Result<Found> {
    let timeline = match request.timeline {
        Some(timeline) => timeline,
        None => newest_timeline(catalogue, source, request)?,
    };
    let (backup, run, mut notes) = newest_usable(catalogue, source, request, timeline)?;
    let route = catalogue.route(timeline, backup, source)?;
    check_end(&route, &run)?;
    notes.extend(other_branches(catalogue, timeline, request));
    // Without a target PostgreSQL promotes at the end of the WAL; only a position makes it wait there.
    let stop = match route.last_record(&run)?.filter(|last| !request.promote && *last >= backup.stop_lsn) {
        Some(last) => Stop::After(last),
        None if request.promote => Stop::EndOfWal,
        None => Stop::Consistent,
    };
    Ok(Found { backup: backup.clone(), timeline, run, stop, record: None, notes })
}

/// A backup as it is when it becomes consistent.
pub(super) fn immediate(catalogue: &Catalogue, source: &dyn WalSource, request: &Request) -> Result<Found> {
    let timeline = match request.timeline {
        Some(timeline) => timeline,
        None => newest_timeline(catalogue, source, request)?,
    };
    let (backup, run, notes) = newest_usable(catalogue, source, request, timeline)?;
    // The backup's own timeline is where it becomes consistent, whatever came later; only when that timeline ended in the
    // backup's last segment is this segment archived under a newer one alone.
    let own = catalogue.route(backup.timeline, backup, source)?;
    let (timeline, run) = own.usable(backup)?.map_or((timeline, run), |(run, _)| (backup.timeline, run));
    Ok(Found { backup: backup.clone(), timeline, run, stop: Stop::Consistent, record: None, notes })
}

fn newest_backup<'c>(catalogue: &'c Catalogue, request: &Request) -> Result<&'c BackupManifest> {
    if let Some(id) = &request.backup {
        return Ok(catalogue.backup(id)?);
    }
    let newest = catalogue.backups.iter().max_by_key(|backup| backup.stopped);
    Ok(newest.ok_or_else(|| Refusal::new(Exit::NotFound, format!("cluster '{}' has no backup", catalogue.cluster)))?)
}

fn newest_timeline(catalogue: &Catalogue, source: &dyn WalSource, request: &Request) -> Result<TimelineId> {
    let backup = newest_backup(catalogue, request)?;
    let carries =
        |timeline: &TimelineId| catalogue.route(*timeline, backup, source).is_ok_and(|route| route.carries(backup));
    Ok(catalogue.timelines.keys().rev().copied().find(carries).unwrap_or(backup.timeline))
}

fn newest_usable<'c>(
    catalogue: &'c Catalogue,
    source: &dyn WalSource,
    request: &Request,
    timeline: TimelineId,
) -> Result<(&'c BackupManifest, Run, Vec<String>)> {
    let mut obstacles = Obstacles::default();
    let any = newest_backup(catalogue, request)?;
    let route = catalogue.route(timeline, any, source)?;
    for backup in backups_on(catalogue, &route, request) {
        match route.usable(backup)? {
            Ok((run, _)) => return Ok((backup, run, obstacles.remarks)),
            Err(problem) => obstacles.unusable(backup, &problem),
        }
    }
    Err(obstacles.refusal(request, timeline).into())
}

/// Refuses WAL whose end is no end: PostgreSQL would stop there without a word, or read on along another branch.
fn check_end(route: &Route<'_>, run: &Run) -> Result<()> {
    let behind = run.last.next();
    // Behind a tail PostgreSQL asks for nothing more.
    if let Some(stranger) = route.stranger(behind).filter(|_| run.tail.is_none()) {
        let next = route.file_name(behind);
        let kind = if route.inventory.segments.contains_key(&stranger) { "" } else { "a tail of " };
        let name = stranger.file_name(route.size);
        let message = format!("unable to reach latest: WAL segment {next} is not in the archive, but {kind}{name} is");
        return Err(Refusal::new(Exit::TargetNotReachable, message)
            .hint("PostgreSQL would read the other timeline's segment instead and leave the timeline asked for")
            .hint(format!("archive {next}, or restore along the other timeline with --timeline {}", stranger.timeline))
            .hint(format!("or accept the end of the unbroken WAL with --target-lsn {}", run.end))
            .into());
    }
    let (exit, problem) = match (run.ends_by, describe_end(route, run.ends_by)) {
        (RunEnd::Newest | RunEnd::OtherCluster(_), _) | (_, None) => return Ok(()),
        (RunEnd::Disputed(_) | RunEnd::Tail(_, TailProblem::Disputed), Some(problem)) => (Exit::Conflict, problem),
        (RunEnd::Tail(..), Some(problem)) => (Exit::Damaged, problem),
        (RunEnd::Gap { .. } | RunEnd::Broken(_), Some(problem)) => (Exit::TargetNotReachable, problem),
    };
    Err(Refusal::new(exit, format!("unable to reach latest: {problem}"))
        .hint(format!("accept the end of the unbroken WAL with --target-lsn {}", run.end))
        .hint(
            "or archive the missing segment if a server still has it in pg_wal; a new backup closes the gap for later",
        )
        .into())
}

fn other_branches(catalogue: &Catalogue, timeline: TimelineId, request: &Request) -> Option<String> {
    if request.timeline.is_some() {
        return None;
    }
    let others: Vec<String> =
        catalogue.branches().into_iter().filter(|other| *other > timeline).map(|other| other.to_string()).collect();
    (!others.is_empty()).then(|| {
        format!(
            "timeline {} does not descend from the newest backup: name it with --timeline to go there",
            others.join(", ")
        )
    })
}
