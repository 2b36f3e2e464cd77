//! What a record means for recovery and for block maps, beyond its block references.

use serde::{Deserialize, Serialize};

use super::block::read_locator;
use super::bytes::Cursor;
use super::error::WalError;
use super::record::{DecodedRecord, RecordProblem, ResourceManager};
use super::time::PgTimestamp;
use super::transaction::TransactionEnd;
use crate::identity::{BlockNumber, ForkNumber, Oid, RelFileLocator};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

/// `wal_level` as records state it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WalLevel {
    /// Enough for crash recovery only: such WAL is useless for backups.
    Minimal,
    /// Enough for backups and standbys.
    Replica,
    /// Also enough for logical decoding.
    Logical,
}

/// When a checkpoint was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CheckpointKind {
    /// While the server was stopping, or at the end of recovery.
    Shutdown,
    /// While it was running.
    Online,
}

/// The part of a checkpoint record that backups need (`CheckPoint`, `catalog/pg_control.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When it was made.
    pub kind: CheckpointKind,
    /// Where replay from this checkpoint begins.
    pub redo: Lsn,
    /// The timeline from here on.
    pub timeline: TimelineId,
    /// The timeline before; another one where a new timeline begins here.
    pub previous_timeline: TimelineId,
    /// Whether `full_page_writes` was on.
    pub full_page_writes: bool,
    /// When it was started, by the server's clock, in whole seconds.
    pub time: PgTimestamp,
    /// `wal_level` (17 and later).
    pub wal_level: Option<WalLevel>,
}

/// A named position (`pg_create_restore_point`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint<'a> {
    /// When it was made.
    pub time: PgTimestamp,
    /// Its name: up to 63 bytes in the encoding of the database it was made from.
    pub name: &'a [u8],
}

/// Which parts of a relation a truncation shortens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// The relation.
    pub locator: RelFileLocator,
    /// Blocks that the main fork keeps.
    pub blocks: BlockNumber,
    /// Whether the main fork is cut.
    pub main: bool,
    /// Whether the visibility map is cut.
    pub visibility_map: bool,
}

/// Object numbers inside a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct OidList<'a>(&'a [u8]);

impl<'a> OidList<'a> {
    /// The numbers in the record's order.
    pub fn iter(self) -> impl Iterator<Item = Oid> + 'a {
        self.0.chunks_exact(4).filter_map(|item| Cursor::new(item).u32())
    }
}

