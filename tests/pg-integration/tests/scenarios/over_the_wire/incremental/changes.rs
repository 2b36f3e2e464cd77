//! Changes that a list of blocks could miss.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use walkeep_pg_integration::faults::Frozen;
use walkeep_pg_integration::user::TestUser;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, StopMode, Walkeep, checksums, create_marker, scenario,
};

use super::super::being_sent;
use super::summaries::wait_summarised;
use super::{everything, incremental, summarising, the_newest_comes_back, with_data};
use crate::backup_faults::{ending_of, slow_file};
use crate::backup_restore::{comes_back, id};

/// Bits of the visibility map that rows clear are in no summary (17.10, 18.4), so that a map merged by blocks would hide
/// what an index-only scan has to look up.
fn visibility_is_what_the_rows_say(major: MajorVersion) {
    let cluster = summarising(major).create();
    let walkeep = Walkeep::set_up(&cluster);
    cluster.sql("create extension pg_visibility");
    cluster.sql("create table seen (i int primary key, v int)");
    cluster.sql("insert into seen select i, i from generate_series(1, 100000) i");
    cluster.sql("create table frozen as select i, i as v from generate_series(1, 50000) i");
    cluster.sql("vacuum (freeze) seen");
    cluster.sql("vacuum (freeze) frozen");
    cluster.sql("checkpoint");
    let first = walkeep.backup(&super::WIRE);
    cluster.sql("update seen set v = -v where i between 10000 and 20000");
    cluster.sql("delete from seen where i between 50000 and 50100");
    cluster.sql("begin; select from frozen where i % 500 = 0 for update; commit");
    cluster.sql("update frozen set v = 0 where i % 500 = 1");
    cluster.sql("checkpoint");
    let second = incremental(&walkeep, &first);
    let pages = "select all_visible || ' visible, ' || all_frozen || ' frozen' from pg_visibility_map_summary('seen')";
    let visible: String = cluster.query_one(pages);
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    let restored = walkeep.restore().args(&["--backup", id(&second), "--target", "immediate"]).promoted();
    expected.assert_recovered(&Digest::of(&restored));
    for table in ["seen", "frozen"] {
        for check in ["pg_check_visible", "pg_check_frozen"] {
            let wrong: u32 = restored.query_one(&format!("select count(*) from {check}('{table}')"));
            assert_eq!(wrong, 0, "rows of '{table}' that {check} finds");
        }
    }
    // What a user would notice: the map must still be there, and the scan that believes it must count right.
    assert_eq!(restored.query_one::<String>(pages), visible);
    let session = restored.session("postgres");
    session.sql("set enable_seqscan = off; set enable_bitmapscan = off; set enable_indexscan = off");
    let plan = session.query("explain select count(i) from seen where i > 0");
    let plan: String = plan.into_iter().flatten().flatten().collect();
    assert!(plan.contains("Index Only Scan"), "{plan}");
    let by_map: u64 = session.query_one("select count(i) from seen where i > 0");
    session.sql("set enable_seqscan = on; set enable_indexonlyscan = off");
    assert_eq!(by_map, session.query_one::<u64>("select count(v) from seen where i > 0"));
}
scenario!([V17, V18], visibility_is_what_the_rows_say);

/// Tables dropped between two backups, tables created, and one that gets a dropped one's file name: its rows are its own.
fn a_name_used_again_is_another_table(major: MajorVersion) {
    let mut cluster = summarising(major).create();
    let walkeep = Walkeep::set_up(&cluster);
    cluster.sql("create table leaving as select i, md5(i::text) from generate_series(1, 20000) i");
    cluster.sql("create table old as select i from generate_series(1, 60000) i");
    cluster.sql("vacuum");
    let first = walkeep.backup(&super::WIRE);
    let name: String = cluster.query_one("select pg_relation_filenode('old')");
    let file = cluster.relation_file("old");
    cluster.sql("drop table leaving, old");
    cluster.sql("checkpoint");
    cluster.stop(StopMode::Fast);
    // The counter comes around after four thousand million names; what an upgrade uses gets there at once.
    alone(
        &cluster,
        &[
            "select binary_upgrade_set_next_pg_type_oid('400001')",
            "select binary_upgrade_set_next_array_pg_type_oid('400002')",
            "select binary_upgrade_set_next_heap_pg_class_oid('400000')",
            &format!("select binary_upgrade_set_next_heap_relfilenode('{name}')"),
            "create table fresh (i int)",
        ],
    );
    cluster.start();
    cluster.sql("insert into fresh select 1000000 + i from generate_series(1, 3000) i");
    assert_eq!(cluster.relation_file("fresh"), file);
    cluster.sql("create table coming as select i, md5(i::text) from generate_series(1, 20000) i");
    incremental(&walkeep, &first);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], a_name_used_again_is_another_table);

/// Runs statements on the stopped cluster as an upgrade would.
#[track_caller]
fn alone(cluster: &Cluster, statements: &[&str]) {
    let mut command = TestUser::get().command(cluster.server().program("postgres"));
    command.args(["--single", "-b", "-c", "log_checkpoints=off", "-D"]).arg(cluster.data()).arg("postgres");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is there");
    let text: String = statements.iter().map(|statement| format!("{statement}\n")).collect();
    child.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("it reads");
    let output = ending_of(child).ok();
    assert!(!output.stdout.contains("ERROR") && !output.stderr.contains("ERROR"), "{output}");
}

