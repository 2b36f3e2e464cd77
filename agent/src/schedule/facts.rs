//! What the decision rests on besides settings, history and time.

use jiff::Timestamp;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

/// The newest complete base backup in the repository, whoever took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestBackup {
    /// When it started.
    pub started: Timestamp,
    /// When it stopped.
    pub stopped: Timestamp,
    /// End of the WAL that makes it consistent.
    pub stop_lsn: Lsn,
    /// Timeline at its end.
    pub timeline: TimelineId,
}

impl NewestBackup {
    /// The newest of all complete base backups: on the cluster's timeline, if one is, the one whose WAL reaches farthest.
    ///
    /// Not the one that bears the latest time: a clock may have been wrong once, and the backup of that day would count as
    /// the newest for years.
    pub fn of(backups: impl IntoIterator<Item = Self>, timeline: Option<TimelineId>) -> Option<Self> {
        let order =
            |backup: &Self| (Some(backup.timeline) == timeline, backup.timeline, backup.stop_lsn, backup.started);
        backups.into_iter().max_by_key(order)
    }
}

/// A stretch of WAL that is missing for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalGap {
    /// Timeline it is on.
    pub timeline: TimelineId,
    /// Where the WAL goes on.
    pub end: Lsn,
}

/// The state of the repository and the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The newest complete base backup, as [`NewestBackup::of`] finds it.
    pub newest: Option<NewestBackup>,
    /// Bytes of WAL since its end; 0 while that is not known.
    pub wal_since: u64,
    /// The cluster's timeline; `None` while that is not known.
    pub timeline: Option<TimelineId>,
    /// All gaps that are recorded. Those that the newest base backup lies behind matter no more.
    pub gaps: Vec<WalGap>,
    /// Whether somebody takes a base backup of this cluster now, the agent's schedule aside.
    pub backup_runs: bool,
}

impl Facts {
    /// The end of the last gap that WAL replay would meet after the newest base backup.
    ///
    /// A gap on another timeline is not met: where the cluster left the backup's timeline, that is a reason of its own.
    pub(super) fn gap_after(&self, newest: &NewestBackup) -> Option<Lsn> {
        let met = |gap: &&WalGap| gap.timeline == newest.timeline && gap.end > newest.stop_lsn;
        self.gaps.iter().filter(met).map(|gap| gap.end).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(second: i64, timeline: u32, lsn: u64) -> NewestBackup {
        let started = Timestamp::from_second(second).unwrap();
        let timeline = TimelineId::new(timeline).unwrap();
        NewestBackup { started, stopped: started, stop_lsn: Lsn::new(lsn), timeline }
    }

    #[test]
    fn the_newest_backup_is_the_farthest_on_the_clusters_timeline() {
        let (wrong_clock, last, other) = (backup(900, 2, 10), backup(100, 2, 20), backup(200, 3, 5));
        let all = [wrong_clock, last, other];
        assert_eq!(NewestBackup::of(all, TimelineId::new(2)), Some(last));
        assert_eq!(NewestBackup::of(all, TimelineId::new(3)), Some(other));
        // After a switch, or while the timeline is not known: the farthest of the latest timeline.
        assert_eq!(NewestBackup::of(all, TimelineId::new(4)), Some(other));
        assert_eq!(NewestBackup::of(all, None), Some(other));
        assert_eq!(NewestBackup::of([], None), None);
    }

    #[test]
    fn only_gaps_that_replay_would_meet_count() {
        let newest = backup(0, 2, 100);
        let gap = |timeline, end| WalGap { timeline: TimelineId::new(timeline).unwrap(), end: Lsn::new(end) };
        let after = |gaps: &[WalGap]| Facts { gaps: gaps.to_vec(), ..Facts::default() }.gap_after(&newest);
        assert_eq!(after(&[gap(2, 100), gap(1, 200), gap(3, 200)]), None);
        assert_eq!(after(&[gap(2, 101), gap(2, 150), gap(2, 50)]), Some(Lsn::new(150)));
    }
}
