//! The round trip: what a cluster holds when it is backed up is what it holds when it is restored, on every major.

use std::path::Path;

use serde_json::Value;
use walkeep_pg_integration::compare::verify_backup;
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, Workload, amcheck, checksums, create_marker, scenario,
};

/// A backup's name.
pub fn id(backup: &Value) -> &str {
    backup["id"].as_str().expect("backups have names")
}

#[track_caller]
pub fn statistic(backup: &Value, name: &str) -> u64 {
    backup["statistics"][name].as_u64().unwrap_or_else(|| panic!("no statistic '{name}' in {backup}"))
}

/// Restores a backup, has PostgreSQL's own tools judge the files and the recovered cluster, and compares.
#[track_caller]
pub fn comes_back(walkeep: &Walkeep, cluster: &Cluster, backup: &Value, target: &[&str], expected: &Digest) {
    let restore = walkeep.restore().args(&["--backup", id(backup)]).args(target).map_tablespaces(cluster);
    let mut restored = restore.args(&["--target-action", "promote"]).files();
    verify_backup(restored.data(), &[]).ok();
    restored.start();
    restored.wait_writable();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
    create_marker(&restored, "it takes writes");
    restored.stop(StopMode::Fast);
    checksums(&mut restored);
}

fn every_backup_is_complete_and_costs_what_changed(major: MajorVersion) {
    let seed = Seed::take();
    let cluster = Cluster::options(major).setting("autovacuum", "off").create();
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(seed).rows(2000);
    workload.populate(&cluster);
    cluster.sql("create database second");
    workload.populate_database(&cluster, "second");
    workload.populate_tablespace(&cluster);
    workload.prepare_transaction(&cluster, "open since before the first backup");
    let at_first = Digest::of(&cluster);
    let first = walkeep.backup(&["--note", "reason=first"]);
    assert_eq!((&first["status"], &first["kind"]), (&"ok".into(), &"full_read".into()), "{first}");
    assert_eq!(first["notes"]["reason"], "first");

    workload.churn(&cluster, 40);
    let second = walkeep.backup(&[]);
    assert_eq!((&second["kind"], &second["parent"]), (&"scan".into(), &first["id"]), "{second}");
    assert!(statistic(&second, "new_bytes") < statistic(&second, "logical_bytes") / 2, "{second}");

    let third = walkeep.backup(&[]);
    assert!(statistic(&third, "stored_bytes") < 1 << 20, "nothing changed, but: {third}");
    assert!(statistic(&third, "new_bytes") < 1 << 20, "nothing changed, but: {third}");

    cluster.sql("update btree_rows set amount = amount + 1 where id % 500 = 7");
    let at_fourth = Digest::of(&cluster);
    let fourth = walkeep.backup(&[]);
    assert!(statistic(&fourth, "changed_pages") > 0, "{fourth}");
    assert!(statistic(&fourth, "new_bytes") < statistic(&fourth, "logical_bytes") / 20, "{fourth}");
    let full = walkeep.backup(&["--full-read"]);
    assert_eq!((&full["kind"], &full["parent"]), (&"full_read".into(), &Value::Null), "{full}");
    assert_eq!(walkeep.backups().iter().map(id).collect::<Vec<_>>(), [&first, &second, &third, &fourth, &full].map(id));

    workload.churn(&cluster, 10);
    workload.prepare_transaction(&cluster, "open since after the last backup");
    let at_end = Digest::of(&cluster);
    cluster.archive_everything();
    walkeep.verify();
    comes_back(&walkeep, &cluster, &first, &["--target", "latest"], &at_end);
    comes_back(&walkeep, &cluster, &first, &["--target", "immediate"], &at_first);
    comes_back(&walkeep, &cluster, &fourth, &["--target", "immediate"], &at_fourth);
    comes_back(&walkeep, &cluster, &full, &[], &at_end);
}
scenario!(per_major, every_backup_is_complete_and_costs_what_changed);

/// The judge's own test: one changed byte in a restored directory is seen.
fn a_changed_file_is_noticed(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    cluster.sql("create table t as select i, md5(i::text) from generate_series(1, 5000) i");
    let relation = cluster.relation_file("t");
    walkeep.backup(&[]);
    let restored = walkeep.restore().files();
    verify_backup(restored.data(), &[]).ok();
    let inside = relation.strip_prefix(cluster.data()).expect("it lies inside");
    walkeep_pg_integration::faults::flip_bit(&restored.data().join(inside), 8192 + 5000);
    let inside: &Path = inside;
    verify_backup(restored.data(), &[]).expect_code(1).assert_says(&inside.display().to_string());
}
scenario!([V13, V18], a_changed_file_is_noticed);

/// A restored cluster is a cluster like any other: it archives, is backed up and restored again.
fn a_restored_cluster_goes_on(major: MajorVersion) {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    Workload::seeded(Seed::take()).rows(300).populate(&cluster);
    walkeep.backup(&[]);
    create_marker(&cluster, "on the first line");
    cluster.archive_everything();
    cluster.stop(StopMode::Fast);

    let mut restored = walkeep.restore().args(&["--keep-archiving"]).command_line("archive_mode", "on").promoted();
    create_marker(&restored, "on the second line");
    restored.archive_everything();
    walkeep.configure("cluster", "pgdata", restored.data().display().to_string());
    walkeep.configure("cluster", "conninfo", restored.conninfo());
    let again = walkeep.backup(&[]);
    assert_eq!((&again["timeline"], &again["kind"]), (&2.into(), &"scan".into()), "{again}");
    create_marker(&restored, "behind the second backup");
    let expected = Digest::of(&restored);
    restored.archive_everything();
    walkeep.verify();
    restored.stop(StopMode::Fast);

    let once_more = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&once_more));
    amcheck(&once_more);
    let line: u32 = once_more.query_one("select timeline_id from pg_control_recovery(), pg_control_checkpoint()");
    assert!(line >= 2, "timeline {line}");
}
scenario!([V13, V15, V18], a_restored_cluster_goes_on);