/// A database that goes to another tablespace, is changed there, and comes back: the same paths, other content.
fn a_database_goes_and_comes_back(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    cluster.create_tablespace("elsewhere");
    cluster.sql("create database travelling");
    workload.populate_database(&cluster, "travelling");
    let first = walkeep.backup(&super::WIRE);
    cluster.sql("alter database travelling set tablespace elsewhere");
    cluster.session("travelling").sql("update btree_rows set name = md5(name)");
    cluster.session("travelling").sql("delete from hash_rows where value % 3 = 0");
    let second = incremental(&walkeep, &first);
    cluster.sql("alter database travelling set tablespace pg_default");
    cluster.session("travelling").sql("update btree_rows set amount = 0 where id % 50 = 0");
    incremental(&walkeep, &second);
    the_newest_comes_back(&walkeep, &cluster);
    cluster.sql("drop database travelling");
    cluster.sql("create database copied template template0 strategy file_copy");
    let third = walkeep.backups().pop().expect("there are some");
    incremental(&walkeep, &third);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], a_database_goes_and_comes_back);

/// What changes while the parent is taken is in the parent or in the next: from either source, and nothing in between.
fn changes_during_the_parent_count(major: MajorVersion) {
    let cluster = summarising(major).create();
    let walkeep = Walkeep::set_up(&cluster);
    pgbench_init(&cluster, 2);
    for source in ["local", "replication"] {
        let load = pgbench_load(&cluster, Seed::fixed(7));
        let parent = walkeep.backup(&["--source", source, "--full-read"]);
        let during = incremental(&walkeep, &parent);
        load.stop();
        let next = incremental(&walkeep, &during);
        let marker = create_marker(&cluster, &format!("behind {source}"));
        let expected = Digest::of(&cluster);
        pgbench_init(&cluster, 1);
        cluster.archive_everything();
        for backup in [&next, &during] {
            comes_back(&walkeep, &cluster, backup, &["--target-name", &marker.name], &expected);
        }
    }
    walkeep.verify();
}
scenario!([V17, V18], changes_during_the_parent_count);

/// A file that changes behind the back of a parent that has copied it, and a checkpoint before the parent ends: what the
/// next must know begins where the parent began, not where it ended.
fn what_a_parent_has_passed_counts(major: MajorVersion) {
    let cluster = summarising(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    // Tablespaces are sent first.
    cluster.create_tablespace("first");
    cluster.sql("create table passed tablespace first as select i, md5(i::text) as v from generate_series(1, 50000) i");
    cluster.sql("vacuum freeze passed");
    let slow = slow_file(&cluster);
    let parent = being_sent(&walkeep, &cluster);
    let frozen = Frozen::freeze(parent.id());
    cluster.sql("update passed set v = 'changed' where i between 1 and 1000");
    // Whoever read these rows behind the checkpoint would log their pages once more, for hints.
    wait_summarised(&cluster);
    drop(frozen);
    ending_of(parent).ok();
    fs::remove_file(slow).expect("it is there");
    let parent = walkeep.backups().pop().expect("it was taken");
    incremental(&walkeep, &parent);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], what_a_parent_has_passed_counts);

/// Runs `pg_checksums` on the cluster, which is started again.
#[track_caller]
fn toggle(cluster: &mut Cluster, what: &str) {
    cluster.stop(StopMode::Fast);
    let program = cluster.tools().reading_control_file("pg_checksums").expect("18 has one");
    Output::of(TestUser::get().command(program).args([what, "--no-sync", "-D"]).arg(cluster.data())).ok();
    cluster.start();
}

/// Checksums switched on or off since the parent: pages of both kinds must not meet in one backup.
fn toggled_checksums_need_everything(major: MajorVersion) {
    let (mut cluster, walkeep, mut workload) = with_data(summarising(major).checksums(false));
    let first = walkeep.backup(&super::WIRE);
    toggle(&mut cluster, "--enable");
    let second = everything(&walkeep, "checksums");
    workload.churn(&cluster, 5);
    let third = incremental(&walkeep, &second);
    the_newest_comes_back(&walkeep, &cluster);
    toggle(&mut cluster, "--disable");
    workload.churn(&cluster, 5);
    // Off and on again between two backups: what was written without checksums has them now, as have the parent's pages.
    toggle(&mut cluster, "--enable");
    incremental(&walkeep, &third);
    the_newest_comes_back(&walkeep, &cluster);
    toggle(&mut cluster, "--disable");
    everything(&walkeep, "checksums");
    let mut restored = walkeep.restore().args(&["--backup", id(&first), "--target", "immediate"]).promoted();
    restored.stop(StopMode::Fast);
    assert!(walkeep_pg_integration::compare::scan_pages(restored.data()).failures.len() > 100, "the first has none");
    let mut restored = walkeep.restore().args(&["--backup", id(&third), "--target", "immediate"]).promoted();
    restored.stop(StopMode::Fast);
    checksums(&mut restored);
}
// No `pg_checksums` for 17 is at hand.
scenario!([V18], toggled_checksums_need_everything);
