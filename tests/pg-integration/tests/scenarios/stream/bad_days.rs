//! What goes wrong around a stream: each is told once and counted, nothing is lost that was acknowledged, and what can mend
//! itself does.

use walkeep_pg_integration::faults::{SmallDisk, with_failing_call};
use walkeep_pg_integration::walkeep::Agent;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, is_full_run, scenario, wait_until,
};

use super::follows::assert_archive_is;
use super::{
    ARRIVES, assert_restored, cluster, now, position, sparing, status, stored_end, streaming, streaming_by,
    wait_gap_healed, wait_stored, wait_streaming, walkeep,
};

/// Waits until `stream.error` says so, and shows that it is counted and logged once.
#[track_caller]
fn wait_told(walkeep: &Walkeep, agent: &Agent, kind: &str, says: &str) {
    wait_until(&format!("'{says}' to be told"), ARRIVES, || {
        status(walkeep)["error"].as_str().is_some_and(|error| error.contains(says))
    });
    let count = |walkeep: &Walkeep| status(walkeep)["errors"][kind].as_u64().unwrap_or_default();
    let first = count(walkeep);
    assert!(first > 0, "no error of kind {kind} in {}", status(walkeep));
    wait_until("another attempt", ARRIVES, || count(walkeep) > first);
    let lines = agent.log().lines().filter(|line| line.contains(says)).count();
    assert_eq!(lines, 1, "told {lines} times:\n{}", agent.log());
}

fn another_cluster_is_not_taken_from(major: MajorVersion) {
    let (mine, other) = (cluster(major), cluster(major));
    let walkeep = walkeep(&mine);
    walkeep.configure("cluster", "conninfo", other.conninfo());
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    wait_told(&walkeep, &agent, "wrong_cluster", "another cluster answers");
    assert_eq!(other.query_one::<u64>("select count(*) from pg_replication_slots"), 0, "nobody would advance its slot");
    assert!(agent.stop().success());
    walkeep.configure("cluster", "conninfo", mine.conninfo());
    let agent = streaming(&walkeep);
    wait_stored(&walkeep, now(&mine));
    assert!(agent.stop().success());
}
scenario!([V13, V18], another_cluster_is_not_taken_from);

/// No place for a walsender, then no walsenders at all; both are seen by the agent, and by `check` where it can be.
fn a_server_without_room_is_told(major: MajorVersion) {
    let mut cluster = Cluster::options(major)
        .wal_segment_mb(1)
        .setting("max_wal_senders", "0")
        .setting("wal_level", "minimal")
        .setting("archive_mode", "off")
        .create();
    let walkeep = walkeep(&cluster);
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    wait_told(&walkeep, &agent, "refused", "max_wal_senders");
    let report = walkeep.run(&["check", "--json"]).expect_code(10).json();
    let problems = report["findings"].as_array().expect("a list");
    assert!(problems.iter().any(|f| f["subject"] == "max_wal_senders" && f["severity"] == "problem"), "{report}");
    cluster.sql("alter system set wal_level = 'replica'; ");
    cluster.sql("alter system set max_wal_senders = 3");
    cluster.restart();
    // The agent needs no restart.
    wait_streaming(&walkeep);
    wait_stored(&walkeep, now(&cluster));
    assert!(agent.stop().success());
}
scenario!([V14, V17], a_server_without_room_is_told);

