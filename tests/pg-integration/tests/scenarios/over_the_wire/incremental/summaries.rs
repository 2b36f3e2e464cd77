//! Summaries that are missing, late, or not for everybody.

use serde_json::Value;
use walkeep_pg_integration::faults::Frozen;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{Cluster, MajorVersion, Output, StopMode, Walkeep, scenario, wait_until};

use super::{everything, incremental, summarising, the_newest_comes_back, with_data};
use crate::backup_faults::{ending_of, spawned};

/// Has the server remove WAL that nobody has summarised.
#[track_caller]
fn lose_wal(cluster: &Cluster) {
    let first = cluster.archive_everything();
    let there = format!("select count(*) from pg_ls_waldir() where name = '{first}'");
    // A segment goes, or gets another name, when two checkpoints have begun behind it and it is archived.
    wait_until("old WAL to be removed", SOON, || {
        cluster.archive_everything();
        cluster.sql("checkpoint");
        cluster.query_one::<u32>(&there) == 0
    });
}

/// Waits until the server has summarised what it had written when this was called.
#[track_caller]
pub fn wait_summarised(cluster: &Cluster) {
    cluster.sql("checkpoint");
    let redo: String = cluster.query_one("select redo_lsn from pg_control_checkpoint()");
    let reached = format!("select coalesce(max(end_lsn) >= '{redo}', false) from pg_available_wal_summaries()");
    wait_until("summaries", SOON, || cluster.query_one::<String>(&reached) == "t");
}

/// A backup right after a hole in the summaries is whole; the one behind it is of the changes again.
#[track_caller]
fn a_hole_is_jumped(cluster: &Cluster, walkeep: &Walkeep, why: &str) -> Value {
    cluster.sql("update btree_rows set amount = amount + 1 where id % 10 = 0");
    wait_summarised(cluster);
    let whole = everything(walkeep, why);
    cluster.sql("delete from hash_rows where value % 10 = 0");
    let next = incremental(walkeep, &whole);
    the_newest_comes_back(walkeep, cluster);
    next
}

fn holes_in_the_summaries_are_noticed(major: MajorVersion) {
    let options = summarising(major).wal_segment_mb(1).setting("max_wal_size", "8MB").setting("min_wal_size", "2MB");
    let (cluster, walkeep, mut workload) = with_data(options);
    walkeep.backup(&super::WIRE);
    cluster.set("summarize_wal", "off");
    workload.churn(&cluster, 10);
    everything(&walkeep, "summarize_wal");
    workload.churn(&cluster, 10);
    lose_wal(&cluster);
    cluster.set("summarize_wal", "on");
    a_hole_is_jumped(&cluster, &walkeep, "summar");
    // Files that somebody has removed.
    workload.churn(&cluster, 10);
    wait_summarised(&cluster);
    for entry in std::fs::read_dir(cluster.data().join("pg_wal/summaries")).expect("it is there") {
        std::fs::remove_file(entry.expect("it can be listed").path()).expect("it is the server's");
    }
    a_hole_is_jumped(&cluster, &walkeep, "summar");
}
scenario!([V17, V18], holes_in_the_summaries_are_noticed);

/// With `wal_level = minimal`, whole tables are written without WAL: no summary covers such a time.
fn a_time_without_wal_is_noticed(major: MajorVersion) {
    let (mut cluster, walkeep, _) = with_data(summarising(major));
    walkeep.backup(&super::WIRE);
    let levels = [
        [("wal_level", "minimal"), ("max_wal_senders", "0"), ("archive_mode", "off"), ("summarize_wal", "off")],
        [("wal_level", "replica"), ("max_wal_senders", "10"), ("archive_mode", "on"), ("summarize_wal", "on")],
    ];
    for settings in levels {
        cluster.stop(StopMode::Fast);
        settings.into_iter().for_each(|(name, value)| cluster.command_line(name, value));
        cluster.start();
        cluster.sql("create table if not exists unlogged_in_fact (i int)");
        cluster.sql(
            "begin; truncate unlogged_in_fact; insert into unlogged_in_fact select generate_series(1, 20000); commit",
        );
    }
    a_hole_is_jumped(&cluster, &walkeep, "summar");
}
scenario!([V17, V18], a_time_without_wal_is_noticed);

/// Stops the process that summarises in its tracks.
pub fn frozen_summariser(cluster: &Cluster) -> Frozen {
    let pid = "select pid from pg_stat_activity where backend_type = 'walsummarizer'";
    Frozen::freeze(cluster.query_one(pid))
}

/// A backup that begins while summaries are late, and ends when they are there again.
#[track_caller]
pub fn taken_across(frozen: Frozen, walkeep: &Walkeep, cluster: &Cluster) -> Output {
    let child = spawned(walkeep, &["backup", "--json", "-v", "--source", "replication"]);
    wait_until("the server to wait for a summary", SOON, || {
        let waits = "select count(*) from pg_stat_activity where wait_event = 'WalSummaryReady'";
        cluster.query_one::<u32>(waits) == 1
    });
    drop(frozen);
    ending_of(child).ok()
}

/// Late summaries are waited for.
fn late_summaries_are_waited_for(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    let first = walkeep.backup(&super::WIRE);
    let frozen = frozen_summariser(&cluster);
    workload.churn(&cluster, 20);
    let output = taken_across(frozen, &walkeep, &cluster);
    let backup = output.json();
    assert_eq!((&backup["kind"], &backup["parent"]), (&"incremental".into(), &first["id"]), "{output}");
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], late_summaries_are_waited_for);

/// Summaries that never come are given up, by the server after a minute: one major is enough.
fn summaries_that_never_come_are_given_up(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major));
    walkeep.backup(&super::WIRE);
    let frozen = frozen_summariser(&cluster);
    workload.churn(&cluster, 10);
    let whole = everything(&walkeep, "WAL summarization is not progressing");
    drop(frozen);
    workload.churn(&cluster, 10);
    incremental(&walkeep, &whole);
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V18], summaries_that_never_come_are_given_up);

/// A role from which somebody has taken the right to read summaries.
fn rights_to_read_summaries(major: MajorVersion) {
    let (cluster, walkeep, mut workload) = with_data(summarising(major).wal_segment_mb(1));
    cluster.let_in(&["local all,replication all trust"]);
    cluster.sql("create role keeper login replication");
    cluster.sql("grant pg_monitor to keeper");
    for function in ["pg_create_restore_point(text)", "pg_switch_wal()"] {
        cluster.sql(&format!("grant execute on function {function} to keeper"));
    }
    walkeep.configure("cluster", "conninfo", cluster.conninfo().replace("user=postgres", "user=keeper"));
    let first = walkeep.backup(&super::WIRE);
    workload.churn(&cluster, 5);
    let second = incremental(&walkeep, &first);
    for function in ["pg_available_wal_summaries()", "pg_wal_summary_contents(bigint, pg_lsn, pg_lsn)"] {
        cluster.sql(&format!("revoke execute on function {function} from public"));
        workload.churn(&cluster, 2);
        everything(&walkeep, "permission denied");
        cluster.sql(&format!("grant execute on function {function} to public"));
    }
    let newest = walkeep.backups().pop().expect("there are some");
    assert_ne!(newest["id"], second["id"]);
    incremental(&walkeep, &newest);
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    the_newest_comes_back(&walkeep, &cluster);
}
scenario!([V17, V18], rights_to_read_summaries);
