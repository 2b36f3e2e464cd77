//! The exit codes of `fetch-wal`, on which PostgreSQL's idea of the end of the WAL depends.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use synthetic::cluster::Cluster;

/// An endpoint where nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";

/// Runs the program in the data directory, as PostgreSQL does.
fn run(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String) {
    let data = cluster.path("pgdata");
    fs::create_dir_all(data.join("pg_wal")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_walkeep-restore"));
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    // Credentials that are there need not be looked for on the network.
    let credentials = [("AWS_ACCESS_KEY_ID", "nobody"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_REGION", "x")];
    let output = command.args(arguments).current_dir(&data).env_clear().envs(credentials).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn fetch(cluster: &Cluster, file: &str) -> (Option<i32>, String) {
    let repository = cluster.path("repository");
    run(cluster, &["fetch-wal", "--repo", repository.to_str().unwrap(), file, "pg_wal/RECOVERYXLOG"])
}

#[test]
fn only_what_is_proven_absent_is_absent() {
    let cluster = Cluster::new();
    assert_eq!(fetch(&cluster, "000000010000000000000005").0, Some(0));
    assert_eq!(fs::metadata(cluster.path("pgdata/pg_wal/RECOVERYXLOG")).unwrap().len(), 1 << 20);
    assert_eq!(fs::read_dir(cluster.path("pgdata/pg_wal")).unwrap().count(), 1, "nothing is left behind");
    for absent in ["000000010000000000000009", "00000002.history", "000000020000000000000005"] {
        assert_eq!(fetch(&cluster, absent), (Some(1), String::new()), "{absent}");
    }
    assert_eq!(fetch(&cluster, "nonsense").0, Some(126));
    let other = cluster.path("repository");
    let other = other.to_str().unwrap();
    for arguments in [
        &["fetch-wal"][..],
        &["fetch-wal", "--repo"],
        &["fetch-wal", "--no-such-option", "000000010000000000000009", "x"],
        &["--repo", other, "fetch-wal", "000000010000000000000009", "x"],
        &["fetch-wal", "000000010000000000000009", "pg_wal/RECOVERYXLOG"],
        &["fetch-wal", "--repo", "/nowhere/at/all", "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", "s3://bucket", "--s3-endpoint", NOBODY, "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", "s3://bucket/a//b", "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", "gs://bucket", "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", "s3://bucket", "--s3-path-style", "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", other, "--cluster", "other", "000000010000000000000009", "x"],
        &["fetch-wal", "--repo", other, "000000010000000000000005", "no/such/directory"],
    ] {
        let (code, text) = run(&cluster, arguments);
        assert_eq!(code, Some(126), "{arguments:?}: {text}");
        assert!(text.starts_with("error: "), "{text}");
    }
}

#[test]
fn damage_stops_recovery_but_only_delays_a_standby() {
    let cluster = Cluster::new();
    let directory = cluster.path("repository/clusters/main/wal/00000001/00000000");
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let (code, text) = fetch(&cluster, "000000010000000000000005");
    assert_eq!(code, Some(126), "{text}");
    assert!(!cluster.path("pgdata/pg_wal/RECOVERYXLOG").exists());
    fs::write(cluster.path("pgdata/standby.signal"), "").unwrap();
    assert_eq!(fetch(&cluster, "000000010000000000000005").0, Some(1));
    fs::remove_dir_all(cluster.path("repository")).unwrap();
    assert_eq!(fetch(&cluster, "00000002.history").0, Some(126), "a standby must not be promoted onto a used timeline");
}
