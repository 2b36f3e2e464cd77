//! `walkeep sync`: a repository moves from a directory to a bucket, to another bucket, and back.

use walkeep_pg_integration::s3::{Kind, S3Server};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Digest, MajorVersion, Scratch, Seed, amcheck, create_marker, scenario};

use super::{BUCKET, URL, cluster, walkeep};

fn a_repository_moves_and_comes_back(major: MajorVersion) {
    let server = S3Server::start(Kind::Rclone);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url());
    walkeep.init(&[]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    let to_bucket = ["sync", "--to", URL, "--s3-endpoint", &server.url()];
    let first = walkeep.json(&to_bucket);
    let count = |report: &serde_json::Value, what: &str| report[what].as_u64().expect("a count");
    assert!(count(&first, "objects") > 4, "{first}");
    // What came later follows; what is there is not sent again.
    pgbench_run(&cluster, 100, Seed::fixed(10));
    walkeep.backup(&[]);
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    let second = walkeep.json(&to_bucket);
    assert!(count(&second, "objects") > 0 && count(&second, "skipped") >= count(&first, "objects"), "{second}");
    walkeep.json(&["sync", "--from", URL, "--to", "s3://walkeep-test/elsewhere", "--s3-endpoint", &server.url()]);
    let scratch = Scratch::new("moved");
    let directory = scratch.path().join("repository").display().to_string();
    walkeep.json(&[
        "sync",
        "--from",
        "s3://walkeep-test/elsewhere",
        "--to",
        &directory,
        "--s3-endpoint",
        &server.url(),
    ]);
    drop(cluster);
    let mut walkeep = walkeep;
    for place in [URL, "s3://walkeep-test/elsewhere", &directory] {
        walkeep = walkeep.repository_at(place);
        let restored = walkeep.restore().promoted();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!([V14], a_repository_moves_and_comes_back);
