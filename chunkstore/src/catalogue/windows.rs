//! Which times can be restored: per branch, the stretches of unbroken WAL behind usable backups.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::PgTimestamp;

use super::route::{Route, Run, RunEnd, TailProblem};
use super::source::WalSource;
use super::walk::time_as_text;
use super::{Ancestry, Catalogue};
use crate::error::Result;
use crate::parallel::side_by_side;
use crate::repository::{BackupId, BackupManifest};
use crate::wal::Held;

/// Bytes of the segments that are looked into at once; stored, each takes up to as much again.
const SEGMENTS_IN_MEMORY: u64 = 64 << 20;

/// What can be restored of a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Windows {
    /// The cluster.
    pub cluster: String,
    /// Its branches, by timeline.
    pub branches: Vec<BranchWindows>,
    /// Names of backups whose root cannot be read.
    pub unreadable_backups: Vec<String>,
}

/// What can be restored along one timeline.
#[derive(Clone, Debug, Serialize)]
pub struct BranchWindows {
    /// The timeline.
    pub timeline: TimelineId,
    /// The timeline it left, and where; none for the first, or if no history file says.
    pub parent: Option<Parent>,
    /// Why the branch cannot be used at all, or what is unusual about it.
    pub problem: Option<String>,
    /// Its windows, oldest first.
    pub windows: Vec<Window>,
    /// Backups on it that cannot be restored.
    pub unusable: Vec<UnusableBackup>,
}

/// Where a timeline begins.
#[derive(Clone, Debug, Serialize)]
pub struct Parent {
    /// The timeline that was left.
    pub timeline: TimelineId,
    /// Where.
    pub lsn: Lsn,
}

/// Times that can be restored: every one from `from` to `to`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// The earliest time.
    #[serde(serialize_with = "time_as_text")]
    pub from: PgTimestamp,
    /// The earliest position: where the first backup is consistent.
    pub from_lsn: Lsn,
    /// The time of the last transaction; later positions hold nothing later.
    #[serde(serialize_with = "time_as_text")]
    pub to: PgTimestamp,
    /// Where the unbroken WAL ends.
    pub to_lsn: Lsn,
    /// The segment of which only a tail is there, if that is where the WAL ends.
    pub tail: Option<String>,
    /// What ends it, if not that nothing newer has been archived.
    pub gap: Option<String>,
    /// Its backups, oldest first.
    pub backups: Vec<BackupId>,
}

/// A backup that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnusableBackup {
    /// Its name.
    pub id: BackupId,
    /// Why not.
    pub problem: String,
}

impl Catalogue {
    /// The times that can be restored, per branch. Reads the summaries around each backup and at each end.
    pub fn windows(&self, source: &dyn WalSource) -> Result<Windows> {
        let branch = |timeline| self.branch_windows(timeline, source);
        Ok(Windows {
            cluster: self.cluster.clone(),
            branches: self.branches().into_iter().map(branch).collect::<Result<_>>()?,
            unreadable_backups: self.unreadable.iter().map(|backup| backup.id.clone()).collect(),
        })
    }

    fn branch_windows(&self, timeline: TimelineId, source: &dyn WalSource) -> Result<BranchWindows> {
        let mut branch =
            BranchWindows { timeline, parent: None, problem: None, windows: Vec::new(), unusable: Vec::new() };
        match self.timelines.get(&timeline) {
            Some(Ancestry::Known(history)) => {
                let last = history.switches().last();
                branch.parent = last.map(|switch| Parent { timeline: switch.parent, lsn: switch.switch_lsn });
            }
            Some(Ancestry::Missing(_)) => {
                let file = format!("{}.history", timeline.hex8());
                branch.problem =
                    Some(format!("{file} is not in the archive: backups of older timelines do not reach it"));
            }
            Some(Ancestry::Unreadable(problem)) => branch.problem = Some(problem.clone()),
            None => {}
        }
        if matches!(self.timelines.get(&timeline), Some(Ancestry::Known(_) | Ancestry::Missing(_))) {
            self.fill(&mut branch, source)?;
        }
        Ok(branch)
    }

