//! The agent's host loses its power: what it had promised is on its disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngExt;
use walkeep_pg_integration::faults::PoweredDisk;
use walkeep_pg_integration::{Cluster, MajorVersion, Seed, Walkeep, is_full_run, scenario};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;

use super::follows::fetch;
use super::synchronous::{Writers, assert_has, make_synchronous, wait_synchronous};
use super::{cluster, now, status, streaming};

/// How often the power fails.
fn failures() -> usize {
    if is_full_run() { 50 } else { 6 }
}

/// Asks the server again and again what the agent has told it to be durable.
struct Told {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Lsn>,
}

impl Told {
    fn watch(cluster: &Cluster) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, session) = (Arc::clone(&stop), cluster.session("postgres"));
        let thread = std::thread::spawn(move || {
            let query = "select coalesce(max(flush_lsn), '0/0') from pg_stat_replication \
                         where application_name = 'walkeep'";
            let mut newest = Lsn::INVALID;
            while !stopped.load(Ordering::SeqCst) {
                let told: Lsn = session.query_one::<String>(query).parse().expect("a position");
                newest = newest.max(told);
            }
            newest
        });
        Self { stop, thread }
    }

    fn newest(self) -> Lsn {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("the watcher ends")
    }
}

/// The archive has every byte between two positions, as the server wrote it.
#[track_caller]
fn assert_bytes(walkeep: &Walkeep, cluster: &Cluster, from: Lsn, to: Lsn) {
    let size = WalSegmentSize::new(1 << 20).expect("a legal size");
    let fetched = walkeep.scratch().path().join("fetched-segment");
    for number in size.segment_at(from).get()..=size.segment_before(to).get() {
        let segment =
            WalSegment { timeline: TimelineId::FIRST, number: walkeep_proto::segment::SegmentNumber::new(number) };
        let (name, length) = (segment.file_name(size), to.saturating_sub(segment.start(size)).min(1 << 20) as usize);
        fetch(walkeep, &name, &fetched).ok();
        let written = std::fs::read(cluster.data().join("pg_wal").join(&name)).expect("the server keeps it");
        let stored = std::fs::read(&fetched).expect("fetched");
        let differs = written[..length].iter().zip(&stored).position(|(written, stored)| written != stored);
        assert_eq!(differs, None, "{name} differs from what the server has, before {to}");
    }
}

/// Spool, state and repository are on disks that fail together. The power fails under synchronous load, and then the server is
/// gone too: all that counts is what an agent finds there that cannot ask anybody.
fn what_was_promised_survives_a_power_failure(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    // One for what is being received, one for what is kept: what ext4 commits on one commits nothing on the other.
    let (spool, kept) = (PoweredDisk::mount(256), PoweredDisk::mount(512));
    let mut cluster = cluster(major);
    cluster.set("wal_keep_size", "4GB");
    cluster.sql("create table acknowledged (id bigint primary key)");
    let walkeep = Walkeep::new(&cluster).repository_at(kept.path().join("repository"));
    walkeep.init(&[]).ok();
    walkeep.configure("state", "dir", spool.path().join("state").display().to_string());
    walkeep.configure("stream", "tail_interval", "200ms");
    walkeep.configure("stream", "synchronous", true);
    let mut agent = streaming(&walkeep);
    walkeep.backup(&[]);
    make_synchronous(&cluster);
    let mut all = Vec::new();
    for failure in 0..failures() {
        wait_synchronous(&cluster);
        let before = now(&cluster);
        let told = Told::watch(&cluster);
        let writers = Writers::start(&cluster, failure as u64 * 1_000_000_000);
        // Segments complete, and their files are used again.
        (0..3).for_each(|_| drop(cluster.switch_wal()));
        std::thread::sleep(Duration::from_millis(rng.random_range(50..1500)));
        agent.kill9();
        [&spool, &kept].into_iter().for_each(PoweredDisk::lose_power);
        let told = told.newest();
        cluster.kill9();
        let acknowledged = writers.acknowledged();
        eprintln!("failure {failure}: durable up to {told}, {} commits were acknowledged", acknowledged.len());
        assert!(told > before, "nothing was promised");
        all.extend(acknowledged);

        let mut alone = walkeep.agent();
        alone.wait_ready(&walkeep);
        // Drains: what is durable here reaches the repository.
        assert!(alone.stop().success());
        assert_bytes(&walkeep, &cluster, before, told);
        cluster.start();
        agent = streaming(&walkeep);
        assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    }
    agent.kill9();
    [&spool, &kept].into_iter().for_each(PoweredDisk::lose_power);
    drop(cluster);
    walkeep.verify();
    let restored = walkeep.restore().promoted();
    assert_has(&restored, &all);
}
scenario!([V13, V16, V18], what_was_promised_survives_a_power_failure);
