//! Which backup is built on, and which must not be.

use std::fs;

use serde_json::Value;
use walkeep_pg_integration::faults::{ObjectKind, flip_bit, objects};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, scenario};

use super::{everything, incremental, summarising, take, the_newest_comes_back, with_data};
use crate::backup_restore::{comes_back, id};

/// Packs of the parent that are gone or damaged: the new backup does without, and is sound.
fn a_parent_that_lost_its_packs_is_not_built_on(major: MajorVersion) {
    for (kind, damage) in [(ObjectKind::Packs, false), (ObjectKind::Nodes, true), (ObjectKind::Nodes, false)] {
        let (cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
        walkeep.backup(&super::WIRE);
        let packs = objects(walkeep.repository_dir(), kind);
        assert!(!packs.is_empty());
        for pack in &packs {
            if damage {
                let length = fs::metadata(pack).expect("it is there").len();
                (0..length).step_by(500).for_each(|offset| flip_bit(pack, offset));
            } else {
                fs::remove_file(pack).expect("it is there");
            }
        }
        workload.churn(&cluster, 5);
        let expected = Digest::of(&cluster);
        let (backup, output) = take(&walkeep);
        assert_ne!(backup["kind"], "incremental", "{kind:?}: {output}");
        output.assert_says(super::EVERYTHING);
        cluster.archive_everything();
        walkeep.run(&["verify", id(&backup)]).ok();
        comes_back(&walkeep, &cluster, &backup, &["--target", "immediate"], &expected);
        workload.churn(&cluster, 5);
        let next = incremental(&walkeep, &backup);
        let expected = Digest::of(&cluster);
        cluster.archive_everything();
        walkeep.run(&["verify", id(&next)]).ok();
        comes_back(&walkeep, &cluster, &next, &["--target", "immediate"], &expected);
    }
}
scenario!([V17, V18], a_parent_that_lost_its_packs_is_not_built_on);

/// Walkeep beside another server of the same cluster from now on.
fn move_to(walkeep: &Walkeep, cluster: &Cluster) {
    walkeep.configure("cluster", "pgdata", cluster.data().display().to_string());
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
}

/// A standby that names changes, one that is too idle to, and one that was promoted.
fn a_standby_names_changes(major: MajorVersion) {
    let (mut primary, walkeep, _) = with_data(summarising(major).wal_segment_mb(1));
    pgbench_init(&primary, 2);
    let standby = primary.standby();
    move_to(&walkeep, &standby);
    let checkpoint = |primary: &Cluster, standby: &Cluster| {
        primary.sql("checkpoint");
        primary.archive_everything();
        standby.wait_caught_up(primary);
        standby.sql("checkpoint");
    };
    checkpoint(&primary, &standby);
    let first = walkeep.backup(&super::WIRE);
    // No restartpoint since: a backup would begin where the parent began, before the parent's end.
    pgbench_run(&primary, 20, Seed::fixed(1));
    primary.archive_everything();
    standby.wait_caught_up(&primary);
    let second = walkeep_of_idle_standby(&walkeep, &first);
    pgbench_run(&primary, 20, Seed::fixed(2));
    checkpoint(&primary, &standby);
    let third = incremental(&walkeep, &second);
    pgbench_run(&primary, 20, Seed::fixed(3));
    standby.wait_caught_up(&primary);
    primary.stop(StopMode::Fast);
    standby.promote();
    standby.set("archive_command", &walkeep.archive_command());
    pgbench_run(&standby, 20, Seed::fixed(4));
    standby.sql("checkpoint");
    let fourth = incremental(&walkeep, &third);
    assert_eq!(fourth["timeline"], 2, "{fourth}");
    the_newest_comes_back(&walkeep, &standby);
    pgbench_run(&standby, 20, Seed::fixed(5));
    incremental(&walkeep, &fourth);
    the_newest_comes_back(&walkeep, &standby);
}
scenario!([V17, V18], a_standby_names_changes);

/// Nothing on a standby has moved since the parent but replay.
#[track_caller]
fn walkeep_of_idle_standby(walkeep: &Walkeep, parent: &Value) -> Value {
    let backup = everything(walkeep, "manifest requires WAL from final timeline");
    assert_eq!(backup["start_lsn"], parent["start_lsn"], "the standby was not as idle as this test wants it");
    backup
}

/// The newest backup is of a branch that the server has left: it is not the parent of anything here.
fn a_dead_branch_is_not_built_on(major: MajorVersion) {
    let (mut primary, walkeep, _) = with_data(summarising(major).wal_segment_mb(1));
    pgbench_init(&primary, 2);
    walkeep.backup(&super::WIRE);
    let mut standby = primary.standby();
    pgbench_run(&primary, 50, Seed::fixed(1));
    standby.wait_caught_up(&primary);
    standby.stop(StopMode::Fast);
    // What the standby never sees, and a backup that has it.
    primary.sql("update pgbench_accounts set abalance = 1000000 where aid % 3 = 0");
    primary.sql("create table lost as select generate_series(1, 10000) i");
    let dead = walkeep.backup(&super::WIRE);
    assert_eq!(dead["kind"], "incremental", "{dead}");
    primary.archive_everything();
    primary.stop(StopMode::Fast);
    standby.start();
    standby.promote();
    move_to(&walkeep, &standby);
    standby.set("archive_command", &walkeep.archive_command());
    pgbench_run(&standby, 50, Seed::fixed(2));
    let (backup, output) = take(&walkeep);
    assert!(backup["kind"] == "scan" || backup["parent"] != dead["id"], "{output}");
    assert_eq!(backup["timeline"], 2, "{output}");
    if backup["kind"] == "scan" {
        output.assert_says(super::EVERYTHING);
    }
    the_newest_comes_back(&walkeep, &standby);
    pgbench_run(&standby, 20, Seed::fixed(3));
    incremental(&walkeep, &backup);
    the_newest_comes_back(&walkeep, &standby);
}
scenario!([V17, V18], a_dead_branch_is_not_built_on);

/// A restored server on a timeline of its own, which has none of the summaries from before.
fn a_restored_server_begins_again(major: MajorVersion) {
    let (mut cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
    let first = walkeep.backup(&super::WIRE);
    workload.churn(&cluster, 5);
    cluster.archive_everything();
    cluster.stop(StopMode::Fast);
    let restored = walkeep.restore().args(&["--backup", id(&first), "--keep-archiving"]);
    let restored = restored.command_line("archive_mode", "on").promoted();
    move_to(&walkeep, &restored);
    workload.churn(&restored, 5);
    let (second, output) = take(&walkeep);
    // Whether recovery's WAL was summarised is the server's affair.
    assert!(second["kind"] == "incremental" || output.stderr.contains(super::EVERYTHING), "{output}");
    the_newest_comes_back(&walkeep, &restored);
    workload.churn(&restored, 5);
    incremental(&walkeep, &second);
    the_newest_comes_back(&walkeep, &restored);
}
scenario!([V17, V18], a_restored_server_begins_again);
