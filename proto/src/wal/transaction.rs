//! The ends of transactions (`access/xact.h`).

use super::block::read_locator;
use super::bytes::Cursor;
use super::record::{DecodedRecord, RecordProblem, TransactionId};
use super::time::PgTimestamp;
use crate::identity::RelFileLocator;
use crate::version::MajorVersion;

/// A commit or abort, of a transaction in one or two phases.
#[derive(Clone, Copy, Debug)]
pub struct TransactionEnd<'a> {
    /// Whether it committed.
    pub committed: bool,
    /// Whether it ended by `COMMIT PREPARED` or `ROLLBACK PREPARED`.
    pub prepared: bool,
    /// When, by the clock of the server that wrote it. Not monotonic along the WAL.
    pub time: PgTimestamp,
    /// The transaction that ended: the top-level one, or the prepared one. `recovery_target_xid` compares this.
    /// `ROLLBACK TO` writes abort records too, which carry the subtransaction.
    pub xid: TransactionId,
    /// The subtransactions that ended with it.
    pub subtransactions: TransactionList<'a>,
    /// Relations whose files are removed.
    pub dropped: RelationList<'a>,
}

/// Transaction numbers inside a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransactionList<'a>(&'a [u8]);

impl<'a> TransactionList<'a> {
    /// The numbers in the record's order.
    pub fn iter(self) -> impl Iterator<Item = TransactionId> + 'a {
        self.0.chunks_exact(4).filter_map(|item| Cursor::new(item).u32())
    }
}

/// Relations inside a record.
#[derive(Clone, Copy, Debug, Default)]
pub struct RelationList<'a>(&'a [u8]);

impl<'a> RelationList<'a> {
    /// The relations in the record's order.
    pub fn iter(self) -> impl Iterator<Item = RelFileLocator> + 'a {
        self.0.chunks_exact(12).filter_map(|item| read_locator(&mut Cursor::new(item)))
    }

    /// Whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Bits of `xinfo`: which parts follow it, in ascending order of the bits except where [`TransactionEnd::parse`] says.
mod part {
    pub(super) const DATABASE: u32 = 1 << 0;
    pub(super) const SUBTRANSACTIONS: u32 = 1 << 1;
    pub(super) const RELATIONS: u32 = 1 << 2;
    pub(super) const INVALIDATIONS: u32 = 1 << 3;
    pub(super) const TWO_PHASE: u32 = 1 << 4;
    /// 15 and later.
    pub(super) const STATISTICS: u32 = 1 << 8;
}

impl<'a> TransactionEnd<'a> {
    /// Reads a record of [`super::record::ResourceManager::TRANSACTION`]; `None` where it ends no transaction.
    pub(super) fn parse(record: &DecodedRecord<'a>) -> Result<Option<Self>, RecordProblem> {
        const HAS_XINFO: u8 = 0x80;
        let (committed, prepared) = match record.info & 0x70 {
            0x00 => (true, false),
            0x20 => (false, false),
            0x30 => (true, true),
            0x40 => (false, true),
            _ => return Ok(None),
        };
        let mut cursor = Cursor::new(record.main_data);
        let short = RecordProblem::Truncated;
        let time = PgTimestamp::new(cursor.i64().ok_or(short("the commit time"))?);
        let mut end = Self {
            committed,
            prepared,
            time,
            xid: record.xid,
            subtransactions: TransactionList::default(),
            dropped: RelationList::default(),
        };
        if record.info & HAS_XINFO == 0 {
            return Ok(Some(end));
        }
        let parts = cursor.u32().ok_or(short("the list of parts"))?;
        if parts & part::DATABASE != 0 {
            cursor.take(8).ok_or(short("the database"))?;
        }
        if parts & part::SUBTRANSACTIONS != 0 {
            end.subtransactions = TransactionList(items(&mut cursor, 4).ok_or(short("the subtransactions"))?);
        }
        if parts & part::RELATIONS != 0 {
            end.dropped = RelationList(items(&mut cursor, 12).ok_or(short("the dropped relations"))?);
        }
        // Statistics come here although their bit is the highest.
        if parts & part::STATISTICS != 0 && record.version >= MajorVersion::V15 {
            let size = if record.version >= MajorVersion::V18 { 16 } else { 12 };
            items(&mut cursor, size).ok_or(short("the dropped statistics"))?;
        }
        if parts & part::INVALIDATIONS != 0 {
            items(&mut cursor, 16).ok_or(short("the cache invalidations"))?;
        }
        if parts & part::TWO_PHASE != 0 {
            end.xid = cursor.u32().ok_or(short("the prepared transaction"))?;
        }
        // The prepared transaction's name and the replication origin follow; nothing here needs them.
        Ok(Some(end))
    }
}

/// A count and as many items of `size` bytes.
fn items<'a>(cursor: &mut Cursor<'a>, size: usize) -> Option<&'a [u8]> {
    let count = u32::try_from(cursor.i32()?).ok()?;
    cursor.take_items(count, size)
}
