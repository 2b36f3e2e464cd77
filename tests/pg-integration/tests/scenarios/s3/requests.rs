//! What a bucket costs: requests, counted where they pass.

use std::time::{Duration, SystemTime};

use walkeep_pg_integration::faults::hang_up;
use walkeep_pg_integration::s3::{Kind, Operation, Proxy, S3Server};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{MajorVersion, Seed, poll, scenario, wait_until};

use super::{BUCKET, URL, cluster, walkeep};

fn a_segment_is_one_put_and_nothing_else(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let proxy = Proxy::before(&server);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &proxy.url()).repository_at(URL);
    walkeep.init(&["--s3-endpoint", &proxy.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    cluster.archive_everything();

    let archived = || cluster.query_one::<u64>("select archived_count from pg_stat_archiver");
    let (before, counts) = (archived(), proxy.counts());
    pgbench_run(&cluster, 2000, Seed::fixed(6));
    cluster.archive_everything();
    let segments = archived() - before;
    let after = proxy.counts();
    assert!(segments >= 2, "{segments} segments");
    assert_eq!(after.count(Operation::PutObject) - counts.count(Operation::PutObject), segments);
    assert_eq!(after.total() - counts.total(), segments, "no LIST, no HEAD, no GET: {after:?}");

    // The same segment once more is one more PUT; and a backup is a PUT for each object it adds.
    let (packs, counts) = (server.client().list(BUCKET, "pg/main/").expect("listed").len() as u64, proxy.counts());
    let backup = walkeep.backup(&[]);
    let stored = server.client().list(BUCKET, "pg/main/").expect("listed").len() as u64 - packs;
    let puts = proxy.counts().count(Operation::PutObject) - counts.count(Operation::PutObject);
    // Its lease is written twice or three times and gone in the end.
    assert!((stored..=stored + 4).contains(&puts), "{puts} PUTs for {stored} objects");
    // What the program counts itself is part of it: the archiver's PUTs pass here too.
    let own = backup["requests"][URL]["PutObject"].as_u64().expect("a count of its PUTs");
    assert!((1..=puts).contains(&own), "{own} of {puts}\n{backup}");
}
scenario!([V17], a_segment_is_one_put_and_nothing_else);

/// A backup that would take minutes at its rate ends soon after the rate was raised.
fn rates_can_be_changed_on_the_way(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
    walkeep.init(&["--s3-endpoint", &server.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 2);
    walkeep.configure("limits", "upload_rate", "8KiB");
    let mut backup = walkeep.command(&["backup"]).spawn().expect("walkeep can be started");
    wait_until("the backup's lease", SOON, || {
        walkeep.json(&["locks"])["leases"].as_array().is_some_and(|leases| !leases.is_empty())
    });
    assert!(backup.try_wait().expect("it is our child").is_none(), "it has ended before");
    walkeep.configure("limits", "upload_rate", "1GiB");
    hang_up(&backup);
    let end = poll("the backup to end", SOON, || backup.try_wait().expect("it is our child"));
    assert!(end.success(), "{end}");
    assert_eq!(walkeep.backups().len(), 1);
}
scenario!([V16], rates_can_be_changed_on_the_way);

/// With `lock_days` every object but leases is locked, by the request that stores it.
fn objects_are_locked_when_asked_for(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
    walkeep.configure("cluster", "pgdata", cluster.data().display().to_string());
    walkeep.configure("repository", "url", URL);
    walkeep.configure("mirror", "endpoint", server.url());
    walkeep.configure("mirror", "lock_days", 3);
    walkeep.init(&["--create-bucket"]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    let keys = server.client().list(BUCKET, "pg/main/").expect("listed");
    let at_least = SystemTime::now() + Duration::from_secs(2 * 86400);
    for key in keys.iter().filter(|key| !key.contains("/leases/") && !key.ends_with("walkeep.json")) {
        let retention = server.retention(BUCKET, key);
        assert!(
            retention.as_ref().is_some_and(|r| r.mode == "GOVERNANCE" && r.until > at_least),
            "{key}: {retention:?}"
        );
    }
    assert!(keys.len() > 5, "{keys:?}");
}
scenario!([V18], objects_are_locked_when_asked_for);
