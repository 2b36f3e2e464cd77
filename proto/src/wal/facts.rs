//! What a stretch of WAL tells to those who plan backups and restores.

use serde::{Deserialize, Serialize};

use super::changes::{BlockChanges, ChangeCollector};
use super::error::WalError;
use super::record::{DecodedRecord, TransactionId};
use super::special::{CheckpointKind, RecordMeaning, WalLevel};
use super::time::PgTimestamp;
use super::transaction::TransactionEnd;
use crate::identity::{ForkNumber, RelFileLocator};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// The commits and aborts of a stretch of WAL. Those of prepared transactions count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionFacts {
    /// How many committed.
    pub commits: u64,
    /// How many aborted with a record; subtransactions that were rolled back on their own are among them.
    pub aborts: u64,
    /// Time of the first one in WAL order.
    pub first_time: Option<PgTimestamp>,
    /// Time of the last one in WAL order.
    pub last_time: Option<PgTimestamp>,
    /// The lowest time: it may be lower than the first.
    pub min_time: Option<PgTimestamp>,
    /// The highest time: it may be higher than the last.
    pub max_time: Option<PgTimestamp>,
    /// The numerically lowest transaction that ended.
    pub min_xid: Option<TransactionId>,
    /// The numerically highest one. Numbers wrap around, so the range may be wider than need be, never narrower.
    pub max_xid: Option<TransactionId>,
}

/// A restore point and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePointFact {
    /// Where its record begins.
    pub start: Lsn,
    /// Where its record ends: what `pg_create_restore_point` returned.
    pub end: Lsn,
    /// When it was made.
    pub time: PgTimestamp,
    /// Its name; bytes that are no UTF-8 are replaced.
    pub name: String,
}

/// A checkpoint and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointFact {
    /// Where its record begins.
    pub start: Lsn,
    /// Where replay from it begins.
    pub redo: Lsn,
    /// When it was made.
    pub kind: CheckpointKind,
    /// The timeline from here on.
    pub timeline: TimelineId,
    /// When it was started, in whole seconds.
    pub time: PgTimestamp,
}

/// A record with which a new timeline begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineChange {
    /// Where the record begins.
    pub start: Lsn,
    /// The timeline that was left.
    pub previous: TimelineId,
    /// The timeline that begins.
    pub timeline: TimelineId,
}

/// Everything that planning needs to know of a stretch of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalFacts {
    /// Number of records.
    pub records: u64,
    /// Commits and aborts.
    pub transactions: TransactionFacts,
    /// Restore points in WAL order.
    pub restore_points: Vec<RestorePointFact>,
    /// Checkpoints in WAL order.
    pub checkpoints: Vec<CheckpointFact>,
    /// Beginnings of timelines in WAL order.
    pub timeline_changes: Vec<TimelineChange>,
    /// Starts of base backups that ended here, in WAL order.
    pub backups_ended: Vec<Lsn>,
    /// The first record that states `wal_level = minimal`: no backup may rely on WAL from about here.
    pub minimal_wal_level: Option<Lsn>,
    /// Changed blocks.
    pub changes: BlockChanges,
}

impl TransactionFacts {
    fn add(&mut self, end: &TransactionEnd<'_>) {
        let one = |time, xid| Self {
            commits: u64::from(end.committed),
            aborts: u64::from(!end.committed),
            first_time: time,
            last_time: time,
            min_time: time,
            max_time: time,
            min_xid: xid,
            max_xid: xid,
        };
        self.append(&one(Some(end.time), Some(end.xid)));
    }

    /// Adds the stretch that follows.
    pub fn append(&mut self, later: &Self) {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            one.into_iter().chain(other).min()
        }
        self.commits = self.commits.saturating_add(later.commits);
        self.aborts = self.aborts.saturating_add(later.aborts);
        self.first_time = self.first_time.or(later.first_time);
        self.last_time = later.last_time.or(self.last_time);
        self.min_time = least(self.min_time, later.min_time);
        self.max_time = self.max_time.max(later.max_time);
        self.min_xid = least(self.min_xid, later.min_xid);
        self.max_xid = self.max_xid.max(later.max_xid);
    }
}

