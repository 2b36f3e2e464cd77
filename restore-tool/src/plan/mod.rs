//! Which backup to restore and where recovery must stop: decided from the catalogue, before a byte is written.
//!
//! Targets are resolved to a position. PostgreSQL stops there whatever its time zone, however its clock jumped and
//! however often a transaction number or a restore point's name was used.

mod found;
mod latest;
mod refuse;
mod resolve;
mod show;

pub use show::human;

use anyhow::Result;
use serde::Serialize;
use walkeep_chunkstore::catalogue::{Catalogue, Route, Run, TimedRecord, WalSource};
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::{BackupManifest, BackupStatus};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use crate::failure::Refusal;
use crate::target::RecoveryTarget;

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where recovery is to end.
    pub target: RecoveryTarget,
    /// Whether it ends just before the target instead of just behind it.
    pub exclusive: bool,
    /// The timeline to recover along; the one that holds the target if none is given.
    pub timeline: Option<TimelineId>,
    /// The backup to start from; the latest that serves if none is given.
    pub backup: Option<String>,
    /// Whether the server is to be promoted at once. Otherwise even `latest` needs a position to wait at.
    pub promote: bool,
}

/// Where recovery stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// At the end of the archived WAL, whatever will be there by then.
    EndOfWal,
    /// As soon as the backup is consistent.
    Consistent,
    /// Before the first record that begins at or behind this position.
    Before(Lsn),
    /// Behind the first record that begins at or behind this position.
    After(Lsn),
}

/// How PostgreSQL is told the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TimelineSetting {
    /// By its number; its history file is in the archive.
    Number(TimelineId),
    /// As the backup's own: needs no history file.
    Current,
}

/// A timeline on the way, and where it is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Leg {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where the next one begins; none for the last.
    pub until: Option<Lsn>,
}

/// The WAL that recovery reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WalNeeded {
    /// Name of the first segment.
    pub first_segment: String,
    /// Name of the last segment.
    pub last_segment: String,
    /// How many segments.
    pub segments: u64,
    /// Bytes of WAL to replay.
    pub replay_bytes: u64,
    /// Bytes that the segments take in the repository.
    pub stored_bytes: u64,
    /// Where the last segment ends, if only its tail is in the archive.
    pub tail_end_lsn: Option<Lsn>,
}

/// A restore, decided.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupManifest,
    /// The timeline to recover along.
    pub timeline: TimelineId,
    /// How PostgreSQL is told so.
    pub timeline_setting: TimelineSetting,
    /// The timelines on the way.
    pub path: Vec<Leg>,
    /// Where recovery stops.
    pub stop: Stop,
    /// The position that recovery gets to.
    pub reaches: Lsn,
    /// The last commit that will be there, if there is one behind the backup's start.
    pub last_included: Option<TimedRecord>,
    /// The first transaction that will not.
    pub first_excluded: Option<TimedRecord>,
    /// The WAL needed.
    pub wal: WalNeeded,
    /// Commits at or before the target time that stand behind the stop because clocks are not monotonic.
    pub left_behind: Vec<TimedRecord>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Decides how to restore, or says why it is impossible.
pub fn plan(catalogue: &Catalogue, source: &dyn WalSource, request: &Request) -> Result<RestorePlan> {
    check_backups(catalogue, request)?;
    let found = match &request.target {
        RecoveryTarget::Latest => latest::latest(catalogue, source, request)?,
        RecoveryTarget::Immediate => latest::immediate(catalogue, source, request)?,
        _ => resolve::on_branches(catalogue, source, request)?,
    };
    found.on_timeline_of_tail().into_plan(catalogue, source, request)
}

/// A way to the target.
#[derive(Clone, Debug)]
struct Found {
    backup: BackupManifest,
    timeline: TimelineId,
    run: Run,
    stop: Stop,
    /// The record that made the stop, if one did.
    record: Option<TimedRecord>,
    notes: Vec<String>,
}

fn check_backups(catalogue: &Catalogue, request: &Request) -> Result<()> {
    if let Some(timeline) = request.timeline {
        catalogue.history(timeline)?;
    }
    if let Some(id) = &request.backup {
        catalogue.backup(id)?;
    } else if catalogue.backups.is_empty() {
        let broken = catalogue.unreadable.len();
        let message = match broken {
            0 => format!("cluster '{}' has no backup", catalogue.cluster),
            _ => format!("none of the {broken} backups of cluster '{}' can be read", catalogue.cluster),
        };
        let exit = if broken == 0 { Exit::NotFound } else { Exit::Damaged };
        let hints = catalogue.unreadable.iter().map(|backup| format!("backup '{}': {}", backup.id, backup.problem));
        return Err(Refusal::new(exit, message).hints(hints).into());
    }
    Ok(())
}

/// The backups on a route that the request allows, newest first.
fn backups_on<'c>(catalogue: &'c Catalogue, route: &Route<'_>, request: &Request) -> Vec<&'c BackupManifest> {
    let allowed = |backup: &&BackupManifest| {
        route.carries(backup) && request.backup.as_ref().is_none_or(|id| id.as_str() == backup.id.as_str())
    };
    let mut backups: Vec<&BackupManifest> = catalogue.backups.iter().filter(allowed).collect();
    backups.sort_by_key(|backup| std::cmp::Reverse(backup.stop_lsn));
    backups
}

fn page_error_note(backup: &BackupManifest) -> Option<String> {
    (backup.status == BackupStatus::PageErrors).then(|| {
        format!(
            "backup {} holds {} pages that were already damaged in the cluster; `walkeep show {}` names them",
            backup.id, backup.page_error_count, backup.id
        )
    })
}