    fn fill(&self, branch: &mut BranchWindows, source: &dyn WalSource) -> Result<()> {
        // Backups that share the end of their run share a window.
        let mut runs: BTreeMap<(u64, u64), Window> = BTreeMap::new();
        for (backup, usable) in self.usable_backups(branch.timeline, source)? {
            let (run, from) = match usable {
                Ok(usable) => usable,
                Err(problem) => {
                    branch.unusable.push(UnusableBackup { id: backup.id.clone(), problem });
                    continue;
                }
            };
            let key = (backup.system_identifier.as_u64(), run.last.get());
            if let Some(window) = runs.get_mut(&key) {
                window.from = window.from.min(from);
                window.from_lsn = window.from_lsn.min(backup.stop_lsn);
                window.backups.push(backup.id.clone());
                continue;
            }
            let route = self.route(branch.timeline, backup, source)?;
            let last = route.last_commit(run.from(backup.stop_lsn))?;
            let window = Window {
                from,
                from_lsn: backup.stop_lsn,
                to: last.map_or(from, |last| last.time.max(from)),
                to_lsn: run.end.max(backup.stop_lsn),
                tail: run.tail.map(|segment| segment.file_name(route.size)),
                gap: describe_end(&route, run.ends_by),
                backups: vec![backup.id.clone()],
            };
            runs.insert(key, window);
        }
        branch.windows = runs.into_values().collect();
        branch.windows.sort_by_key(|window| window.from);
        Ok(())
    }

    /// The backups on the way to a timeline, oldest first, each with its run and the earliest time it serves, or with the
    /// reason why it serves none.
    fn usable_backups(&self, timeline: TimelineId, source: &dyn WalSource) -> Result<Vec<(&BackupManifest, Usable)>> {
        let route = |backup| Some((backup, self.route(timeline, backup, source).ok()?));
        let routes: Vec<(&BackupManifest, Route<'_>)> =
            self.backups.iter().filter_map(route).filter(|(backup, route)| route.carries(backup)).collect();
        let longest = routes.iter().map(|(_, route)| u64::from(route.size.bytes())).max().unwrap_or(1);
        let threads = source.parallel_reads().min((SEGMENTS_IN_MEMORY / longest).max(1) as usize);
        let usable = side_by_side(&routes, threads, |(backup, route)| route.usable(backup));
        routes.iter().zip(usable).map(|((backup, _), usable)| Ok((*backup, usable?))).collect()
    }
}

/// A backup's run and the earliest time it serves, or why it serves none.
pub type Usable = Result<(Run, PgTimestamp), String>;

impl Route<'_> {
    /// Whether the archive holds what the backup needs to become consistent on this route.
    pub fn usable(&self, backup: &BackupManifest) -> Result<Usable> {
        if let Some(missing) = self.missing_for(backup) {
            return Ok(Err(format!("WAL segment {} is not in the archive", missing.file_name(self.size))));
        }
        let Some(run) = self.run_from(backup.start_lsn)? else {
            let first = self.size.segment_at(backup.start_lsn);
            let name = self.file_name(first);
            return Ok(Err(match self.piece(first) {
                Some((_, Held::Tail(_))) => {
                    format!("there is only a tail of WAL segment {name}, in which nothing of this cluster can be read")
                }
                _ => format!("WAL segment {name} is of another cluster"),
            }));
        };
        if run.end < backup.stop_lsn {
            return Ok(Err(format!(
                "archived WAL ends at {}, before the backup's end at {}",
                run.end, backup.stop_lsn
            )));
        }
        let highest = self.highest_time(run.between(backup.start_lsn, backup.stop_lsn))?;
        Ok(Ok((run, highest.unwrap_or_else(|| pg_time(backup.stopped)))))
    }
}

/// A time of ours as PostgreSQL counts.
pub fn pg_time(time: Timestamp) -> PgTimestamp {
    PgTimestamp::from_unix_micros(time.as_microsecond())
}

/// What ends a run, in words; nothing for the newest WAL.
pub fn describe_end(route: &Route<'_>, end: RunEnd) -> Option<String> {
    let name = |segment: walkeep_proto::segment::WalSegment| segment.file_name(route.size);
    match end {
        RunEnd::Newest => None,
        RunEnd::Gap { missing, resumes } => {
            let is_tail = matches!(route.piece(missing.number), Some((_, Held::Tail(_))));
            let (missing, resumes) = (name(missing), name(resumes));
            Some(if is_tail {
                format!("there is only a tail of WAL segment {missing}, WAL goes on with {resumes}")
            } else {
                format!("WAL segment {missing} is missing, WAL goes on with {resumes}")
            })
        }
        RunEnd::Disputed(segment) => Some(format!("the archive holds two contents of WAL segment {}", name(segment))),
        RunEnd::OtherCluster(segment) => Some(format!("WAL segment {} is of another cluster", name(segment))),
        RunEnd::Broken(segment) => Some(format!("records stop before the end of WAL segment {}", name(segment))),
        RunEnd::Tail(segment, problem) => {
            let problem = match problem {
                TailProblem::Damaged => "is damaged",
                TailProblem::Disputed => "is there with two contents",
                TailProblem::Broken => "does not continue the WAL before it, or breaks off inside",
            };
            Some(format!("the tail of WAL segment {} {problem}", name(segment)))
        }
    }
}
