//! Promotions and failovers: the stream goes where the server's history goes, and says what it leaves behind.

use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, StopMode, Walkeep, create_marker, scenario, wait_until,
};

use super::{ARRIVES, assert_restored, cluster, now, status, stored_end, streaming, wait_stored, walkeep};

/// Points the agent at another server; it is started again, as a manager of a failover would do.
fn point_at(walkeep: &Walkeep, cluster: &Cluster) {
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    walkeep.configure("cluster", "pgdata", cluster.data().display().to_string());
}

/// A standby is promoted while the agent streams from it, again and again.
fn a_promotion_while_streaming(major: MajorVersion) {
    let mut primary = cluster(major);
    pgbench_init(&primary, 1);
    let standby = primary.standby();
    let walkeep = walkeep(&primary);
    walkeep.configure("cluster", "conninfo", standby.conninfo());
    // What answers is a standby: that must be meant.
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    wait_until("the standby to be refused", ARRIVES, || {
        status(&walkeep)["error"].as_str().is_some_and(|error| error.contains("standby"))
    });
    assert!(status(&walkeep)["errors"]["standby"].as_u64() > Some(0), "it is counted for metrics");
    agent.kill9();
    walkeep.configure("stream", "standby", true);
    let agent = streaming(&walkeep);
    pgbench_run(&primary, 100, Seed::fixed(31));
    standby.wait_caught_up(&primary);
    primary.stop(StopMode::Fast);
    standby.promote();
    walkeep.configure("cluster", "pgdata", standby.data().display().to_string());
    pgbench_run(&standby, 100, Seed::fixed(32));
    wait_until("timeline 2", ARRIVES, || status(&walkeep)["timeline"] == 2);
    walkeep.backup(&[]);
    pgbench_run(&standby, 100, Seed::fixed(33));
    let expected = stored_end(&walkeep, &standby);
    assert!(agent.stop().success());
    drop(standby);
    assert_restored(&walkeep, &expected);
}
scenario!(per_major, a_promotion_while_streaming);

/// The backup is of timeline 1; the server that is left is on a later one. What lies between is unbroken.
fn a_failover_while_the_agent_is_down(major: MajorVersion) {
    let mut primary = cluster(major);
    let walkeep = walkeep(&primary);
    let agent = streaming(&walkeep);
    pgbench_init(&primary, 1);
    walkeep.backup(&[]);
    assert!(agent.stop().success());
    let mut standby = primary.standby();
    pgbench_run(&primary, 100, Seed::fixed(34));
    standby.wait_caught_up(&primary);
    primary.kill9();
    // Twice, so that the timeline jumps by more than one while nobody looks.
    standby.promote();
    pgbench_run(&standby, 50, Seed::fixed(35));
    let mut second = standby.standby();
    pgbench_run(&standby, 50, Seed::fixed(36));
    second.wait_caught_up(&standby);
    standby.kill9();
    second.promote();
    pgbench_run(&second, 50, Seed::fixed(37));
    point_at(&walkeep, &second);
    let agent = streaming(&walkeep);
    let expected = stored_end(&walkeep, &second);
    assert_eq!(status(&walkeep)["timeline"], 3);
    let slots = "select count(*) from pg_replication_slots where slot_name = 'walkeep' and restart_lsn is not null";
    wait_until("a slot on the new primary", ARRIVES, || second.query_one::<u64>(slots) == 1);
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]), "an ancestor's end was skipped");
    assert!(agent.stop().success());
    // Recovery that looks for the newest timeline asks for one number after another, and stops at the first miss.
    for history in ["00000002.history", "00000003.history"] {
        let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
        command.arg(walkeep.repository()).arg(history).arg(walkeep.scratch().path().join(history));
        Output::of(&mut command).ok();
    }
    second.kill9();
    assert_restored(&walkeep, &expected);
}
scenario!(per_major, a_failover_while_the_agent_is_down);

/// The standby that takes over lacks commits that the agent has: they are kept, told, and restorable on their own.
fn commits_that_the_new_primary_lacks(major: MajorVersion) {
    let mut primary = cluster(major);
    let walkeep = walkeep(&primary);
    let agent = streaming(&walkeep);
    pgbench_init(&primary, 1);
    walkeep.backup(&[]);
    let mut standby = primary.standby();
    standby.wait_caught_up(&primary);
    standby.kill9();
    pgbench_run(&primary, 300, Seed::fixed(38));
    let marker = create_marker(&primary, "lost by the standby");
    let lost = Digest::of(&primary);
    wait_stored(&walkeep, now(&primary));
    primary.kill9();
    standby.start();
    standby.promote();
    pgbench_run(&standby, 50, Seed::fixed(39));
    assert!(agent.stop().success());
    point_at(&walkeep, &standby);
    let agent = streaming(&walkeep);
    let expected = stored_end(&walkeep, &standby);
    let told = status(&walkeep);
    assert_eq!(told["side_branches"][0]["timeline"], 1, "{told}");
    assert!(agent.stop().success());
    drop(standby);
    assert_restored(&walkeep, &expected);
    let restored = walkeep.restore().args(&["--timeline", "1"]).target_lsn(&marker).promoted();
    lost.assert_recovered(&Digest::of(&restored));
}
scenario!([V13, V15, V18], commits_that_the_new_primary_lacks);

/// Five failovers, one right behind the other, the agent following each.
fn rapid_failovers(major: MajorVersion) {
    let mut primary = cluster(major);
    pgbench_init(&primary, 1);
    let walkeep = walkeep(&primary);
    let mut agent = streaming(&walkeep);
    walkeep.backup(&[]);
    for round in 0..5 {
        let standby = primary.standby();
        pgbench_run(&primary, 20, Seed::fixed(40 + round));
        standby.wait_caught_up(&primary);
        primary.kill9();
        standby.promote();
        assert!(agent.stop().success());
        point_at(&walkeep, &standby);
        agent = walkeep.agent();
        primary = standby;
    }
    agent.wait_ready(&walkeep);
    let expected = stored_end(&walkeep, &primary);
    assert_eq!(status(&walkeep)["timeline"], 6);
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    assert!(agent.stop().success());
    drop(primary);
    assert_restored(&walkeep, &expected);
}
scenario!([V14, V17], rapid_failovers);
