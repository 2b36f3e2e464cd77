//! The plan for people, and as JSON.

use std::fmt::Write;

use serde::{Serialize, Serializer};
use walkeep_chunkstore::catalogue::{TimedRecord, TimedRecordKind};
use walkeep_chunkstore::console::Bytes;

use super::{RestorePlan, Stop};
use crate::target::Instant;

impl Serialize for RestorePlan {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Plan<'a> {
            cluster: &'a str,
            backup: &'a str,
            major: u16,
            timeline: u32,
            timeline_setting: super::TimelineSetting,
            path: &'a [super::Leg],
            start_lsn: String,
            consistent_lsn: String,
            stop: Stop,
            reaches_lsn: String,
            last_included: Option<&'a TimedRecord>,
            first_excluded: Option<&'a TimedRecord>,
            wal: &'a super::WalNeeded,
            files: u64,
            write_bytes: u64,
            left_behind: &'a [TimedRecord],
            notes: &'a [String],
        }
        let backup = &self.backup;
        Plan {
            cluster: &backup.cluster,
            backup: backup.id.as_str(),
            major: backup.major.number(),
            timeline: self.timeline.get(),
            timeline_setting: self.timeline_setting,
            path: &self.path,
            start_lsn: backup.start_lsn.to_string(),
            consistent_lsn: backup.stop_lsn.to_string(),
            stop: self.stop,
            reaches_lsn: self.reaches.to_string(),
            last_included: self.last_included.as_ref(),
            first_excluded: self.first_excluded.as_ref(),
            wal: &self.wal,
            files: backup.statistics.files,
            write_bytes: backup.statistics.logical_bytes,
            left_behind: &self.left_behind,
            notes: &self.notes,
        }
        .serialize(serializer)
    }
}

/// The plan as lines of text.
pub fn human(plan: &RestorePlan) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "{what:<17}{value}");
    };
    let backup = &plan.backup;
    let size = Bytes(backup.statistics.logical_bytes);
    line("backup", &format!("{} of cluster '{}', PostgreSQL {}", backup.id, backup.cluster, backup.major));
    line("", &format!("{} files, {size} to write", backup.statistics.files));
    line("timeline", &path(plan));
    let wal = &plan.wal;
    let replay = format!(
        "{} to replay from {}, {} in the repository",
        Bytes(wal.replay_bytes),
        backup.start_lsn,
        Bytes(wal.stored_bytes)
    );
    line("WAL", &replay);
    line("", &format!("{} segments, {} to {}", wal.segments, wal.first_segment, wal.last_segment));
    if let Some(end) = wal.tail_end_lsn {
        line("", &format!("the last of them is a tail: it was still being written, and is archived up to {end}"));
    }
    line("stops", &stop(plan));
    line("last included", &plan.last_included.as_ref().map_or_else(|| "no transaction in this WAL".to_owned(), record));
    if plan.stop != Stop::EndOfWal {
        let none = || "none in the archived WAL".to_owned();
        line("first excluded", &plan.first_excluded.as_ref().map_or_else(none, record));
    }
    for behind in &plan.left_behind {
        line("left behind", &format!("{}: the clock was set back", record(behind)));
    }
    for note in &plan.notes {
        line("note", note);
    }
    text
}

fn path(plan: &RestorePlan) -> String {
    let leg = |leg: &super::Leg| match leg.until {
        Some(until) => format!("{} to {until}", leg.timeline),
        None => leg.timeline.to_string(),
    };
    plan.path.iter().map(leg).collect::<Vec<_>>().join(", then ")
}

fn stop(plan: &RestorePlan) -> String {
    match plan.stop {
        Stop::EndOfWal => format!("at the end of the archived WAL, now {}", plan.reaches),
        Stop::Consistent => format!("as soon as the backup is consistent, at {}", plan.reaches),
        Stop::Before(lsn) => format!("before the record at {lsn}"),
        Stop::After(lsn) => format!("behind the record at {lsn}"),
    }
}

/// One transaction, restore point or checkpoint in words.
pub fn record(record: &TimedRecord) -> String {
    let what = match &record.kind {
        TimedRecordKind::Commit { xid } => format!("commit of transaction {xid}"),
        TimedRecordKind::Abort { xid } => format!("abort of transaction {xid}"),
        TimedRecordKind::RestorePoint { name } => format!("restore point '{name}'"),
        TimedRecordKind::Checkpoint => "checkpoint".to_owned(),
        TimedRecordKind::EndOfRecovery => "promotion".to_owned(),
    };
    let local = Instant(record.time).local().map_or_else(String::new, |local| format!(" ({local})"));
    format!("{}{local}, {what} at {}", Instant(record.time), record.lsn)
}
