//! Why a target cannot be reached, with the exact limits.

use walkeep_chunkstore::catalogue::{Route, Run, TimedRecord, describe_end};
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::BackupManifest;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::PgTimestamp;

use super::Request;
use crate::failure::Refusal;
use crate::target::{Instant, RecoveryTarget};

/// Why one branch does not lead to the target.
#[derive(Clone, Debug, Default)]
pub(super) struct Obstacles {
    /// What to tell whatever comes of it: backups that cannot be restored, and why.
    pub(super) remarks: Vec<String>,
    /// The earliest that the oldest usable backup reaches.
    pub(super) minimum: Option<Limit>,
    /// The latest that the WAL behind the usable backups reaches.
    pub(super) maximum: Option<Limit>,
    /// What ends the WAL there.
    pub(super) gap: Option<String>,
}

/// An end of what can be reached.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    pub(super) time: Option<PgTimestamp>,
    pub(super) lsn: Lsn,
    pub(super) xid: Option<u32>,
}

impl Limit {
    pub(super) fn of(record: Option<&TimedRecord>, lsn: Lsn) -> Self {
        use walkeep_chunkstore::catalogue::TimedRecordKind::Commit;
        let xid = record.and_then(|record| if let Commit { xid } = record.kind { Some(xid) } else { None });
        Self { time: record.map(|record| record.time), lsn, xid }
    }

    /// As the beginning of what can be reached.
    fn describe_minimum(&self) -> String {
        self.time.map_or_else(|| format!("LSN {}", self.lsn), |time| format!("{} (LSN {})", Instant(time), self.lsn))
    }

    /// As the end of it.
    fn describe_maximum(&self) -> String {
        let commit = self.time.zip(self.xid);
        let last = commit.map_or_else(
            || "no transaction committed behind the backup".to_owned(),
            |(time, xid)| format!("its last transaction, {xid}, committed at {}", Instant(time)),
        );
        format!("{}; {last}", self.lsn)
    }
}

impl Obstacles {
    pub(super) fn unusable(&mut self, backup: &BackupManifest, problem: &str) {
        self.remarks.push(format!("backup {} cannot be used: {problem}", backup.id));
    }

    pub(super) fn too_early(&mut self, backup: &BackupManifest, from: PgTimestamp) {
        self.minimum = Some(Limit { time: Some(from), lsn: backup.stop_lsn, xid: None });
    }

    pub(super) fn too_late(&mut self, route: &Route<'_>, run: &Run, last: Option<&TimedRecord>) {
        if self.maximum.as_ref().is_none_or(|known| known.lsn < run.end) {
            self.maximum = Some(Limit::of(last, run.end));
            self.gap = describe_end(route, run.ends_by);
        }
    }

    /// The words behind `error: `, and the hints.
    fn words(&self, request: &Request, timeline: TimelineId) -> (String, Vec<String>) {
        let target = &request.target;
        let mut hints = Vec::new();
        let problem = match (&self.maximum, &self.minimum) {
            (Some(maximum), minimum) => {
                if let Some(gap) = &self.gap {
                    hints.push(gap.clone());
                }
                let next = minimum.as_ref().filter(|minimum| minimum.lsn > maximum.lsn);
                if let Some(next) = next {
                    hints.push(format!("behind it the next backup reaches from {} on", next.describe_minimum()));
                }
                hints.push(match target {
                    RecoveryTarget::Time(_) if self.gap.is_none() => {
                        "use `--target latest` to restore everything that is archived".to_owned()
                    }
                    _ => "run `walkeep-restore windows` to see what can be restored".to_owned(),
                });
                match target {
                    RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) => {
                        format!("the archived WAL of timeline {timeline} ends at {}", maximum.describe_maximum())
                    }
                    _ => format!(
                        "it is not in the WAL of timeline {timeline} behind any usable backup, which ends at {}",
                        maximum.describe_maximum()
                    ),
                }
            }
            (None, Some(minimum)) => {
                hints.push("run `walkeep-restore windows` to see what can be restored".to_owned());
                format!("the earliest that a backup on timeline {timeline} reaches is {}", minimum.describe_minimum())
            }
            (None, None) if self.remarks.is_empty() => {
                hints.push("run `walkeep-restore list` to see the backups and their timelines".to_owned());
                match &request.backup {
                    Some(backup) => format!("backup {backup} does not lie on the way to timeline {timeline}"),
                    None => format!("no backup lies on the way to timeline {timeline}"),
                }
            }
            (None, None) => format!("no backup on the way to timeline {timeline} can be used"),
        };
        (problem, hints)
    }

    pub(super) fn refusal(&self, request: &Request, timeline: TimelineId) -> Refusal {
        let (problem, hints) = self.words(request, timeline);
        let refusal = Refusal::new(Exit::TargetNotReachable, format!("unable to reach {}: {problem}", request.target));
        refusal.hints(self.remarks.iter().cloned()).hints(hints)
    }
}
