//! PostgreSQL 18 gives up slots that nobody streams from, and the agent streams beside its slot.

use walkeep_pg_integration::walkeep::Agent;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, MajorVersion, Seed, Walkeep, scenario, wait_until};

use super::{ARRIVES, assert_restored, now, sparing, status, stored_end, wait_gap_healed, wait_stored};

const WHY: &str = "select coalesce(invalidation_reason, '') from pg_replication_slots where slot_name = 'walkeep'";

/// Waits until the server gives the slot up. That happens at checkpoints, when nobody has touched it for a second.
fn wait_given_up(cluster: &Cluster) {
    cluster.set("idle_replication_slot_timeout", "1s");
    wait_until("the slot to be given up", ARRIVES, || {
        cluster.sql("checkpoint");
        cluster.query(WHY) == [[Some("idle_timeout".to_owned())]]
    });
    cluster.set("idle_replication_slot_timeout", "0");
}

/// Waits until a slot keeps WAL again.
fn wait_kept(cluster: &Cluster, walkeep: &Walkeep) {
    wait_until("a slot that keeps WAL", ARRIVES, || cluster.query(WHY) == [[Some(String::new())]]);
    wait_until("that to be known", ARRIVES, || {
        let slot = &status(walkeep)["slot"];
        slot["wal_status"] == "reserved" && slot["error"].is_null()
    });
}

fn times_told(agent: &Agent) -> usize {
    agent.log().lines().filter(|line| line.contains("slot 'walkeep' is lost")).count()
}

/// While WAL comes in, no WAL is lost with the slot, and nothing but a new slot is needed. When the agent was away and the
/// server went on without that WAL, there is a gap, and a new base backup heals it.
fn a_slot_that_timed_out_is_replaced(major: MajorVersion) {
    let (cluster, walkeep, agent) = sparing(major);
    pgbench_init(&cluster, 1);
    wait_stored(&walkeep, now(&cluster));
    wait_given_up(&cluster);
    wait_until("the loss to be counted", ARRIVES, || status(&walkeep)["errors"]["slot_lost"] == 1);
    wait_kept(&cluster, &walkeep);
    assert_eq!(times_told(&agent), 1, "{}", agent.log());
    pgbench_run(&cluster, 200, Seed::fixed(76));
    wait_stored(&walkeep, now(&cluster));
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]), "nothing was lost");
    assert_eq!(walkeep.backups().len(), 1, "nothing needed to be healed");
    assert!(agent.stop().success());

    wait_given_up(&cluster);
    (0..8).for_each(|_| drop(cluster.switch_wal()));
    cluster.sql("checkpoint");
    (0..8).for_each(|_| drop(cluster.switch_wal()));
    cluster.sql("checkpoint");
    let agent = walkeep.agent();
    eprintln!("{}", status(&walkeep)["gaps"]);
    wait_gap_healed(&walkeep);
    wait_kept(&cluster, &walkeep);
    pgbench_run(&cluster, 50, Seed::fixed(77));
    let expected = stored_end(&walkeep, &cluster);
    assert_eq!(status(&walkeep)["gaps"].as_array().map(Vec::len), Some(1), "{}", status(&walkeep));
    assert!(agent.stop().success());
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V18], a_slot_that_timed_out_is_replaced);
