//! WAL as it is written: the agent as a replication client.

mod access;
mod archiver;
mod bad_days;
mod buckets;
mod damage;
mod deaths;
mod durable;
mod elsewhere;
mod follows;
mod jumps;
mod power_loss;
mod schedule;
mod shutdowns;
mod slots;
mod synchronous;
mod timelines;
mod torn_records;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use walkeep_pg_integration::walkeep::Agent;
use walkeep_pg_integration::{Cluster, Digest, MajorVersion, Walkeep, amcheck, create_marker, wait_until};
use walkeep_proto::lsn::Lsn;

/// How long WAL may take to arrive on a busy machine.
pub const ARRIVES: Duration = Duration::from_secs(60);

/// A cluster that does not archive by command: what arrives was streamed. Small segments, a slot's retention, no load yet.
pub fn cluster(major: MajorVersion) -> Cluster {
    Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "64MB").create()
}

/// Walkeep with an initialised repository, tails every 200 ms.
pub fn walkeep(cluster: &Cluster) -> Walkeep {
    let walkeep = Walkeep::new(cluster);
    walkeep.init(&[]).ok();
    walkeep.configure("stream", "tail_interval", "200ms");
    walkeep
}

/// A cluster that keeps no more WAL than its slot asks for, with Walkeep, whose agent has taken a first backup.
#[track_caller]
pub fn sparing(major: MajorVersion) -> (Cluster, Walkeep, Agent) {
    let cluster = Cluster::options(major)
        .wal_segment_mb(1)
        .setting("max_wal_size", "2MB")
        .setting("min_wal_size", "2MB")
        .setting("wal_keep_size", "0")
        .setting("archive_mode", "off")
        .create();
    let walkeep = walkeep(&cluster);
    walkeep.configure("schedule", "max_age", "30d");
    let agent = streaming(&walkeep);
    wait_until("the first backup", ARRIVES * 2, || walkeep.backups().len() == 1);
    (cluster, walkeep, agent)
}

/// Waits until the agent tells of a gap, and until it has taken a backup behind it.
#[track_caller]
pub fn wait_gap_healed(walkeep: &Walkeep) {
    wait_until("the gap to be told", ARRIVES, || {
        walkeep.run(&["status", "--json"]).succeeded() && status(walkeep)["gaps"][0]["from"].is_string()
    });
    wait_until("a backup behind the gap", ARRIVES * 2, || walkeep.backups().len() == 2);
}

/// An agent that streams.
#[track_caller]
pub fn streaming(walkeep: &Walkeep) -> Agent {
    streaming_by(walkeep, walkeep.command(&["agent"]))
}

/// The same of an agent that is started in a way of its own.
#[track_caller]
pub fn streaming_by(walkeep: &Walkeep, command: Command) -> Agent {
    let mut agent = Agent::run(walkeep, command);
    agent.wait_ready(walkeep);
    wait_streaming(walkeep);
    agent
}

#[track_caller]
pub fn wait_streaming(walkeep: &Walkeep) {
    wait_until("WAL to come in", ARRIVES, || status(walkeep)["streaming"] == true);
}

/// What `walkeep status` says of the stream.
#[track_caller]
pub fn status(walkeep: &Walkeep) -> Value {
    walkeep.json(&["status"])["stream"].take()
}

/// A position of the stream's status.
#[track_caller]
pub fn position(walkeep: &Walkeep, name: &str) -> Lsn {
    let status = status(walkeep);
    status[name].as_str().and_then(|lsn| lsn.parse().ok()).unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// Where the server is now.
#[track_caller]
pub fn now(cluster: &Cluster) -> Lsn {
    cluster.query_one::<String>("select pg_current_wal_flush_lsn()").parse().expect("a position")
}

/// Waits until everything up to `lsn` is in the repository.
#[track_caller]
pub fn wait_stored(walkeep: &Walkeep, lsn: Lsn) {
    wait_until(&format!("WAL up to {lsn} to be stored"), ARRIVES, || position(walkeep, "stored_lsn") >= lsn);
}

/// A last commit, and everything up to it is in the repository. What a restore must bring back.
#[track_caller]
pub fn stored_end(walkeep: &Walkeep, cluster: &Cluster) -> Digest {
    create_marker(cluster, "the end");
    let expected = Digest::of(cluster);
    wait_stored(walkeep, now(cluster));
    expected
}

/// Restores the newest state and compares.
#[track_caller]
pub fn assert_restored(walkeep: &Walkeep, expected: &Digest) {
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}
