//! `archive_command` and the stream at once: the agent stores what the archiver hands over, at once where it has it already,
//! ahead where it has not, and both ways agree byte for byte.

use std::time::Duration;

use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, Walkeep, create_marker, scenario, wait_until};

use super::follows::assert_archive_is;
use super::{cluster, now, streaming, wait_stored, walkeep};

fn push(walkeep: &Walkeep, cluster: &Cluster, segment: &str) -> serde_json::Value {
    let path = cluster.data().join("pg_wal").join(segment).display().to_string();
    walkeep.json(&["archive-push", &path])
}

/// What the stream has stored is acknowledged by comparison, and the archiver never stops.
fn both_ways_agree(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    pgbench_run(&cluster, 300, Seed::fixed(51));
    let last = cluster.archive_everything();
    wait_stored(&walkeep, now(&cluster));
    let answer = push(&walkeep, &cluster, &last);
    assert_eq!((&answer["by_agent"], &answer["new"]), (&true.into(), &false.into()), "{answer}");
    // Other content under a stored name is refused, by the agent as without it.
    let forged = walkeep.scratch().path().join(&last);
    let mut bytes = std::fs::read(cluster.data().join("pg_wal").join(&last)).expect("the segment is kept");
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    walkeep_pg_integration::user::write_file(&forged, bytes);
    let refused = walkeep.push(&forged).expect_code(1);
    assert!(refused.stderr.contains("other content") || refused.stderr.contains("damaged"), "{refused}");
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    let last = cluster.archive_everything();
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
    let failed: u64 = cluster.query_one("select failed_count from pg_stat_archiver");
    assert_eq!(failed, 0, "archiving failed meanwhile");
    drop(cluster);
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!(per_major, both_ways_agree);

/// What the stream has stored is compared before the archiver asks; a file that has changed since is looked at again.
fn the_stream_is_compared_ahead(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    // The archiver has no command: its `.ready` files stay.
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    let segments: Vec<String> = (0..6).map(|_| cluster.switch_wal()).collect();
    wait_stored(&walkeep, now(&cluster));
    let mut unasked = segments.iter();
    let last = segments.last().expect("six");
    wait_until("a segment to be compared ahead", Duration::from_secs(60), || {
        let answer = push(&walkeep, &cluster, unasked.next().unwrap_or(last));
        assert_eq!((&answer["by_agent"], &answer["new"]), (&true.into(), &false.into()), "{answer}");
        answer["ahead"] == true
    });
    wait_until("the last one, too", Duration::from_secs(60), || push(&walkeep, &cluster, last)["ahead"] == true);
    let path = cluster.data().join("pg_wal").join(last);
    let mut bytes = std::fs::read(&path).expect("the segment is kept");
    bytes[100_000] ^= 1;
    std::fs::write(&path, bytes).expect("the test may write everywhere");
    let refused = walkeep.push(&path).expect_code(1);
    assert!(refused.stderr.contains("other content") || refused.stderr.contains("damaged"), "{refused}");
    assert!(agent.stop().success());
}
scenario!([V13, V18], the_stream_is_compared_ahead);

/// A backlog is stored ahead of the archiver; without the agent, and when it dies, archiving goes on alone.
fn a_backlog_is_stored_ahead(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    walkeep.configure("stream", "enabled", false);
    pgbench_init(&cluster, 1);
    let segments: Vec<String> = (0..6).map(|_| cluster.switch_wal()).collect();
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    // The archiver has no command: its `.ready` files are there, and nobody else asks.
    let first = push(&walkeep, &cluster, &segments[0]);
    assert_eq!((&first["by_agent"], &first["ahead"]), (&true.into(), &false.into()), "{first}");
    wait_until("the next segment to be stored ahead", Duration::from_secs(60), || {
        walkeep.repository_dir().join("clusters").exists() && stored(&walkeep, &segments[3])
    });
    let next = push(&walkeep, &cluster, &segments[3]);
    assert_eq!((&next["by_agent"], &next["ahead"]), (&true.into(), &true.into()), "{next}");
    agent.kill9();
    let alone = push(&walkeep, &cluster, &segments[5]);
    assert_eq!(alone["by_agent"], false, "{alone}");
    walkeep.verify();
}
scenario!([V13, V18], a_backlog_is_stored_ahead);

fn stored(walkeep: &Walkeep, segment: &str) -> bool {
    let target = walkeep.scratch().path().join("is-stored");
    let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
    command.arg(walkeep.repository()).arg(segment).arg(&target);
    walkeep_pg_integration::Output::of(&mut command).succeeded()
}
