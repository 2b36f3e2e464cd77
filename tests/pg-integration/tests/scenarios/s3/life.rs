//! A host burns down, and the bucket is all that is left.

use walkeep_pg_integration::s3::{Kind, S3Server, S3sOptions};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Seed, Walkeep, amcheck, create_marker, scenario};

use super::{BUCKET, URL, cluster, walkeep};

/// Fills, backs up, changes, and gives what a restore must bring back and the target's arguments.
fn live(cluster: &Cluster, walkeep: &Walkeep) -> (Digest, Vec<String>) {
    pgbench_init(cluster, 1);
    walkeep.backup(&[]);
    pgbench_run(cluster, 300, Seed::fixed(2));
    let second = walkeep.backup(&[]);
    assert_eq!(second["kind"], "scan", "the parent's maps were read from the bucket: {second}");
    pgbench_run(cluster, 300, Seed::fixed(3));
    let marker = create_marker(cluster, "before the fire");
    let expected = Digest::of(cluster);
    cluster.sql("drop table pgbench_accounts");
    cluster.archive_everything();
    (expected, vec!["--target-lsn".to_owned(), marker.lsn.to_string()])
}

/// Restores from the bucket alone and compares.
fn assert_restored(walkeep: &Walkeep, expected: &Digest, target: &[String]) {
    let target: Vec<&str> = target.iter().map(String::as_str).collect();
    let restored = walkeep.restore().args(&target).promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}

/// Everything that the host had of Walkeep and PostgreSQL is gone.
fn burn_down(cluster: Cluster, walkeep: &Walkeep) {
    drop(cluster);
    std::fs::remove_dir_all(walkeep.state_dir()).expect("the state directory is there");
    std::fs::remove_file(walkeep.config()).expect("the configuration is there");
}

fn comes_back_from_the_bucket_alone(major: MajorVersion) {
    for kind in Kind::all() {
        eprintln!("-- {kind:?}");
        let server = S3Server::start(kind);
        server.create_bucket(BUCKET);
        let cluster = cluster(&server, major);
        let walkeep = walkeep(&cluster, &server, &server.url()).repository_at(URL);
        walkeep.init(&["--s3-endpoint", &server.url()]).ok();
        walkeep.archive_from(&cluster);
        let (expected, target) = live(&cluster, &walkeep);
        walkeep.verify();
        let spool = walkeep.state_dir().join("spool");
        assert_eq!(kept(&spool), ["identity", "walkeep.json"], "a spool holds only what is on its way");
        burn_down(cluster, &walkeep);
        assert_restored(&walkeep, &expected, &target);
    }
}
scenario!(per_major, comes_back_from_the_bucket_alone);

/// Names of the files below a directory; identities as one.
fn kept(directory: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the spool is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            ".tmp" => assert_eq!(std::fs::read_dir(entry.path()).expect("it is there").count(), 0, "left over"),
            "identity" => names.push(name),
            _ if entry.path().is_dir() => names.extend(kept(&entry.path())),
            _ => names.push(name),
        }
    }
    names.sort();
    names
}

/// Over TLS with an authority of its own, in a bucket that `init` creates; in path style its name may be no host name.
fn speaks_tls_with_an_authority_of_its_own(major: MajorVersion) {
    let server = S3Server::s3s(S3sOptions::default().https());
    let ca = server.ca().expect("it speaks TLS").display().to_string();
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &server.url()).repository_at("s3://walk.keep_test/a");
    let refused = walkeep.init(&["--s3-endpoint", &server.url(), "--create-bucket"]).expect_code(4);
    refused.assert_says("certificate");
    walkeep.init(&["--s3-endpoint", &server.url(), "--s3-ca-file", &ca, "--create-bucket"]).ok();
    let walkeep = walkeep.environment("WALKEEP_MIRROR_CA_FILE", &ca);
    walkeep.archive_from(&cluster);
    let (expected, target) = live(&cluster, &walkeep);
    burn_down(cluster, &walkeep);
    assert_restored(&walkeep, &expected, &target);
}
scenario!([V17], speaks_tls_with_an_authority_of_its_own);