impl WalFacts {
    /// Adds the stretch that follows.
    pub fn append(&mut self, later: &Self) {
        self.records = self.records.saturating_add(later.records);
        self.transactions.append(&later.transactions);
        self.restore_points.extend_from_slice(&later.restore_points);
        self.checkpoints.extend_from_slice(&later.checkpoints);
        self.timeline_changes.extend_from_slice(&later.timeline_changes);
        self.backups_ended.extend_from_slice(&later.backups_ended);
        self.minimal_wal_level = self.minimal_wal_level.or(later.minimal_wal_level);
        self.changes.append(&later.changes);
    }
}

/// Gathers [`WalFacts`] record by record.
#[derive(Debug, Default)]
pub struct FactCollector {
    facts: WalFacts,
    changes: ChangeCollector,
}

impl FactCollector {
    /// Takes the next record into account.
    pub fn add(&mut self, record: &DecodedRecord<'_>) -> Result<(), WalError> {
        self.facts.records += 1;
        // Marks come before limits: what a record removes, its block references no longer show.
        for block in record.block_refs {
            self.changes.mark(block.locator, block.fork, block.block);
        }
        let start = record.start;
        match record.meaning()? {
            RecordMeaning::Plain
            | RecordMeaning::Switch
            | RecordMeaning::FullPageWrites(_)
            | RecordMeaning::OverwriteContrecord { .. } => {}
            RecordMeaning::TransactionEnd(end) => {
                self.facts.transactions.add(&end);
                for locator in end.dropped.iter() {
                    self.relation_gone(locator);
                }
            }
            RecordMeaning::RestorePoint(point) => self.facts.restore_points.push(RestorePointFact {
                start,
                end: record.end,
                time: point.time,
                name: String::from_utf8_lossy(point.name).into_owned(),
            }),
            RecordMeaning::Checkpoint(point) => {
                let (redo, kind, timeline, time) = (point.redo, point.kind, point.timeline, point.time);
                self.facts.checkpoints.push(CheckpointFact { start, redo, kind, timeline, time });
                self.timeline(start, point.previous_timeline, timeline);
                self.wal_level(start, point.wal_level);
            }
            RecordMeaning::EndOfRecovery { timeline, previous_timeline, wal_level, .. } => {
                self.timeline(start, previous_timeline, timeline);
                self.wal_level(start, wal_level);
            }
            RecordMeaning::CheckpointRedo { wal_level } | RecordMeaning::ParameterChange { wal_level } => {
                self.wal_level(start, Some(wal_level));
            }
            RecordMeaning::BackupEnd { start } => self.facts.backups_ended.push(start),
            RecordMeaning::RelationCreated { locator, fork } => self.changes.limit(locator, fork, 0),
            RecordMeaning::RelationTruncated(cut) => {
                if cut.main {
                    self.changes.limit(cut.locator, ForkNumber::Main, cut.blocks);
                }
                if cut.visibility_map {
                    // How many map pages are left depends on the page size; none is on the safe side.
                    self.changes.limit(cut.locator, ForkNumber::VisibilityMap, 0);
                }
            }
            RecordMeaning::DatabaseCreated { database, tablespace } => {
                self.changes.whole_database(database, tablespace);
            }
            RecordMeaning::DatabaseDropped { database, tablespaces } => {
                for tablespace in tablespaces.iter() {
                    self.changes.whole_database(database, tablespace);
                }
            }
            RecordMeaning::UnknownSpecial => self.changes.unknown(start),
        }
        Ok(())
    }

    /// The facts of all records added.
    pub fn finish(self) -> WalFacts {
        WalFacts { changes: self.changes.finish(), ..self.facts }
    }

    fn relation_gone(&mut self, locator: RelFileLocator) {
        for fork in [ForkNumber::Main, ForkNumber::VisibilityMap, ForkNumber::Init] {
            self.changes.limit(locator, fork, 0);
        }
    }

    fn timeline(&mut self, start: Lsn, previous: TimelineId, timeline: TimelineId) {
        if previous != timeline {
            self.facts.timeline_changes.push(TimelineChange { start, previous, timeline });
        }
    }

    fn wal_level(&mut self, start: Lsn, level: Option<WalLevel>) {
        if level == Some(WalLevel::Minimal) {
            self.facts.minimal_wal_level.get_or_insert(start);
        }
    }
}
