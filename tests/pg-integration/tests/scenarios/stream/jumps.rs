//! Timelines that come and go unseen: many at once, and one that ends exactly where the agent goes on.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use walkeep_pg_integration::faults::{Frozen, Meddling, ObjectKind, Relay, objects};
use walkeep_pg_integration::user::write_file;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, create_marker, scenario, wait_until,
};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::follows::assert_archive_is;
use super::{ARRIVES, assert_restored, cluster, now, position, status, streaming, wait_stored, walkeep};

/// The server dies, and recovers onto a timeline of its own.
fn begin_a_timeline(cluster: &mut Cluster) {
    cluster.kill9();
    write_file(&cluster.data().join("standby.signal"), "");
    cluster.start();
    cluster.promote();
}

/// The name of a history or of a WAL object begins with its timeline.
fn timeline_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy()[..8].to_owned()).unwrap_or_default()
}

/// Recovery that meets a segment of a timeline needs the histories of that timeline and of all before it.
fn assert_histories_came_first(walkeep: &Walkeep, timelines: &[&str]) {
    let written = |path: &Path| -> SystemTime {
        fs::metadata(path).and_then(|metadata| metadata.modified()).expect("it was listed just now")
    };
    let repository = walkeep.repository_dir();
    let histories = objects(repository, ObjectKind::History);
    let names: Vec<String> = histories.iter().map(|path| timeline_of(path)).collect();
    assert_eq!(names, timelines);
    let mut wal = objects(repository, ObjectKind::Wal);
    wal.extend(objects(repository, ObjectKind::WalTails));
    for segment in &wal {
        for history in histories.iter().filter(|history| timeline_of(history) <= timeline_of(segment)) {
            assert!(written(history) <= written(segment), "{} before {}", segment.display(), history.display());
        }
    }
}

/// What the archive has is what the last server wrote, and it restores.
fn assert_all_is_there(walkeep: &Walkeep, cluster: Cluster, last: &str, expected: &Digest) {
    assert_archive_is(walkeep, &cluster, last);
    assert_histories_came_first(walkeep, &["00000002", "00000003", "00000004"]);
    walkeep.verify();
    drop(cluster);
    assert_restored(walkeep, expected);
}