/// What a record means beyond its block references.
#[derive(Clone, Copy, Debug)]
pub enum RecordMeaning<'a> {
    /// Nothing: its block references are the whole truth about relation files.
    Plain,
    /// A transaction ended.
    TransactionEnd(TransactionEnd<'a>),
    /// A named position.
    RestorePoint(RestorePoint<'a>),
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// Where replay from the next checkpoint begins (17 and later).
    CheckpointRedo {
        /// `wal_level` at that point.
        wal_level: WalLevel,
    },
    /// The server was promoted here.
    EndOfRecovery {
        /// When.
        time: PgTimestamp,
        /// The timeline from here on.
        timeline: TimelineId,
        /// The timeline before.
        previous_timeline: TimelineId,
        /// `wal_level` (17 and later).
        wal_level: Option<WalLevel>,
    },
    /// Settings that standbys depend on were changed.
    ParameterChange {
        /// The new `wal_level`.
        wal_level: WalLevel,
    },
    /// `full_page_writes` was changed.
    FullPageWrites(bool),
    /// The end of a base backup.
    BackupEnd {
        /// Where the backup began: its redo position.
        start: Lsn,
    },
    /// The record begun at `overwritten` was never finished and is void.
    OverwriteContrecord {
        /// Where the void record began.
        overwritten: Lsn,
        /// When it was given up.
        time: PgTimestamp,
    },
    /// The rest of the segment is padding.
    Switch,
    /// A relation's file was created.
    RelationCreated {
        /// The relation.
        locator: RelFileLocator,
        /// The fork.
        fork: ForkNumber,
    },
    /// A relation was cut short.
    RelationTruncated(Truncation),
    /// A database's directory was filled.
    DatabaseCreated {
        /// The database.
        database: Oid,
        /// The tablespace it was created in.
        tablespace: Oid,
    },
    /// A database's directories were removed.
    DatabaseDropped {
        /// The database.
        database: Oid,
        /// The tablespaces it was in.
        tablespaces: OidList<'a>,
    },
    /// It changes relation files in a way this build does not know: no block map may be trusted across it.
    UnknownSpecial,
}

impl<'a> DecodedRecord<'a> {
    /// What the record means. Costs nothing for the many records that mean nothing special.
    pub fn meaning(&self) -> Result<RecordMeaning<'a>, WalError> {
        let known = match self.resource_manager {
            ResourceManager::XLOG => self.xlog_meaning(),
            ResourceManager::TRANSACTION => {
                TransactionEnd::parse(self).map(|end| end.map(RecordMeaning::TransactionEnd))
            }
            ResourceManager::STORAGE => self.storage_meaning(),
            ResourceManager::DATABASE => self.database_meaning(),
            _ => Ok(None),
        };
        match known {
            Ok(Some(meaning)) => Ok(meaning),
            Ok(None) if self.is_special_relation_update() => Ok(RecordMeaning::UnknownSpecial),
            Ok(None) => Ok(RecordMeaning::Plain),
            Err(problem) => Err(WalError::Malformed { at: self.start, problem }),
        }
    }

    /// Whether this is the record that ends a segment early.
    pub fn is_switch(&self) -> bool {
        self.resource_manager == ResourceManager::XLOG && self.kind() == 0x40
    }

    fn xlog_meaning(&self) -> Result<Option<RecordMeaning<'a>>, RecordProblem> {
        let mut data = Cursor::new(self.main_data);
        let short = RecordProblem::Truncated;
        Ok(Some(match self.kind() {
            0x00 => RecordMeaning::Checkpoint(self.checkpoint(CheckpointKind::Shutdown)?),
            0x10 => RecordMeaning::Checkpoint(self.checkpoint(CheckpointKind::Online)?),
            0x40 => RecordMeaning::Switch,
            0x50 => RecordMeaning::BackupEnd { start: Lsn::new(data.u64().ok_or(short("the backup's start"))?) },
            0x60 => {
                data.take(20).ok_or(short("the changed settings"))?;
                RecordMeaning::ParameterChange { wal_level: read_wal_level(&mut data)? }
            }
            0x70 => {
                let time = PgTimestamp::new(data.i64().ok_or(short("the restore point's time"))?);
                let name = data.take(64).ok_or(short("the restore point's name"))?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                RecordMeaning::RestorePoint(RestorePoint { time, name })
            }
            0x80 => RecordMeaning::FullPageWrites(data.u8().ok_or(short("the new setting"))? != 0),
            0x90 => {
                let time = PgTimestamp::new(data.i64().ok_or(short("the end of recovery"))?);
                let timeline = read_timeline(&mut data)?;
                let previous_timeline = read_timeline(&mut data)?;
                let wal_level = if self.version >= MajorVersion::V17 { Some(read_wal_level(&mut data)?) } else { None };
                RecordMeaning::EndOfRecovery { time, timeline, previous_timeline, wal_level }
            }
            0xD0 => RecordMeaning::OverwriteContrecord {
                overwritten: Lsn::new(data.u64().ok_or(short("the overwritten record"))?),
                time: PgTimestamp::new(data.i64().ok_or(short("the time"))?),
            },
            0xE0 if self.version >= MajorVersion::V17 => {
                RecordMeaning::CheckpointRedo { wal_level: read_wal_level(&mut data)? }
            }
            _ => return Ok(None),
        }))
    }

    /// Offsets: redo 0, timelines 8 and 12, full_page_writes 16, wal_level 20 (17+), time 64.
    fn checkpoint(&self, kind: CheckpointKind) -> Result<Checkpoint, RecordProblem> {
        let mut data = Cursor::new(self.main_data);
        let short = || RecordProblem::Truncated("the checkpoint");
        let redo = Lsn::new(data.u64().ok_or_else(short)?);
        let timeline = read_timeline(&mut data)?;
        let previous_timeline = read_timeline(&mut data)?;
        let full_page_writes = data.u8().ok_or_else(short)? != 0;
        data.take(3).ok_or_else(short)?;
        let wal_level = if self.version >= MajorVersion::V17 {
            Some(read_wal_level(&mut data)?)
        } else {
            data.u32().ok_or_else(short)?;
            None
        };
        data.take(40).ok_or_else(short)?;
        let time = PgTimestamp::from_unix_seconds(data.i64().ok_or_else(short)?);
        Ok(Checkpoint { kind, redo, timeline, previous_timeline, full_page_writes, time, wal_level })
    }

    fn storage_meaning(&self) -> Result<Option<RecordMeaning<'a>>, RecordProblem> {
        let mut data = Cursor::new(self.main_data);
        let short = RecordProblem::Truncated;
        match self.kind() {
            0x10 => {
                let locator = read_locator(&mut data).ok_or(short("the created relation"))?;
                let number = data.i32().ok_or(short("the created fork"))?;
                let fork = u32::try_from(number).ok().and_then(ForkNumber::from_number);
                let fork = fork.ok_or(RecordProblem::Value { what: "fork", value: i64::from(number) })?;
                Ok(Some(RecordMeaning::RelationCreated { locator, fork }))
            }
            0x20 => {
                let blocks = data.u32().ok_or(short("the new length"))?;
                let locator = read_locator(&mut data).ok_or(short("the truncated relation"))?;
                let flags = data.u32().ok_or(short("the truncated forks"))?;
                let (main, visibility_map) = (flags & 1 != 0, flags & 2 != 0);
                Ok(Some(RecordMeaning::RelationTruncated(Truncation { locator, blocks, main, visibility_map })))
            }
            _ => Ok(None),
        }
    }

    /// 15 put the creation that logs every block between the two older kinds: 0x10 drops before 15, creates since.
    fn database_meaning(&self) -> Result<Option<RecordMeaning<'a>>, RecordProblem> {
        let mut data = Cursor::new(self.main_data);
        let short = RecordProblem::Truncated;
        let old = self.version < MajorVersion::V15;
        let database = data.u32().ok_or(short("the database"))?;
        match (self.kind(), old) {
            (0x00, _) | (0x10, false) => {
                let tablespace = data.u32().ok_or(short("the tablespace"))?;
                Ok(Some(RecordMeaning::DatabaseCreated { database, tablespace }))
            }
            (0x10, true) | (0x20, false) => {
                let count = data.i32().and_then(|count| u32::try_from(count).ok());
                let tablespaces = count.and_then(|count| data.take_items(count, 4)).ok_or(short("the tablespaces"))?;
                Ok(Some(RecordMeaning::DatabaseDropped { database, tablespaces: OidList(tablespaces) }))
            }
            _ => Ok(None),
        }
    }
}

fn read_wal_level(data: &mut Cursor<'_>) -> Result<WalLevel, RecordProblem> {
    match data.i32().ok_or(RecordProblem::Truncated("wal_level"))? {
        0 => Ok(WalLevel::Minimal),
        1 => Ok(WalLevel::Replica),
        2 => Ok(WalLevel::Logical),
        value => Err(RecordProblem::Value { what: "wal_level", value: i64::from(value) }),
    }
}

fn read_timeline(data: &mut Cursor<'_>) -> Result<TimelineId, RecordProblem> {
    let number = data.u32().ok_or(RecordProblem::Truncated("the timeline"))?;
    TimelineId::new(number).ok_or(RecordProblem::Value { what: "timeline", value: i64::from(number) })
}