/// A slot that is dropped comes back; one that the server has invalidated is replaced, the loss told, and a new base backup
/// taken by itself, from which everything later can be restored.
fn a_lost_slot_is_replaced_and_a_gap_healed(major: MajorVersion) {
    let (cluster, walkeep, agent) = sparing(major);
    let slots = || cluster.query_one::<u64>("select count(*) from pg_replication_slots where slot_name = 'walkeep'");
    wait_until("the slot", ARRIVES, || slots() == 1);
    cluster.sql("select pg_drop_replication_slot('walkeep')");
    wait_until("the slot again", ARRIVES, || slots() == 1);
    pgbench_init(&cluster, 1);
    wait_stored(&walkeep, now(&cluster));
    wait_until("the slot to follow", ARRIVES, || {
        status(&walkeep)["slot"]["retained_bytes"].as_u64().is_some_and(|bytes| bytes <= 2 << 20)
    });
    assert!(agent.stop().success());

    cluster.set("max_slot_wal_keep_size", "1MB");
    let lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = 'walkeep'";
    wait_until("the slot to be lost", ARRIVES, || {
        cluster.sql("select pg_create_restore_point('filler'), pg_switch_wal()");
        cluster.sql("checkpoint");
        cluster.query_one::<String>(lost) == "t"
    });
    cluster.set("max_slot_wal_keep_size", "-1");
    let agent = walkeep.agent();
    wait_gap_healed(&walkeep);
    wait_until("a slot that keeps WAL", ARRIVES, || cluster.query_one::<String>(lost) == "f");
    pgbench_run(&cluster, 50, Seed::fixed(71));
    let expected = stored_end(&walkeep, &cluster);
    let told = status(&walkeep)["gaps"].clone();
    let report = walkeep.json(&["check"]);
    let findings = report["findings"].as_array().expect("a list");
    // Healed, and still to be known by whoever restores.
    assert!(findings.iter().any(|f| f["subject"] == "lost WAL" && f["severity"] == "warning"), "{report}");
    assert!(agent.stop().success());
    // Behind the new backup nobody would find it again.
    let agent = streaming(&walkeep);
    assert_eq!(status(&walkeep)["gaps"], told);
    assert!(agent.stop().success());
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V13, V15, V18], a_lost_slot_is_replaced_and_a_gap_healed);

/// The agent's disk is full: PostgreSQL goes on and keeps its WAL, and the agent goes on by itself when there is room.
fn a_full_disk_passes(major: MajorVersion) {
    let disk = SmallDisk::mount(12 << 20);
    let cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    walkeep.configure("state", "dir", disk.path().display().to_string());
    // Room for a socket and a lock, not for a segment.
    disk.fill_up_to(300 << 10);
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    pgbench_init(&cluster, 1);
    pgbench_run(&cluster, 300, Seed::fixed(72));
    wait_told(&walkeep, &agent, "disk", "No space left");
    disk.relieve();
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
}
scenario!([V16], a_full_disk_passes);

/// A sync that fails is not repeated and nothing is reported for it: what it covered is received again, into a new file.
fn a_failed_fsync_is_never_acknowledged(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    walkeep.configure("stream", "synchronous", true);
    let command = with_failing_call(&walkeep.command(&["agent"]), "fdatasync", 20, "EIO");
    let agent = streaming_by(&walkeep, command);
    cluster.set("synchronous_standby_names", "walkeep");
    cluster.sql("create table acknowledged (id bigint)");
    for id in 0..30 {
        cluster.sql(&format!("insert into acknowledged values ({id})"));
    }
    (0..6).for_each(|_| drop(cluster.switch_wal()));
    wait_until("the failure", ARRIVES, || status(&walkeep)["errors"]["fsync"].as_u64() > Some(0));
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    cluster.set("synchronous_standby_names", "");
    agent.kill9();
    let spool = walkeep.state_dir().join("stream/main");
    let kept = std::fs::read_dir(spool).expect("the spool is there").flatten();
    let aside = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("unsynced-")).count();
    assert!(aside > 0, "the file that could not be made durable is used again");
    assert_archive_is(&walkeep, &cluster, &last);
}
scenario!([V17], a_failed_fsync_is_never_acknowledged);

