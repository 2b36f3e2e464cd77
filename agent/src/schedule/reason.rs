//! Why a base backup is taken.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

/// Why a base backup is taken. Two reasons are equal when the same thing caused them, so a reason that is still there
/// after a backup for it shows that the backup did not help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// There is no base backup.
    FirstBackup,
    /// The calendar says so.
    Cron {
        /// The moment that it names; after downtime the latest that has passed.
        due: Timestamp,
    },
    /// The newest base backup is as old as the settings allow.
    MaxAge {
        /// When its age began: its start, unless the clock was stepped back behind that.
        since: Timestamp,
    },
    /// As much WAL as the settings allow has followed the newest base backup.
    MaxWal {
        /// That backup's end.
        since: Lsn,
    },
    /// The cluster went over to another timeline.
    TimelineSwitch {
        /// Timeline of the newest base backup.
        from: TimelineId,
        /// The cluster's timeline.
        to: TimelineId,
    },
    /// WAL that follows the newest base backup is missing, so that backup leads no further than to the gap.
    Gap {
        /// Where the WAL goes on.
        end: Lsn,
    },
}

impl Reason {
    /// The kind in one word, as in the history's file and for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FirstBackup => "first_backup",
            Self::Cron { .. } => "cron",
            Self::MaxAge { .. } => "max_age",
            Self::MaxWal { .. } => "max_wal",
            Self::TimelineSwitch { .. } => "timeline_switch",
            Self::Gap { .. } => "gap",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstBackup => f.write_str("there is no base backup yet"),
            Self::Cron { due } => write!(f, "base_backup: due at {due:.0}"),
            Self::MaxAge { since } => write!(f, "max_age: the newest base backup is of {since:.0}"),
            Self::MaxWal { since } => {
                write!(f, "max_wal: reached since the newest base backup, which ended at {since}")
            }
            Self::TimelineSwitch { from, to } => {
                write!(f, "the newest base backup is on timeline {from}, the cluster on {to}")
            }
            Self::Gap { end } => write!(f, "WAL is missing between the newest base backup and {end}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_printed_and_kept_under_their_kind() {
        let due: Timestamp = "2026-03-29T01:00:00Z".parse().unwrap();
        let (from, to) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
        for (reason, shown) in [
            (Reason::FirstBackup, "no base backup yet"),
            (Reason::Cron { due }, "base_backup: due at 2026-03-29T01:00:00Z"),
            (Reason::MaxAge { since: due }, "of 2026-03-29T01:00:00Z"),
            (Reason::MaxWal { since: Lsn::new(0x300_0028) }, "ended at 0/3000028"),
            (Reason::TimelineSwitch { from, to }, "on timeline 1, the cluster on 2"),
            (Reason::Gap { end: Lsn::new(0x400_0000) }, "and 0/4000000"),
        ] {
            assert!(reason.to_string().contains(shown), "{reason}");
            let json = serde_json::to_string(&reason).unwrap();
            assert!(json.contains(&format!(r#""kind":"{}""#, reason.kind())), "{json}");
            assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), reason);
        }
    }
}
