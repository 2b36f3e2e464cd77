//! A local repository with a mirror: kept up to date by the agent, through an outage, at either durability.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use walkeep_pg_integration::faults::{ObjectKind, objects};
use walkeep_pg_integration::s3::{Kind, S3Server};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, Walkeep, amcheck, create_marker, is_full_run, scenario, wait_until,
};

use super::{BUCKET, URL, cluster, walkeep};

fn lag(walkeep: &Walkeep) -> serde_json::Value {
    walkeep.json(&["status"])["mirrors"][0].take()
}

/// Waits until every mirror has what is written now.
fn wait_mirrored(walkeep: &Walkeep) {
    let now = jiff::Timestamp::now();
    let has_it = |lag: &serde_json::Value| {
        let complete: Option<jiff::Timestamp> = lag["complete_before"].as_str().and_then(|moment| moment.parse().ok());
        lag["objects"] == 0 && complete.is_some_and(|complete| complete > now)
    };
    wait_until("the mirrors to be up to date", Duration::from_secs(120), || {
        walkeep.json(&["status"])["mirrors"].as_array().expect("a list").iter().all(has_it)
    });
}

/// An address at which nobody listens now.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it listens")
}

/// The first value of a metric, as a monitoring system would fetch it.
fn metric(address: SocketAddr, name: &str) -> Option<i64> {
    let mut stream = TcpStream::connect(address).expect("the agent listens");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let line = answer.lines().find(|line| line.starts_with(name))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Restores from `url` instead of the local repository.
fn assert_restored_from(walkeep: Walkeep, url: &str, expected: &Digest) {
    let walkeep = walkeep.repository_at(url);
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}

fn an_outage_is_made_up_for_without_an_operator(major: MajorVersion) {
    let mut server = S3Server::start(Kind::Rclone);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url());
    walkeep.init(&["--mirror", URL, "--s3-endpoint", &server.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    let metrics = free_address();
    walkeep.configure("metrics", "listen", metrics.to_string());
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    walkeep.backup(&[]);
    wait_mirrored(&walkeep);
    assert_eq!(metric(metrics, "walkeep_mirror_lag_objects"), Some(0));

    // The bucket is away under load: archiving and backups go on here, and the lag is told.
    server.stop();
    pgbench_run(&cluster, 400, Seed::fixed(4));
    cluster.archive_everything();
    walkeep.backup(&[]);
    wait_until("the outage to be told", SOON, || {
        let lag = lag(&walkeep);
        lag["objects"].as_u64() > Some(2) && lag["bytes"].as_u64() > Some(0) && lag["error"].is_string()
    });
    assert!(agent.is_running());
    assert!(metric(metrics, "walkeep_mirror_lag_objects") > Some(2));
    assert!(metric(metrics, "walkeep_mirror_lag_bytes") > Some(0));
    server.resume();
    wait_mirrored(&walkeep);
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    wait_mirrored(&walkeep);
    assert!(agent.stop().success());

    // Without an agent the comparison says the same.
    assert_eq!(lag(&walkeep)["objects"], 0);
    drop(cluster);
    std::fs::remove_dir_all(walkeep.repository_dir()).expect("the local repository is there");
    assert_restored_from(walkeep, URL, &expected);
}
scenario!([V13, V18], an_outage_is_made_up_for_without_an_operator);

/// How long the bucket is away.
fn outage() -> Duration {
    Duration::from_secs(if is_full_run() { 3600 } else { 20 })
}

/// The load and the stream go on all through a long outage: nothing fails here, and everything is there afterwards.
fn a_long_outage_costs_nothing_but_time(major: MajorVersion) {
    let mut server = S3Server::start(Kind::Rclone);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url());
    walkeep.init(&["--mirror", URL, "--s3-endpoint", &server.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    let mut agent = walkeep.agent();
    agent.wait_ready(&walkeep);
    walkeep.backup(&[]);
    wait_mirrored(&walkeep);
    server.stop();
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < outage() {
        pgbench_run(&cluster, 50, Seed::fixed(60 + rounds));
        cluster.archive_everything();
        rounds += 1;
        // The rhythm of the load: nobody waits for anything here.
        std::thread::sleep(outage() / 60);
    }
    eprintln!("{rounds} rounds in {} s: {}", begun.elapsed().as_secs(), lag(&walkeep));
    let failed: u64 = cluster.query_one("select failed_count from pg_stat_archiver");
    assert_eq!(failed, 0, "archiving failed meanwhile");
    assert!(agent.is_running() && lag(&walkeep)["objects"].as_u64() >= Some(rounds));
    server.resume();
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    wait_mirrored(&walkeep);
    assert!(agent.stop().success());
    drop(cluster);
    std::fs::remove_dir_all(walkeep.repository_dir()).expect("the local repository is there");
    assert_restored_from(walkeep, URL, &expected);
}
scenario!([V17], a_long_outage_costs_nothing_but_time);

fn at_mirror_durability_success_means_the_bucket(major: MajorVersion) {
    let mut server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url());
    walkeep.init(&["--mirror", URL, "--durability", "mirror", "--s3-endpoint", &server.url()]).ok();
    walkeep.configure("mirror", "request_timeout", 1);
    walkeep.configure("mirror", "total_timeout", 3);
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);

    server.stop();
    let segment = cluster.switch_wal();
    let path = cluster.data().join("pg_wal").join(&segment);
    walkeep.push(&path).expect_code(1);
    walkeep.configure("limits", "archive_timeout", 5);
    assert!(!walkeep.run(&["backup"]).succeeded(), "its WAL cannot be archived, nor itself be mirrored");
    assert_eq!(walkeep.backups().len(), 1);
    server.resume();
    // The segment is here already: success must mean that it is there too.
    walkeep.push(&path).ok();
    let archived = server.client().list(BUCKET, "pg/main/").expect("it can be listed");
    assert!(archived.iter().any(|key| key.contains(&segment)), "{segment} in {archived:?}");
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    drop(cluster);
    std::fs::remove_dir_all(walkeep.repository_dir()).expect("the local repository is there");
    assert_restored_from(walkeep, URL, &expected);
}
scenario!([V16], at_mirror_durability_success_means_the_bucket);

/// Two buckets, and a local repository that keeps nothing old.
fn two_mirrors_and_a_short_local_window(major: MajorVersion) {
    let (one, two) = (S3Server::start(Kind::S3s), S3Server::start(Kind::S3s));
    one.create_bucket(BUCKET);
    two.create_bucket(BUCKET);
    let cluster: Cluster = cluster(&one, major);
    let walkeep = walkeep(&cluster, &one, &one.url());
    walkeep.init(&["--mirror", URL, "--s3-endpoint", &one.url()]).ok();
    walkeep.configure("mirror2", "url", URL);
    walkeep.configure("mirror2", "endpoint", two.url());
    walkeep.configure("mirror", "local_window", "1s");
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    let agent = walkeep.agent();
    wait_mirrored(&walkeep);
    assert_eq!(walkeep.json(&["status"])["mirrors"].as_array().map(Vec::len), Some(2));
    assert!(agent.stop().success());
    // A new agent begins by making room.
    let agent = walkeep.agent();
    let packs = || objects(walkeep.repository_dir(), ObjectKind::Packs).len();
    wait_until("old packs to leave", Duration::from_secs(60), || packs() == 0);
    // What left is still compared with, and still part of what can be restored.
    pgbench_run(&cluster, 100, Seed::fixed(5));
    let second = walkeep.backup(&[]);
    assert_eq!(second["kind"], "scan", "{second}");
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    wait_mirrored(&walkeep);
    assert!(agent.stop().success());
    drop(cluster);
    let walkeep = walkeep.environment("WALKEEP_MIRROR_ENDPOINT", two.url());
    assert_restored_from(walkeep, URL, &expected);
}
scenario!([V17], two_mirrors_and_a_short_local_window);
