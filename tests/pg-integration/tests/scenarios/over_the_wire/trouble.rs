//! A backup over the wire when something is wrong: nothing is listed that is not whole.

use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, StopMode, Workload, scenario};

use super::{WIRE, being_sent};
use crate::backup_faults::{damage_two_pages, ending_of, fails_with, slow_file, small, survives_thrashing, table};

/// The server sends everything, and then an error: the backup is kept, and says which pages are damaged.
fn damaged_pages_are_named(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    let (file, relative) = table(&cluster);
    damage_two_pages(&mut cluster, &file);
    let output = walkeep.run(&["backup", "--source", "replication"]).expect_code(5);
    output.assert_says("2 damaged pages");
    output.assert_says(&format!("'{relative}' block 3:"));
    output.assert_says(&format!("'{relative}' block 77:"));
    let backups = walkeep.backups();
    assert_eq!((&backups[0]["status"], &backups[0]["page_errors"][0]["block"]), (&"page_errors".into(), &3.into()));
    cluster.sql("drop table t");
    cluster.sql("checkpoint");
    assert_eq!(walkeep.backup(&WIRE)["status"], "ok");
    walkeep.verify();
}
scenario!(per_major, damaged_pages_are_named);

/// The server takes a page with an LSN of the future for one that was just written, and does not check it.
fn a_page_of_the_future_is_damage(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    let (file, relative) = table(&cluster);
    cluster.stop(StopMode::Fast);
    let page = std::fs::File::options().write(true).open(&file).expect("the table is there");
    std::os::unix::fs::FileExt::write_all_at(&page, &[0xFF; 8], 5 * 8192).expect("it can be written to");
    cluster.start();
    let output = walkeep.run(&["backup", "--source", "replication"]).expect_code(5);
    output.assert_says("1 damaged pages");
    output.assert_says(&format!("'{relative}' block 5:"));
}
scenario!([V13, V18], full [V14, V15, V16, V17], a_page_of_the_future_is_damage);

fn survives_what_vanishes_shrinks_and_grows(major: MajorVersion) {
    survives_thrashing(major, "replication");
}
scenario!([V13, V15, V18], full [V14, V16, V17], survives_what_vanishes_shrinks_and_grows);

/// The server goes away, or ends the session, in the middle of the data.
fn a_lost_connection_leaves_nothing(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    let slow = slow_file(&cluster);
    let child = being_sent(&walkeep, &cluster);
    cluster.sql("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'walkeep_backup'");
    let output = ending_of(child).expect_code(1);
    output.assert_says("error: ");
    let child = being_sent(&walkeep, &cluster);
    cluster.kill9();
    ending_of(child).expect_code(1).assert_says("error: ");
    cluster.start();
    assert!(walkeep.backups().is_empty());
    std::fs::remove_file(slow).expect("it is there");
    walkeep.backup(&WIRE);
    walkeep.verify();
}
scenario!([V13, V16, V18], full [V14, V15, V17], a_lost_connection_leaves_nothing);

/// Whatever is missing is said before anything is copied.
fn what_is_missing_is_told(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    walkeep.backup(&WIRE);
    cluster.sql("alter system set max_wal_senders = 0");
    cluster.restart();
    fails_with(&walkeep, &WIRE, 1, &["max_wal_senders"]);
    cluster.sql("alter system set max_wal_senders = 4");
    cluster.restart();
    cluster.let_in(&["local all all trust"]);
    cluster.sql("create role reader login superuser");
    walkeep.configure("cluster", "conninfo", cluster.conninfo().replace("user=postgres", "user=reader"));
    fails_with(&walkeep, &WIRE, 1, &["no pg_hba.conf entry for replication connection"]);
    let other = Cluster::options(major).wal_segment_mb(1).create();
    walkeep.configure("cluster", "conninfo", other.conninfo());
    fails_with(&walkeep, &WIRE, 7, &["the cluster is another one"]);
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    walkeep.backup(&WIRE);
}
scenario!([V13, V17], full [V14, V15, V16, V18], what_is_missing_is_told);

/// A name that tar cannot hold is the server's own error; the backup from the files takes it.
fn a_name_too_long_for_the_server_is_told(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    let long = format!("pg_wal_archive_{}", "x".repeat(100));
    walkeep_pg_integration::user::write_file(&cluster.data().join(&long), "bytes");
    fails_with(&walkeep, &WIRE, 1, &["file name too long for tar format", &long]);
    assert_eq!(walkeep.backup(&["--source", "local"])["status"], "ok");
    // What the server leaves out by itself is passed on.
    std::fs::remove_file(cluster.data().join(&long)).expect("it is there");
    std::os::unix::fs::symlink("postgresql.conf", cluster.data().join("link")).expect("links can be made");
    walkeep.run(&["backup", "--source", "replication"]).ok().assert_says("skipping special file");
}
scenario!([V13, V18], full [V14, V15, V16, V17], a_name_too_long_for_the_server_is_told);

/// Tablespaces and databases come and go while the server sends; names that are no UTF-8 are names all the same.
fn tablespaces_come_and_go(major: MajorVersion) {
    use std::os::unix::ffi::OsStrExt;

    let (mut cluster, walkeep) = small(major);
    let mut workload = Workload::seeded(Seed::take()).rows(300);
    workload.populate(&cluster);
    cluster.create_tablespace("old");
    cluster.sql("create table there tablespace old as select generate_series(1, 1000) i");
    let odd = cluster.data().join(std::ffi::OsStr::from_bytes(b"odd\xFFname"));
    walkeep_pg_integration::user::write_file(&odd, "bytes");
    cluster.sql("create database leaving");
    let slow = slow_file(&cluster);
    let child = being_sent(&walkeep, &cluster);
    cluster.sql("drop database leaving");
    cluster.sql("create database coming");
    if major >= MajorVersion::V15 {
        cluster.sql("create database copied strategy file_copy");
    }
    cluster.create_tablespace("new");
    cluster.sql("create table here tablespace new as select generate_series(1, 1000) i");
    cluster.sql("drop table there");
    cluster.sql("drop tablespace old");
    ending_of(child).ok();
    std::fs::remove_file(slow).expect("it is there");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    let backups = walkeep.backups();
    assert_eq!(backups.len(), 1);
    walkeep.verify();
    // Replay makes the tablespace that came where it was.
    cluster.stop(StopMode::Fast);
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    let odd = restored.data().join(std::ffi::OsStr::from_bytes(b"odd\xFFname"));
    assert_eq!(std::fs::read(odd).expect("it came back"), b"bytes");
}
scenario!([V14, V18], full [V13, V15, V16, V17], tablespaces_come_and_go);