/// The server's patience is a second: an idle stream and one whose disk is slow both live on.
fn an_impatient_server_is_answered(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_sender_timeout", "1s");
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    let one = "select count(*) from pg_stat_replication where application_name = 'walkeep_async' \
               and now() - backend_start > interval '5 s'";
    wait_until("the same walsender after five timeouts", ARRIVES, || cluster.query_one::<u64>(one) == 1);
    assert!(agent.stop().success());
    // Every write takes 300 ms: what is received waits, the answers do not.
    let mut command = walkeep_pg_integration::user::TestUser::get().command("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
    command.args(["inject=fdatasync:delay_enter=300000", "--"]);
    let plain = walkeep.command(&["agent"]);
    command.arg(plain.get_program()).args(plain.get_args());
    let agent = streaming_by(&walkeep, command);
    pgbench_init(&cluster, 1);
    wait_until("the same walsender after five timeouts", ARRIVES, || cluster.query_one::<u64>(one) == 1);
    wait_stored(&walkeep, now(&cluster));
    agent.kill9();
}
scenario!([V13, V18], an_impatient_server_is_answered);

/// How many segments are ended.
fn switches() -> usize {
    if is_full_run() { 2000 } else { 200 }
}

/// Settings that change while WAL comes in are told inside the stream; many small segments keep it busy.
fn reloads_and_switches_disturb_nothing(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "2GB");
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    let since = status(&walkeep)["since"].clone();
    let session = cluster.session("postgres");
    for round in 0..switches() {
        session.sql("select pg_create_restore_point('switch'), pg_switch_wal()");
        if round % 20 == 0 {
            cluster.set("timezone", if round % 40 == 0 { "Europe/Berlin" } else { "UTC" });
        }
    }
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    assert_eq!(status(&walkeep)["since"], since, "the stream broke");
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
}
scenario!([V13, V18], reloads_and_switches_disturb_nothing);

/// Segments of the usual size: nearly all scenarios have the smallest, so that they see many.
fn the_usual_segments(major: MajorVersion) {
    let cluster = Cluster::options(major).setting("wal_keep_size", "1GB").create();
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    (0..5).for_each(|_| drop(cluster.switch_wal()));
    pgbench_run(&cluster, 100, Seed::fixed(74));
    let last = cluster.switch_wal();
    let expected = stored_end(&walkeep, &cluster);
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V13, V18], the_usual_segments);

/// Segments of a gigabyte: the open one's tail is what counts for a long time.
fn the_largest_segments(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1024).setting("max_wal_size", "4GB").create();
    let walkeep = walkeep(&cluster);
    walkeep.archive_from(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.configure("limits", "archive_timeout", 300);
    walkeep.backup(&[]);
    pgbench_run(&cluster, 100, Seed::fixed(75));
    let expected = stored_end(&walkeep, &cluster);
    assert!(agent.stop().success());
    drop(cluster);
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!([V17], the_largest_segments);

/// One agent for a cluster's state, and nothing that the second does harms the first.
fn two_agents_do_not_meet(major: MajorVersion) {
    let mut cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    let mut agent = streaming(&walkeep);
    let mut second = walkeep.agent();
    assert_eq!(second.wait_exit(ARRIVES).code(), Some(7));
    assert!(agent.is_running());
    let before = position(&walkeep, "flushed_lsn");
    pgbench_init(&cluster, 1);
    wait_stored(&walkeep, now(&cluster));
    assert!(position(&walkeep, "flushed_lsn") > before);
    // A server that is away is waited for.
    cluster.stop(StopMode::Fast);
    wait_until("the outage to be told", ARRIVES, || status(&walkeep)["streaming"] == false);
    cluster.start();
    wait_streaming(&walkeep);
    assert!(agent.stop().success());
}
scenario!([V16], two_agents_do_not_meet);

/// Two agents with repositories of their own would advance one slot past what the other needs: the second one keeps away.
fn a_slot_has_one_agent(major: MajorVersion) {
    let cluster = cluster(major);
    let (one, two) = (walkeep(&cluster), walkeep(&cluster));
    let first = streaming(&one);
    wait_until("a slot", ARRIVES, || status(&one)["slot"]["restart_lsn"].is_string());
    let second = streaming(&two);
    let error = || status(&two)["slot"]["error"].as_str().unwrap_or_default().to_owned();
    wait_until("the second agent to keep away", ARRIVES, || {
        error().contains("another agent looks after it, as server")
    });
    pgbench_init(&cluster, 1);
    wait_stored(&two, now(&cluster));
    assert!(status(&one)["slot"]["error"].is_null());
    let found = two.run(&["check"]).stdout;
    assert!(found.contains("slot 'walkeep' is not looked after"), "{found}");
    // It takes over as soon as the first is gone.
    assert!(first.stop().success());
    wait_until("the second agent to look after it", ARRIVES, || status(&two)["slot"]["error"].is_null());
    assert!(second.stop().success());
}
scenario!([V13, V18], a_slot_has_one_agent);
