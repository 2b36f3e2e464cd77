//! What the server is told to be safe is safe: on this disk for commits that wait, in the repository for its slot.

use walkeep_pg_integration::faults::{ReadOnly, with_failing_call};
use walkeep_pg_integration::walkeep::Agent;
use walkeep_pg_integration::{MajorVersion, scenario, wait_until};

use super::{ARRIVES, cluster, now, position, status, streaming, wait_stored, walkeep};

/// The disk takes everything and makes nothing durable: a commit waits as long as that lasts.
fn nothing_is_acknowledged_that_is_not_durable(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    cluster.sql("create table acknowledged (id bigint)");
    let walkeep = walkeep(&cluster);
    walkeep.configure("stream", "synchronous", true);
    // Each connection has a thread of its own that syncs: its first call fails, and it gives up.
    let mut agent = Agent::run(&walkeep, with_failing_call(&walkeep.command(&["agent"]), "fdatasync", 1, "EIO"));
    agent.wait_ready(&walkeep);
    let failures = || status(&walkeep)["errors"]["fsync"].as_u64().unwrap_or_default();
    wait_until("a failure", ARRIVES, || failures() > 0);
    cluster.set("synchronous_standby_names", "walkeep");
    let session = cluster.session("postgres");
    let commit = std::thread::spawn(move || session.try_sql("insert into acknowledged values (1)").is_ok());
    let waits = || {
        cluster.query_one::<u64>(
            "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query ~ '^insert'",
        ) == 1
    };
    wait_until("the commit to wait", ARRIVES, waits);
    let before = failures();
    wait_until("further attempts", ARRIVES, || failures() >= before + 3);
    assert!(waits(), "a commit was acknowledged that is durable nowhere");
    agent.kill9();
    let agent = streaming(&walkeep);
    assert!(commit.join().expect("the commit ends"), "it failed");
    wait_stored(&walkeep, now(&cluster));
    assert!(agent.stop().success());
}
scenario!([V13, V17], nothing_is_acknowledged_that_is_not_durable);

/// The repository takes nothing for a while: what is durable here alone stays on the server too.
fn the_slot_keeps_what_the_repository_lacks(major: MajorVersion) {
    let cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    wait_stored(&walkeep, now(&cluster));
    let closed = ReadOnly::close(walkeep.repository_dir());
    (0..8).for_each(|_| drop(cluster.switch_wal()));
    wait_until("segments to wait", ARRIVES, || status(&walkeep)["waiting_bytes"].as_u64() >= Some(7 << 20));
    let retained = || status(&walkeep)["slot"]["retained_bytes"].as_u64();
    wait_until("the slot to be looked at with them", ARRIVES, || retained() >= Some(7 << 20));
    assert!(position(&walkeep, "archived_lsn") < position(&walkeep, "flushed_lsn"));
    closed.reopen();
    wait_stored(&walkeep, now(&cluster));
    wait_until("the slot to follow", ARRIVES, || retained() <= Some(2 << 20));
    assert!(agent.stop().success());
}
scenario!([V14, V18], the_slot_keeps_what_the_repository_lacks);
