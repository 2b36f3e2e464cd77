//! The stream into a bucket: beside a local repository, before a commit counts, or as the only place.

use walkeep_pg_integration::s3::{Kind, Proxy, S3Server};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, create_marker, scenario, wait_until,
};
use walkeep_proto::lsn::Lsn;

use super::shutdowns::stop;
use super::{ARRIVES, assert_restored, now, status, streaming, wait_stored};
use crate::s3::{BUCKET, URL, cluster, walkeep};

/// Waits until the open segment has a tail in the bucket; that of a segment which was open just now may be superseded.
#[track_caller]
fn wait_tails(server: &S3Server) {
    wait_until("a tail in the bucket", ARRIVES, || {
        // s3s-fs answers 500 when an object vanishes while it lists, as tails do.
        let keys = server.client().list(BUCKET, "pg/main/").unwrap_or_default();
        keys.iter().any(|key| key.contains(".tail-"))
    });
}

/// The host burns down with its server, its agent, its spool and its repository. Only the bucket is left.
fn assert_bucket_has(walkeep: Walkeep, cluster: Cluster, expected: &Digest) {
    drop(cluster);
    std::fs::remove_dir_all(walkeep.state_dir()).expect("the state directory is there");
    // The only place of some is the bucket.
    if walkeep.repository_dir().exists() {
        std::fs::remove_dir_all(walkeep.repository_dir()).expect("it exists");
    }
    let walkeep = walkeep.repository_at(URL);
    assert_restored(&walkeep, expected);
}

/// Commits, and says what a restore must have. The last of them are in the open segment.
fn commit(cluster: &Cluster) -> Digest {
    pgbench_run(cluster, 200, Seed::fixed(98));
    create_marker(cluster, "the last commit");
    Digest::of(cluster)
}

/// At durability `local` the mirror has what was streamed a little later, tails too.
fn a_mirror_gets_the_tails(major: MajorVersion) {
    for kind in Kind::all() {
        eprintln!("-- {kind:?}");
        let server = S3Server::start(kind);
        server.create_bucket(BUCKET);
        let cluster = cluster(&server, major);
        let walkeep = walkeep(&cluster, &server, &server.url());
        walkeep.init(&["--mirror", URL, "--s3-endpoint", &server.url()]).ok();
        walkeep.configure("stream", "tail_interval", "200ms");
        let agent = streaming(&walkeep);
        pgbench_init(&cluster, 1);
        walkeep.backup(&[]);
        let expected = commit(&cluster);
        let end = now(&cluster);
        wait_stored(&walkeep, end);
        wait_until("the mirror to have the last commit", ARRIVES, || {
            let position = walkeep.json(&["status"])["mirrors"][0]["mirrored_lsn"].take();
            position.as_str().and_then(|lsn| lsn.parse::<Lsn>().ok()).is_some_and(|lsn| lsn >= end)
        });
        wait_tails(&server);
        // Not drained: what is there is there.
        agent.kill9();
        assert_bucket_has(walkeep, cluster, &expected);
    }
}
scenario!([V13, V18], a_mirror_gets_the_tails);

/// At durability `mirror` nothing counts as stored before it is in the bucket; a bucket that hangs holds neither commits nor
/// a shutdown of the server up, and is made up for.
fn stored_means_the_bucket(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let proxy = Proxy::before(&server);
    let mut cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &proxy.url());
    walkeep.init(&["--mirror", URL, "--durability", "mirror", "--s3-endpoint", &proxy.url()]).ok();
    walkeep.configure("stream", "tail_interval", "200ms");
    walkeep.configure("mirror", "request_timeout", 2);
    walkeep.configure("mirror", "total_timeout", 5);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    wait_stored(&walkeep, now(&cluster));

    proxy.fall_silent();
    let begun = now(&cluster);
    pgbench_run(&cluster, 300, Seed::fixed(99));
    let end = now(&cluster);
    wait_until("the outage to be told", ARRIVES, || status(&walkeep)["storing_error"].is_string());
    assert!(super::position(&walkeep, "stored_lsn") <= begun, "{} since {begun}", status(&walkeep));
    wait_until("it to be durable here", ARRIVES, || super::position(&walkeep, "flushed_lsn") >= end);
    for _ in 0..2 {
        stop(&mut cluster, StopMode::Fast);
        cluster.start();
        wait_until("WAL to come in", ARRIVES, || status(&walkeep)["streaming"] == true);
    }
    proxy.restore();
    wait_stored(&walkeep, now(&cluster));
    let expected = commit(&cluster);
    wait_stored(&walkeep, now(&cluster));
    wait_tails(&server);
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    agent.kill9();
    assert_bucket_has(walkeep, cluster, &expected);
}
scenario!([V13, V18], stored_means_the_bucket);

/// The repository is the bucket, and nothing stays here.
fn a_bucket_is_the_only_place(major: MajorVersion) {
    for kind in Kind::all() {
        eprintln!("-- {kind:?}");
        let server = S3Server::start(kind);
        server.create_bucket(BUCKET);
        let cluster = cluster(&server, major);
        let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
        walkeep.init(&["--s3-endpoint", &server.url()]).ok();
        walkeep.configure("stream", "tail_interval", "200ms");
        let agent = streaming(&walkeep);
        pgbench_init(&cluster, 1);
        walkeep.backup(&[]);
        let expected = commit(&cluster);
        wait_stored(&walkeep, now(&cluster));
        wait_tails(&server);
        agent.kill9();
        assert_bucket_has(walkeep, cluster, &expected);
    }
}
scenario!([V14, V18], a_bucket_is_the_only_place);
