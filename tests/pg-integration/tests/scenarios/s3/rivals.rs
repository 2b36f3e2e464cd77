//! Two hosts and one bucket, and the tools that copy buckets.

use std::process::Command;

use walkeep_pg_integration::s3::{Kind, S3Server};
use walkeep_pg_integration::user::{Scratch, TestUser};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Digest, MajorVersion, Output, Seed, Walkeep, amcheck, create_marker, scenario};

use super::{BUCKET, URL, cluster, walkeep};

/// Two agents of one cluster archive the same timeline: the same content is welcome twice, another is seen.
fn two_hosts_archive_one_timeline(major: MajorVersion) {
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let cluster = cluster(&server, major);
    let host = || {
        let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
        walkeep.init(&["--s3-endpoint", &server.url()]).ok();
        walkeep
    };
    let (one, two) = (host(), host());
    one.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    one.backup(&[]);
    let segment = cluster.archive_everything();
    let path = cluster.data().join("pg_wal").join(&segment);
    two.push(&path).ok();
    two.push(&path).ok();
    one.verify();
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    let restored = two.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));

    // The second host has gone another way under the same name: nobody may be served either.
    let scratch = Scratch::new("rival");
    let rival = scratch.path().join(&segment);
    std::fs::copy(&path, &rival).expect("it is still there");
    change_last_record(&rival);
    TestUser::get().own(&rival);
    let pushed = two.push(&rival);
    let checked = one.run(&["check"]).expect_code(10);
    assert!(!pushed.succeeded() || checked.stdout.contains(&segment), "{}", checked.stdout);
    let fetched = fetch(&one, &segment, &scratch);
    assert!(!fetched.succeeded(), "a disputed segment was served");
    assert_ne!(fetched.code, Some(1), "it is not absent");
}
scenario!([V17], two_hosts_archive_one_timeline);

fn fetch(walkeep: &Walkeep, segment: &str, scratch: &Scratch) -> Output {
    let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
    Output::of(command.arg(walkeep.repository()).arg(segment).arg(scratch.path().join("fetched")))
}

/// Fills what follows the last record with something else: the records stay whole, the content is another.
fn change_last_record(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).expect("it was just copied");
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    assert!(end < bytes.len() - 64, "the segment was switched");
    let last = bytes.len() - 1;
    bytes[last] = 1;
    std::fs::write(path, bytes).expect("it can be written");
}

/// `s3cmd sync` from the bucket makes a repository of a directory, and from a directory one of a bucket.
fn other_tools_copy_a_repository(major: MajorVersion) {
    let server = S3Server::start(Kind::Rclone);
    server.create_bucket(BUCKET);
    server.create_bucket("second-home");
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
    walkeep.init(&["--s3-endpoint", &server.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    pgbench_run(&cluster, 100, Seed::fixed(7));
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();

    let scratch = Scratch::new("copy");
    let directory = scratch.subdirectory("repository");
    let copy = format!("{}/", directory.display());
    s3cmd(&server, &["sync", &format!("{URL}/"), &copy]);
    let walkeep = walkeep.repository_at(&directory);
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    drop(restored);
    s3cmd(&server, &["sync", &copy, "s3://second-home/again/"]);
    let walkeep = walkeep.repository_at("s3://second-home/again");
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}
scenario!([V15], other_tools_copy_a_repository);

#[track_caller]
fn s3cmd(server: &S3Server, args: &[&str]) {
    let mut command: Command = TestUser::get().command("s3cmd");
    let host = server.address().to_string();
    command.args(["--config=/dev/null", "--no-ssl", "--host", &host, "--host-bucket", &host, "--no-progress"]);
    command.args(["--access_key", &server.credentials().access_key, "--secret_key", &server.credentials().secret_key]);
    Output::of(command.args(args)).ok();
}
