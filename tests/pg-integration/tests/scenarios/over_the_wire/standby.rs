//! Backups of a standby: the primary does nothing for them but archive.

use walkeep_pg_integration::compare::verify_backup;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, Walkeep, Workload, amcheck, create_marker, scenario,
};

use super::copying_from;
use crate::backup_faults::{ending_of, fails_with, slow_file};

/// A primary that archives, its standby, and Walkeep beside the standby.
fn pair(major: MajorVersion) -> (Cluster, Cluster, Walkeep) {
    let mut primary = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&primary);
    Workload::seeded(Seed::take()).rows(500).populate(&primary);
    pgbench_init(&primary, 2);
    let standby = primary.standby();
    standby.wait_caught_up(&primary);
    walkeep.configure("cluster", "pgdata", standby.data().display().to_string());
    walkeep.configure("cluster", "conninfo", standby.conninfo());
    (primary, standby, walkeep)
}

/// Under load on the primary, from both sources, and restored by replay of what the primary has archived.
fn a_standby_is_backed_up(major: MajorVersion) {
    let (primary, standby, walkeep) = pair(major);
    walkeep.run(&["check"]).assert_says("the server is a standby: its primary archives");
    let load = pgbench_load(&primary, Seed::fixed(91));
    let backups = ["local", "replication"].map(|source| {
        let backup = walkeep.backup(&["--source", source]);
        assert_eq!(backup["status"], "ok", "{source}: {backup}");
        backup["id"].as_str().expect("backups have names").to_owned()
    });
    load.stop();
    create_marker(&primary, "behind both");
    let expected = Digest::of(&primary);
    primary.archive_everything();
    drop(standby);
    walkeep.verify();
    for id in backups {
        let mut restored = walkeep.restore().args(&["--backup", &id, "--target-action", "promote"]).files();
        verify_backup(restored.data(), &[]).ok();
        restored.start();
        restored.wait_writable();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!(per_major, a_standby_is_backed_up);

/// Nothing closes the last segment of an idle primary: the backup says what to do; a tail of the stream is as good.
fn an_idle_primary_is_no_obstacle(major: MajorVersion) {
    let (primary, standby, walkeep) = pair(major);
    primary.archive_everything();
    // Behind the last segment that is archived, and nothing closes this one.
    pgbench_run(&primary, 3, Seed::fixed(92));
    standby.wait_caught_up(&primary);
    primary.sql("checkpoint");
    standby.wait_caught_up(&primary);
    standby.sql("checkpoint");
    walkeep.configure("limits", "archive_timeout", 2);
    for source in ["local", "replication"] {
        let says = ["was not archived", "the server is a standby", "pg_switch_wal()"];
        fails_with(&walkeep, &["--source", source], 1, &says);
    }
    walkeep.configure("stream", "standby", true);
    walkeep.configure("stream", "tail_interval", "1s");
    walkeep.configure("limits", "archive_timeout", 30);
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    for source in ["local", "replication"] {
        let backup = walkeep.backup(&["--source", source]);
        assert_eq!(backup["status"], "ok", "{backup}");
    }
    let expected = Digest::of(&primary);
    assert!(agent.stop().success());
    walkeep.verify();
    let restored = walkeep.restore().args(&["--target", "immediate"]).promoted();
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!([V13, V17], full [V14, V15, V16, V18], an_idle_primary_is_no_obstacle);

/// Whoever backs up a standby learns before the copy that its primary does not archive.
fn a_primary_that_does_not_archive_is_told_at_once(major: MajorVersion) {
    let (primary, standby, walkeep) = pair(major);
    primary.set("archive_command", "false");
    primary.sql("select pg_switch_wal()");
    primary.sql("checkpoint");
    primary.sql("select pg_switch_wal()");
    pgbench_run(&primary, 3, Seed::fixed(93));
    standby.wait_caught_up(&primary);
    standby.sql("checkpoint");
    walkeep.configure("limits", "archive_timeout", 2);
    for source in ["local", "replication"] {
        let says = ["unable to start copying", "was not archived", "its primary has closed this segment"];
        fails_with(&walkeep, &["--source", source], 1, &says);
    }
}
scenario!([V13, V18], full [V14, V15, V16, V17], a_primary_that_does_not_archive_is_told_at_once);

/// A standby that becomes a primary in the middle: nothing is listed, and the next backup is one of a primary.
fn a_promotion_ends_the_backup(major: MajorVersion) {
    for source in ["local", "replication"] {
        let (primary, standby, walkeep) = pair(major);
        slow_file(&standby);
        let child = copying_from(source, &walkeep, &standby);
        drop(primary);
        standby.promote();
        standby.wait_writable();
        let output = ending_of(child).expect_code(1);
        output.assert_says("promoted");
        assert!(walkeep.backups().is_empty());
        std::fs::remove_file(standby.data().join("slow")).expect("it is there");
        standby.set("archive_command", &walkeep.archive_command());
        let backup = walkeep.backup(&["--source", source]);
        assert_eq!((&backup["timeline"], &backup["status"]), (&2.into(), &"ok".into()), "{backup}");
        walkeep.verify();
    }
}
scenario!([V13, V15, V18], full [V14, V16, V17], a_promotion_ends_the_backup);
