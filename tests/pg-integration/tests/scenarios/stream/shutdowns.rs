//! A primary that is shut down does not wait for the agent, whatever the agent waits for.

use std::time::{Duration, Instant};

use walkeep_pg_integration::faults::ReadOnly;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, MajorVersion, Seed, StopMode, scenario, wait_until};

use super::{ARRIVES, cluster, now, status, streaming, wait_stored, walkeep};

/// Stops the server, and prints how long that took: under 2 s is the aim, which a busy machine may miss. `wal_sender_timeout`
/// is 60 s, and a walsender that waits for the agent holds the shutdown up that long.
#[track_caller]
pub fn stop(cluster: &mut Cluster, mode: StopMode) {
    let begun = Instant::now();
    cluster.stop_within(mode, Duration::from_secs(20));
    eprintln!("measured: {mode:?} shutdown of PostgreSQL {} took {} ms", cluster.major(), begun.elapsed().as_millis());
}

/// The agent is there again when the server is back.
fn a_shutdown_does_not_wait(major: MajorVersion) {
    let mut cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    let mut agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    for mode in [StopMode::Fast, StopMode::Immediate] {
        stop(&mut cluster, mode);
        cluster.start();
        pgbench_run(&cluster, 50, Seed::fixed(23));
        wait_stored(&walkeep, now(&cluster));
        assert!(agent.is_running());
    }
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    assert!(agent.stop().success());
}
scenario!(per_major, a_shutdown_does_not_wait);

/// The repository takes nothing, and what was streamed waits in the spool: not the server's matter.
fn a_repository_that_is_closed_holds_nobody_up(major: MajorVersion) {
    let mut cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    for _ in 0..2 {
        let closed = ReadOnly::close(walkeep.repository_dir());
        pgbench_init(&cluster, 1);
        wait_until("the repository to be found closed", ARRIVES, || status(&walkeep)["storing_error"].is_string());
        stop(&mut cluster, StopMode::Fast);
        closed.reopen();
        cluster.start();
        wait_stored(&walkeep, now(&cluster));
    }
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    assert!(agent.stop().success());
}
scenario!([V13, V18], a_repository_that_is_closed_holds_nobody_up);
