//! Damage, and connections that break, in the middle of a backup of the changes.

use std::fs;

use walkeep_pg_integration::faults::corrupt_page;
use walkeep_pg_integration::{MajorVersion, StopMode, Walkeep, scenario};

use super::super::being_sent;
use super::{everything, incremental, summarising, the_newest_comes_back, with_data};
use crate::backup_faults::{damage_two_pages, ending_of, slow_file, small, table};
use crate::backup_restore::id;

/// Damaged pages of the parent are not taken over in silence: the file is sent whole, and they are named again.
fn a_parents_damage_is_named_again(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    cluster.set("summarize_wal", "on");
    cluster.set("autovacuum", "off");
    let (file, relative) = table(&cluster);
    cluster.sql("vacuum t");
    damage_two_pages(&mut cluster, &file);
    walkeep.run(&["backup", "--source", "replication"]).expect_code(5).assert_says("2 damaged pages");
    let output = walkeep.run(&["backup", "--source", "replication"]).expect_code(5);
    output.assert_says("2 damaged pages");
    output.assert_says(&format!("'{relative}' block 3:"));
    output.assert_says(&format!("'{relative}' block 77:"));
    let backups = walkeep.backups();
    let [first, second] = backups.as_slice() else { panic!("{backups:?}") };
    assert_eq!((&second["kind"], &second["parent"]), (&"incremental".into(), &first["id"]), "{second}");
    assert_eq!((&second["status"], &second["page_errors"]), (&"page_errors".into(), &first["page_errors"]), "{second}");
    cluster.sql("drop table t");
    cluster.sql("checkpoint");
    incremental(&walkeep, second);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], a_parents_damage_is_named_again);

/// A page that is damaged on disk after the parent is not sent: the backup has it as it was. Reading everything finds it.
fn damage_at_rest_is_found_by_reading(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    cluster.set("summarize_wal", "on");
    cluster.set("autovacuum", "off");
    let (file, relative) = table(&cluster);
    cluster.sql("vacuum freeze t");
    cluster.sql("checkpoint");
    let first = walkeep.backup(&super::WIRE);
    let before = fs::read(&file).expect("the table is there");
    cluster.stop(StopMode::Fast);
    corrupt_page(&mut cluster, &file, 9);
    cluster.start();
    let second = incremental(&walkeep, &first);
    let restored = walkeep.restore().args(&["--backup", id(&second), "--target", "immediate"]).files();
    assert!(fs::read(restored.data().join(&relative)).expect("it is there") == before, "the page was sent, or lost");
    let output = walkeep.run(&["backup", "--source", "replication", "--full-read"]).expect_code(5);
    output.assert_says(&format!("'{relative}' block 9:"));
}
scenario!([V17, V18], damage_at_rest_is_found_by_reading);

/// The server ends the session in the middle: nothing is listed, and the next backup is right.
fn a_lost_connection_costs_one_backup(major: MajorVersion) {
    let (mut cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
    let first = walkeep.backup(&super::WIRE);
    let slow = slow_file(&cluster);
    for way in ["terminate", "kill"] {
        workload.churn(&cluster, 5);
        let child = being_sent(&walkeep, &cluster);
        if way == "kill" {
            cluster.kill9();
        } else {
            let sender = "pid from pg_stat_replication where application_name = 'walkeep_backup'";
            cluster.sql(&format!("select pg_terminate_backend(pid) from (select {sender}) s"));
        }
        ending_of(child).expect_code(1).assert_says("error: ");
        assert_eq!(walkeep.backups().len(), 1, "{way}");
        if way == "kill" {
            cluster.start();
        }
    }
    fs::remove_file(slow).expect("it is there");
    incremental(&walkeep, &first);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], a_lost_connection_costs_one_backup);

/// A parent that is deleted from the repository is no parent; the one before it may be.
fn the_newest_that_is_left_is_the_parent(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
    let first = walkeep.backup(&super::WIRE);
    workload.churn(&cluster, 5);
    let second = incremental(&walkeep, &first);
    workload.churn(&cluster, 5);
    forget(&walkeep, id(&second));
    incremental(&walkeep, &first);
    the_newest_comes_back(&walkeep, &cluster);
    forget(&walkeep, id(&first));
    let newest = walkeep.backups().pop().expect("one is left");
    cluster.set("summarize_wal", "off");
    let whole = everything(&walkeep, "summarize_wal");
    assert_eq!(whole["parent"], newest["id"]);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V18], the_newest_that_is_left_is_the_parent);

/// Removes a backup's manifest.
#[track_caller]
fn forget(walkeep: &Walkeep, id: &str) {
    use walkeep_pg_integration::faults::{ObjectKind, objects};
    let manifests = objects(walkeep.repository_dir(), ObjectKind::Backups);
    let own = manifests.iter().find(|path| path.to_string_lossy().contains(id)).expect("it is listed");
    fs::remove_file(own).expect("it can be removed");
}
