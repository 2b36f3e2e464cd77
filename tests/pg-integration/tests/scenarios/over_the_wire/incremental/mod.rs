//! Backups for which the server names the changed blocks: as complete and as right as if it had sent everything.
//!
//! Scenarios that compare files keep autovacuum off, so that nobody writes between the two things compared.

mod chains;
mod changes;
mod parents;
mod random;
mod refusals;
mod summaries;
mod truncation;

use serde_json::Value;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::pgbench_init;
use walkeep_pg_integration::{
    Cluster, ClusterOptions, Digest, MajorVersion, Output, Seed, Walkeep, Workload, scenario, wait_until,
};

use super::WIRE;
use crate::backup_restore::{comes_back, id, statistic};

/// What the agent says when it takes a backup without the server's list.
const EVERYTHING: &str = "the server sends everything:";

/// A cluster whose server summarises its WAL and writes nothing on its own.
fn summarising(major: MajorVersion) -> ClusterOptions {
    Cluster::options(major).setting("summarize_wal", "on").setting("autovacuum", "off")
}

/// Such a cluster with some data, and its repository.
fn with_data(options: ClusterOptions) -> (Cluster, Walkeep, Workload) {
    let cluster = options.create();
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(Seed::take()).rows(1000);
    workload.populate(&cluster);
    (cluster, walkeep, workload)
}

/// A backup over the wire, and what was said about it.
#[track_caller]
fn take(walkeep: &Walkeep) -> (Value, Output) {
    // What was arranged is told only to who wants to hear more.
    let output = walkeep.run(&[&["backup", "--json", "-v"], &WIRE[..]].concat()).ok();
    (output.json(), output)
}

/// A backup of what the server names as changed since `parent`.
#[track_caller]
fn incremental(walkeep: &Walkeep, parent: &Value) -> Value {
    let (backup, output) = take(walkeep);
    assert_eq!((&backup["kind"], &backup["status"]), (&"incremental".into(), &"ok".into()), "{output}");
    assert_eq!(backup["parent"], parent["id"], "{output}");
    assert!(!output.stderr.contains(EVERYTHING), "{output}");
    backup
}

/// A backup of everything, which says that it is one, and why.
#[track_caller]
fn everything(walkeep: &Walkeep, why: &str) -> Value {
    let (backup, output) = take(walkeep);
    assert_eq!((&backup["kind"], &backup["status"]), (&"scan".into(), &"ok".into()), "{output}");
    let said = output.stderr.lines().find(|line| line.contains(EVERYTHING));
    assert!(
        said.is_some_and(|line| line.contains(why)),
        "expected '{why}' behind '{EVERYTHING}' in the output of\n{output}"
    );
    backup
}

/// The newest backup, restored to its own end, is what the server is; nothing was written since. What replay adds is no
/// help: to compare, the server's rows are read, and for the hints that reading sets it logs whole pages.
#[track_caller]
fn the_newest_comes_back(walkeep: &Walkeep, cluster: &Cluster) {
    let expected = Digest::of(cluster);
    cluster.archive_everything();
    walkeep.verify();
    let newest = walkeep.backups().pop().expect("there is one");
    comes_back(walkeep, cluster, &newest, &["--target", "immediate"], &expected);
}

/// Nothing changed, next to nothing is sent and stored; and what is sent grows with what changed.
fn an_unchanged_cluster_costs_next_to_nothing(major: MajorVersion) {
    let cluster = summarising(major).create();
    let walkeep = Walkeep::set_up(&cluster);
    pgbench_init(&cluster, 6);
    let first = walkeep.backup(&WIRE);
    assert_eq!((&first["kind"], &first["parent"]), (&"full_read".into(), &Value::Null), "{first}");
    let second = incremental(&walkeep, &first);
    let third = incremental(&walkeep, &second);
    for backup in [&second, &third] {
        assert!(statistic(backup, "logical_bytes") > 90 << 20, "{backup}");
        assert!(statistic(backup, "read_bytes") < statistic(backup, "logical_bytes") / 10, "{backup}");
        assert!(statistic(backup, "new_bytes") < 1 << 20, "{backup}");
    }
    assert_eq!(statistic(&second, "logical_bytes") / 1000, statistic(&first, "logical_bytes") / 1000, "it is complete");
    cluster.sql("update pgbench_accounts set abalance = 1 where aid % 1000 = 0");
    let fourth = incremental(&walkeep, &third);
    let (before, after) = (statistic(&third, "read_bytes"), statistic(&fourth, "read_bytes"));
    assert!(after > before + 600 * 8192, "{before} bytes were sent without a change, {after} with 600 changed pages");
    let full = walkeep.backup(&[&WIRE[..], &["--full-read"]].concat());
    assert_eq!((&full["kind"], &full["parent"]), (&"full_read".into(), &Value::Null), "{full}");
    the_newest_comes_back(&walkeep, &cluster);
    comes_back(&walkeep, &cluster, &fourth, &["--target", "immediate"], &Digest::of(&cluster));
}
scenario!([V17, V18], an_unchanged_cluster_costs_next_to_nothing);

/// Now and then everything is read, whatever the server says about changes: that is what finds damage at rest.
fn everything_is_read_now_and_then(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
    let first = walkeep.backup(&WIRE);
    workload.churn(&cluster, 2);
    incremental(&walkeep, &first);
    walkeep.configure("schedule", "full_read_every", "1s");
    let taken = first["started"].as_str().expect("backups have a time").to_owned();
    let old = format!("select clock_timestamp() > '{taken}'::timestamptz + interval '3 s'");
    wait_until("the backup that read everything to be old", SOON, || cluster.query_one::<String>(&old) == "t");
    let (third, output) = take(&walkeep);
    assert_eq!(third["kind"], "scan", "{output}");
    walkeep.configure("schedule", "full_read_every", "7d");
    incremental(&walkeep, &third);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V18], everything_is_read_now_and_then);

/// Where the server does not summarise, or cannot, nothing is asked of it; before 17 nothing is said either.
fn without_summaries_everything_is_sent(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    walkeep.backup(&WIRE);
    if major < MajorVersion::V17 {
        let (backup, output) = take(&walkeep);
        assert_eq!(backup["kind"], "scan", "{output}");
        assert!(!output.stderr.contains(EVERYTHING), "{output}");
    } else {
        everything(&walkeep, "summarize_wal");
    }
}
scenario!([V16, V17, V18], without_summaries_everything_is_sent);
