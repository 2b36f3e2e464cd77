//! Named moments to which a restore can be asked to go.

use std::str::FromStr;

use walkeep_proto::lsn::Lsn;

use crate::cluster::Cluster;
use crate::wait::{SOON, wait_until};

/// A moment between two transactions: everything committed before it is in, everything after it is out.
///
/// Its four names mean the same moment to `recovery_target_name`, `_lsn`, `_xid` and `_time`, all inclusive, as long as
/// no other session commits while it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The restore point.
    pub name: String,
    /// The end of the last transaction that is in; the restore point's record starts here or later.
    pub lsn: Lsn,
    /// The last transaction that is in: it inserted the marker's row into `markers`.
    pub xid: u64,
    /// After that transaction's commit and before any later one's: RFC 3339, UTC, microseconds.
    pub time: String,
    /// The timeline.
    pub timeline: u32,
}

/// Commits a row that names the marker into table `markers` (created when absent) and creates a restore point.
#[track_caller]
pub fn create_marker(cluster: &Cluster, name: &str) -> Marker {
    let session = cluster.session("postgres");
    let quoted = name.replace('\'', "''");
    session.sql("create table if not exists markers (name text primary key)");
    let insert = format!(
        "with row as (insert into markers values ('{quoted}') returning 1) select pg_current_xact_id()::text from row"
    );
    let xid: u64 = session.query_one(&insert);
    let lsn: String = session.query_one("select pg_current_wal_insert_lsn()");
    let time =
        session.query_one("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    let restore_point: String = session.query_one(&format!("select pg_create_restore_point('{quoted}')"));
    // It commits nothing, so that it is the WAL writer who flushes it, later: a server that is killed would not have it.
    wait_until("the restore point to be flushed", SOON, || {
        session.query_one(&format!("select (pg_current_wal_flush_lsn() >= '{restore_point}')::text"))
    });
    let timeline =
        session.query_one("select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int");
    let lsn = Lsn::from_str(&lsn).expect("PostgreSQL prints LSNs that parse");
    Marker { name: name.to_owned(), lsn, xid, time, timeline }
}
