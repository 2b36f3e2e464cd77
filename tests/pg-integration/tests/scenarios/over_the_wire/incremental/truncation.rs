//! Tables that shrink and grow again: where the servers' own incremental backups lose rows, or bring old ones back.
//!
//! Two defects of 17.10 and 18.4, seen here: pages without WAL behind a truncation are taken from the older backup
//! (`truncation_block_length` covers them), and summaries are read in the directory's order, so that an older one's
//! truncation can take back what a younger one has marked.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use walkeep_pg_integration::{Cluster, ClusterOptions, Digest, MajorVersion, Scratch, Walkeep, is_full_run, scenario};

use super::chains::Native;
use super::summaries::{frozen_summariser, taken_across, wait_summarised};
use super::{incremental, summarising, the_newest_comes_back};
use crate::backup_restore::comes_back;

/// Rows of a table that [`fill`] makes; fifteen are on a page.
const ROWS: u32 = 30_000;

/// Enough shared buffers for the server to extend a table by many pages at once.
fn extending(major: MajorVersion) -> ClusterOptions {
    summarising(major).setting("shared_buffers", "128MB").setting("max_wal_size", "8GB")
}

/// A table without dead rows, without hints to be set, of 2000 pages.
fn fill(cluster: &Cluster, table: &str, rows: u32) {
    cluster.sql(&format!("create table {table} (i int, filler char(500) default 'x')"));
    cluster.sql(&format!("alter table {table} alter filler set storage plain"));
    cluster.sql(&format!("insert into {table} select generate_series(1, {rows})"));
    cluster.sql(&format!("vacuum freeze {table}"));
}

/// Cuts all behind the first `rows` rows off.
#[track_caller]
fn cut(cluster: &Cluster, table: &str, rows: u32) {
    let pages = || -> u32 { cluster.query_one(&format!("select pg_relation_size('{table}') / 8192")) };
    let before = pages();
    cluster.sql(&format!("delete from {table} where i > {rows}"));
    cluster.sql(&format!("vacuum (truncate on) {table}"));
    assert!(pages() < before, "{table} was not cut: {before} pages became {}", pages());
}

/// Appends rows in bulk, for which the server extends the file further than it fills it.
fn append(cluster: &Cluster, table: &str, rows: u32) {
    cluster.sql(&format!("copy {table} (i) from program 'seq 9000001 {}'", 9_000_000 + rows));
}

/// How many pages of zeros a file has.
fn zero_pages(file: &Path) -> usize {
    let file = fs::File::open(file).expect("the table is there");
    let pages = file.metadata().expect("it is open").len() / 8192;
    let mut page = [0; 8192];
    let is_zero = |number: &u64| {
        file.read_exact_at(&mut page, number * 8192).expect("it can be read");
        page.iter().all(|byte| *byte == 0)
    };
    (0..pages).filter(is_zero).count()
}

/// Cut tables, grown again by pages that no WAL describes: their old rows are gone. Of one the server's summaries tell
/// before the backup, of the other only the one that it makes for the backup.
fn a_cut_tail_does_not_come_back(major: MajorVersion) {
    let cluster = extending(major).create();
    let walkeep = Walkeep::set_up(&cluster);
    for table in ["early", "late"] {
        fill(&cluster, table, ROWS);
    }
    cluster.sql("checkpoint");
    let native = Scratch::new("native");
    let mut chain = Native::begin(&cluster, &native);
    let first = walkeep.backup(&super::WIRE);
    for table in ["early", "late"] {
        cut(&cluster, table, 24_000);
        append(&cluster, table, 1100);
        if table == "early" {
            wait_summarised(&cluster);
        }
        let zero = zero_pages(&cluster.relation_file(table));
        assert!(zero > 10, "the server left {zero} pages without WAL, it must be some for this test");
    }
    incremental(&walkeep, &first);
    if major == MajorVersion::V18 {
        chain.extend_with_wal(&cluster);
        let mut combined = chain.combined(&cluster);
        combined.start();
        for table in ["early", "late"] {
            let old: u32 = combined.query_one(&format!("select count(*) from {table} where i between 24001 and 30000"));
            assert_ne!(old, 0, "pg_combinebackup has learnt it: this file's beginning is out of date");
        }
    }
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], a_cut_tail_does_not_come_back);

