//! Base backups that the agent takes by itself.

use std::time::Duration;

use serde_json::Value;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{MajorVersion, Seed, StopMode, Walkeep, scenario, wait_until};

use super::{cluster, streaming, walkeep};

const TAKEN: Duration = Duration::from_secs(120);

fn schedule(walkeep: &Walkeep) -> Value {
    walkeep.json(&["status"])["schedule"].take()
}

fn wait_backups(walkeep: &Walkeep, count: usize) {
    wait_until(&format!("{count} backups"), TAKEN, || walkeep.backups().len() >= count);
}

/// The first at once, another after enough WAL, another after a timeline switch; each says why.
fn backups_are_taken_when_they_are_due(major: MajorVersion) {
    let mut primary = cluster(major);
    pgbench_init(&primary, 1);
    let walkeep = walkeep(&primary);
    walkeep.configure("schedule", "max_wal", "8MiB");
    walkeep.configure("schedule", "base_backup", "0 3 1 1 *");
    let agent = streaming(&walkeep);
    wait_backups(&walkeep, 1);
    wait_until("the first run's end", TAKEN, || schedule(&walkeep)["last"]["result"]["state"] == "ok");
    assert_eq!(schedule(&walkeep)["last"]["reason"]["kind"], "first_backup");
    assert_eq!(walkeep.backups()[0]["notes"]["schedule"], "first_backup");
    assert!(schedule(&walkeep)["next"]["at"].is_string(), "{}", schedule(&walkeep));

    pgbench_init(&primary, 2);
    wait_backups(&walkeep, 2);
    wait_until("a run for WAL", TAKEN, || {
        let last = &schedule(&walkeep)["last"];
        last["reason"]["kind"] == "max_wal" && last["result"]["state"] == "ok"
    });
    let listed = walkeep.json(&["list"])["schedule"].take();
    assert_eq!(listed["history"], schedule(&walkeep)["history"]);
    let list = walkeep.run(&["list"]).ok();
    list.assert_says("ok: ");
    list.assert_says("(there is no base backup yet)");
    list.assert_says("(max_wal: reached since the newest base backup");

    let standby = primary.standby();
    pgbench_run(&primary, 20, Seed::fixed(61));
    standby.wait_caught_up(&primary);
    primary.stop(StopMode::Fast);
    standby.promote();
    assert!(agent.stop().success());
    walkeep.configure("cluster", "conninfo", standby.conninfo());
    walkeep.configure("cluster", "pgdata", standby.data().display().to_string());
    let agent = streaming(&walkeep);
    let on_two = |walkeep: &Walkeep| walkeep.backups().iter().any(|backup| backup["timeline"] == 2);
    wait_until("a backup of timeline 2", TAKEN, || on_two(&walkeep));
    let runs = schedule(&walkeep)["history"].as_array().expect("a list").clone();
    assert!(runs.iter().any(|run| run["reason"]["kind"] == "timeline_switch"), "{runs:?}");
    assert!(agent.stop().success());
}
scenario!([V14, V18], backups_are_taken_when_they_are_due);

/// A backup under way ends with the agent, and is taken by the next one.
fn an_agent_that_dies_is_succeeded(major: MajorVersion) {
    let cluster = cluster(major);
    pgbench_init(&cluster, 3);
    let walkeep = walkeep(&cluster);
    walkeep.configure("schedule", "max_age", "7d");
    walkeep.configure("limits", "read_rate", "256KiB");
    let agent = streaming(&walkeep);
    wait_until("a backup to run", TAKEN, || schedule(&walkeep)["running"].is_object());
    agent.kill9();
    walkeep.configure("limits", "read_rate", "1GiB");
    let agent = streaming(&walkeep);
    wait_backups(&walkeep, 1);
    wait_until("the run's end", TAKEN, || schedule(&walkeep)["last"]["result"]["state"] == "ok");
    let runs = schedule(&walkeep)["history"].as_array().expect("a list").clone();
    assert!(runs.iter().any(|run| run["result"]["state"] == "interrupted"), "{runs:?}");
    assert!(agent.stop().success());
}
scenario!([V16], an_agent_that_dies_is_succeeded);
