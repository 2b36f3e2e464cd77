//! An agent on another host: it has a connection to the server and a way to the repository, and nothing of the server's
//! host.

use std::path::Path;

use serde_json::Value;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, Walkeep, amcheck, create_marker, scenario, wait_until,
};

use super::synchronous::{make_synchronous, wait_synchronous};
use super::{ARRIVES, now, position, status, streaming, wait_stored, walkeep};

/// Walkeep with directories of its own that reaches the server over TCP and shares the repository of `there`, the server's
/// host. Where the data directory is it does not know.
fn elsewhere(cluster: &Cluster, there: &Walkeep) -> Walkeep {
    let here = Walkeep::new(cluster).repository_at(there.repository());
    let conninfo = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", cluster.port());
    here.configure("cluster", "conninfo", conninfo);
    here.configure("repository", "path", there.repository_dir().display().to_string());
    here.configure("state", "dir", here.state_dir().display().to_string());
    here.configure("stream", "tail_interval", "200ms");
    here
}

fn findings(output: &Output) -> Vec<Value> {
    output.json()["findings"].as_array().expect("a list").clone()
}

/// `check` says what cannot be done from here, and looks at everything else.
#[track_caller]
fn assert_check_is_sensible(walkeep: &Walkeep, says: &str) {
    let output = walkeep.run(&["check", "--json"]).expect_code(10);
    let found = findings(&output);
    let problems: Vec<&Value> = found.iter().filter(|finding| finding["severity"] == "problem").collect();
    assert!(
        problems.iter().any(|finding| finding["text"].as_str().is_some_and(|text| text.contains(says))),
        "{output}"
    );
    for subject in ["stream role", "replication"] {
        assert!(found.iter().any(|f| f["subject"] == subject && f["severity"] == "ok"), "{subject} in {output}");
    }
}

/// The agent is the synchronous standby. The server's host is lost with all it had: nothing that was committed is.
fn the_servers_host_is_lost(major: MajorVersion) {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "64MB").initdb();
    cluster.listen();
    cluster.start();
    // Base backups are taken on the server's host.
    let there = walkeep(&cluster);
    let here = elsewhere(&cluster, &there);
    here.configure("stream", "synchronous", true);
    // Base backups could come over the wire; nobody brings WAL yet.
    assert_check_is_sensible(&here, "does not call walkeep archive-push");
    here.configure("cluster", "pgdata", "/where/the/server/is");
    assert_check_is_sensible(&here, "/where/the/server/is");
    let agent = streaming(&here);
    make_synchronous(&cluster);
    wait_synchronous(&cluster);
    pgbench_init(&cluster, 1);
    there.backup(&[]);
    pgbench_run(&cluster, 200, Seed::fixed(97));
    wait_stored(&here, now(&cluster));
    here.run(&["status"]).ok().assert_says("stream");
    assert!(position(&here, "flushed_lsn") >= position(&here, "archived_lsn"));
    wait_until("the slot to be looked after", ARRIVES, || status(&here)["slot"]["wal_status"] == "reserved");
    assert_eq!(status(&here)["error"], Value::Null);
    // There is nothing to be backed up here, and that is said.
    here.run(&["backup"]).expect_code(1).assert_says("/where/the/server/is");

    create_marker(&cluster, "the last commit");
    let expected = Digest::of(&cluster);
    cluster.kill9();
    std::fs::remove_dir_all(cluster.data()).expect("the data directory is there");
    std::fs::remove_dir_all(there.state_dir()).expect("the state directory is there");
    std::fs::remove_file(there.config()).expect("the configuration is there");
    assert!(agent.stop().success());
    here.verify();
    // Nobody streams from the new server yet.
    let restored = here.restore().command_line("synchronous_standby_names", "").promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
    assert!(!Path::new("/where/the/server/is").exists());
}
scenario!([V13, V15, V18], the_servers_host_is_lost);