/// The agent stands still while the server goes from timeline 1 to 4: its connection is dead when it wakes up, and what it
/// knew of the server is old.
fn from_one_to_four_behind_the_agents_back(major: MajorVersion) {
    let mut cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    let frozen = Frozen::freeze(agent.pid().expect("the agent runs"));
    for round in 0..3 {
        pgbench_run(&cluster, 100, Seed::fixed(80 + round));
        // Each timeline has segments of its own, and ends within one.
        cluster.switch_wal();
        cluster.switch_wal();
        pgbench_run(&cluster, 20, Seed::fixed(90 + round));
        begin_a_timeline(&mut cluster);
    }
    drop(frozen);
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    let last = cluster.switch_wal();
    wait_until("timeline 4", ARRIVES, || status(&walkeep)["timeline"] == 4);
    wait_stored(&walkeep, now(&cluster));
    let told = status(&walkeep);
    assert_eq!((&told["gaps"], &told["side_branches"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(agent.stop().success());
    assert_all_is_there(&walkeep, cluster, &last, &expected);
}
scenario!(per_major, from_one_to_four_behind_the_agents_back);

/// The agent is down. Its archive is restored to an earlier moment, which begins timeline 2 before the end of what was
/// archived of 1; two more follow.
fn from_one_to_four_by_way_of_the_past(major: MajorVersion) {
    let primary = cluster(major);
    let walkeep = walkeep(&primary);
    let agent = streaming(&walkeep);
    pgbench_init(&primary, 1);
    walkeep.backup(&[]);
    pgbench_run(&primary, 50, Seed::fixed(81));
    let marker = create_marker(&primary, "before the mistake");
    pgbench_run(&primary, 300, Seed::fixed(82));
    wait_stored(&walkeep, now(&primary));
    assert!(agent.stop().success());
    drop(primary);
    let mut cluster = walkeep
        .restore()
        .target_name(&marker)
        .command_line("archive_mode", "on")
        .command_line("wal_keep_size", "1GB")
        .promoted();
    // Its next recovery is to know nothing of this one.
    cluster.sql("alter system reset all");
    for round in 0..2 {
        pgbench_run(&cluster, 100, Seed::fixed(83 + round));
        cluster.switch_wal();
        begin_a_timeline(&mut cluster);
    }
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    walkeep.configure("cluster", "pgdata", cluster.data().display().to_string());
    let agent = streaming(&walkeep);
    pgbench_run(&cluster, 100, Seed::fixed(85));
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    (0..3).for_each(|_| drop(cluster.switch_wal()));
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    let told = status(&walkeep);
    assert_eq!((&told["timeline"], &told["gaps"]), (&4.into(), &serde_json::json!([])));
    // What was archived of timeline 1 behind the marker is no loss, but nobody goes on from there: that is told.
    assert_eq!(told["side_branches"][0]["timeline"], 1, "{told}");
    assert!(agent.stop().success());
    assert_all_is_there(&walkeep, cluster, &last, &expected);
}
scenario!([V13, V16, V18], from_one_to_four_by_way_of_the_past);

/// Ends the primary where a segment ends, with a standby that has received and replayed exactly that. Returns where.
fn end_with_a_segment(primary: &mut Cluster, standby: &Cluster, walkeep: &Walkeep) -> Lsn {
    const SEGMENT: u64 = 1 << 20;
    let positions = || -> [Lsn; 2] {
        ["receive", "replay"].map(|which| {
            let query = format!("select pg_last_wal_{which}_lsn()");
            standby.query_one::<String>(&query).parse().expect("a position")
        })
    };
    // A checkpoint or the like may come in between.
    for _ in 0..10 {
        primary.switch_wal();
        let end = now(primary);
        wait_stored(walkeep, end);
        wait_until("the standby to catch up", SOON, || positions().iter().all(|lsn| *lsn >= end));
        primary.kill9();
        if end.as_u64().is_multiple_of(SEGMENT) && positions() == [end, end] {
            return end;
        }
        primary.start();
    }
    panic!("the server wrote something behind every switch of ten")
}

/// The server is promoted between two of its answers: the agent asks for the old timeline exactly at its end, where there is
/// nothing to be streamed.
fn a_start_at_the_very_end_of_a_timeline(major: MajorVersion) {
    let mut primary = cluster(major);
    pgbench_init(&primary, 1);
    primary.stop(StopMode::Fast);
    let mut standby = primary.copy();
    primary.start();
    standby.follow(&primary);
    standby.command_line("wal_keep_size", "1GB");
    standby.listen();
    standby.start();
    let walkeep = walkeep(&primary);
    let agent = streaming(&walkeep);
    walkeep.backup(&[]);
    pgbench_run(&primary, 200, Seed::fixed(86));
    let end = end_with_a_segment(&mut primary, &standby, &walkeep);
    assert!(agent.stop().success());

    let relay = Relay::before(&standby);
    relay.meddle(Meddling::Holds("START_REPLICATION"));
    walkeep.configure(
        "cluster",
        "conninfo",
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", relay.port()),
    );
    walkeep.configure("cluster", "pgdata", standby.data().display().to_string());
    walkeep.configure("stream", "standby", true);
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    wait_until("the agent to ask for WAL", ARRIVES, || !relay.held().is_empty());
    assert!(relay.held()[0].contains(&format!("{end} TIMELINE 1")), "{:?} instead of {end}", relay.held());
    standby.promote();
    let text = fs::read(standby.data().join("pg_wal/00000002.history")).expect("the promoted server has it");
    let history = TimelineHistory::parse(TimelineId::new(2).expect("no zero"), &text).expect("a history");
    assert_eq!(history.switches()[0].switch_lsn, end, "the promotion was to end timeline 1 with a segment");
    relay.meddle(Meddling::Nothing);

    wait_until("timeline 2", ARRIVES, || status(&walkeep)["timeline"] == 2);
    pgbench_run(&standby, 100, Seed::fixed(87));
    create_marker(&standby, "the end");
    let expected = Digest::of(&standby);
    (0..4).for_each(|_| drop(standby.switch_wal()));
    let last = standby.switch_wal();
    wait_stored(&walkeep, now(&standby));
    assert!(position(&walkeep, "archived_lsn") > end);
    let told = status(&walkeep);
    assert_eq!(told["errors"], serde_json::json!({}), "such an answer is none");
    assert_eq!((&told["gaps"], &told["side_branches"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &standby, &last);
    drop(standby);
    assert_restored(&walkeep, &expected);
}
scenario!([V13, V15, V18], a_start_at_the_very_end_of_a_timeline);