/// A cut in one summary and new rows in a later one, for tables enough that some are read in the wrong order.
fn rows_behind_a_cut_are_kept(major: MajorVersion) {
    let cluster = extending(major).wal_segment_mb(4).create();
    let walkeep = Walkeep::set_up(&cluster);
    let tables = ["a", "b", "c", "d", "e", "f"].map(|name| format!("cut_{name}"));
    for table in &tables {
        fill(&cluster, table, 6000);
    }
    let first = walkeep.backup(&super::WIRE);
    for table in &tables {
        cut(&cluster, table, 5000);
        cluster.sql("checkpoint");
        // Only rows behind the cut: an old one would move there, and no page could be cut off again.
        append(&cluster, table, 300);
        cluster.sql(&format!("update {table} set filler = 'y' where i > 9000000 and i % 50 = 0"));
        cluster.sql("checkpoint");
    }
    wait_summarised(&cluster);
    incremental(&walkeep, &first);
    the_newest_comes_back(&walkeep, &cluster);
    for table in &tables[..3] {
        cut(&cluster, table, 4000);
        cut(&cluster, table, 3000);
        append(&cluster, table, 1100);
        cluster.sql(&format!("truncate {}", tables[5]));
    }
    let expected = Digest::of(&cluster);
    let (second, output) = super::take(&walkeep);
    assert_eq!(second["kind"], "incremental", "{output}");
    cluster.archive_everything();
    comes_back(&walkeep, &cluster, &second, &["--target", "immediate"], &expected);
}
scenario!([V17, V18], rows_behind_a_cut_are_kept);

/// A table that is cut as the backup begins, and grows again in the next summary: what is sent of it cannot be relied on.
/// In the same summary, it can.
fn a_cut_while_a_backup_begins(major: MajorVersion) {
    for (between, kind) in [("checkpoint", "scan"), ("select 1", "incremental")] {
        let cluster = extending(major).create();
        let walkeep = Walkeep::set_up(&cluster);
        fill(&cluster, "t", ROWS);
        let first = walkeep.backup(&super::WIRE);
        let frozen = frozen_summariser(&cluster);
        cut(&cluster, "t", 24_000);
        cluster.sql(between);
        append(&cluster, "t", 1100);
        let output = taken_across(frozen, &walkeep, &cluster);
        let backup = output.json();
        assert_eq!((&backup["kind"], &backup["parent"]), (&kind.into(), &first["id"]), "{output}");
        assert_eq!(output.stderr.contains("was truncated while the backup began"), kind == "scan", "{output}");
        the_newest_comes_back(&walkeep, &cluster);
    }
}
scenario!([V17, V18], a_cut_while_a_backup_begins);

/// The same across the files of a table of more than 1 GiB: cut below, and just above, where its second file begins.
fn a_cut_reaches_over_files(major: MajorVersion) {
    // 131 072 pages are a file. What is usual is a table of one file, cut in the middle: that is the short run's.
    let (rows, cuts) =
        if is_full_run() { (2_100_000, vec![1_966_200, 1_900_000]) } else { (ROWS, vec![20_000, 10_000]) };
    for kept in cuts {
        let cluster = extending(major).create();
        let walkeep = Walkeep::set_up(&cluster);
        fill(&cluster, "t", rows);
        let first = walkeep.backup(&super::WIRE);
        cut(&cluster, "t", kept);
        cluster.sql("checkpoint");
        append(&cluster, "t", 1100);
        wait_summarised(&cluster);
        let second = incremental(&walkeep, &first);
        let expected = Digest::of(&cluster);
        append(&cluster, "t", rows - kept);
        cluster.sql("update t set filler = 'y' where i % 10000 = 0");
        incremental(&walkeep, &second);
        the_newest_comes_back(&walkeep, &cluster);
        comes_back(&walkeep, &cluster, &second, &["--target", "immediate"], &expected);
    }
}
scenario!([V17, V18], a_cut_reaches_over_files);
