//! Commits that wait for the agent survive the loss of everything else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::RngExt;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{Cluster, MajorVersion, Seed, Walkeep, is_full_run, scenario, wait_until};

use super::{ARRIVES, cluster, streaming, walkeep};

/// How often the primary is lost with its directory.
fn losses() -> usize {
    if is_full_run() { 50 } else { 8 }
}

/// Sessions that insert numbers and remember those whose commit was acknowledged.
pub struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<u64>>>,
}

impl Writers {
    const COUNT: u64 = 4;

    pub fn start(cluster: &Cluster, first: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..Self::COUNT).map(|number| {
            let (stop, session) = (Arc::clone(&stop), cluster.session("postgres"));
            std::thread::spawn(move || {
                let (mut acknowledged, mut next) = (Vec::new(), first + number);
                while !stop.load(Ordering::SeqCst) {
                    match session.try_sql(&format!("insert into acknowledged values ({next})")) {
                        Ok(()) => acknowledged.push(next),
                        Err(_) => break,
                    }
                    next += Self::COUNT;
                }
                acknowledged
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    pub fn acknowledged(self) -> Vec<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a writer ends")).collect()
    }
}

pub fn wait_synchronous(cluster: &Cluster) {
    wait_until("the agent to be the synchronous standby", ARRIVES, || {
        cluster.query_one::<u64>("select count(*) from pg_stat_replication where sync_state = 'sync'") == 1
    });
}

pub fn assert_has(cluster: &Cluster, acknowledged: &[u64]) {
    let there: Vec<u64> = cluster
        .query("select id from acknowledged")
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten()?.parse().ok())
        .collect();
    let there: std::collections::HashSet<u64> = there.into_iter().collect();
    let lost: Vec<u64> = acknowledged.iter().copied().filter(|id| !there.contains(id)).collect();
    assert!(lost.is_empty(), "{} acknowledged commits are lost: {lost:?}", lost.len());
}

pub fn make_synchronous(cluster: &Cluster) {
    cluster.set("synchronous_standby_names", "walkeep");
}

/// The primary dies under load and its directory is gone, again and again; each restored cluster is the next primary.
fn no_acknowledged_commit_is_lost(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    let mut primary = cluster(major);
    primary.sql("create table acknowledged (id bigint primary key)");
    let walkeep = walkeep(&primary);
    walkeep.configure("stream", "synchronous", true);
    let mut agent = streaming(&walkeep);
    make_synchronous(&primary);
    wait_synchronous(&primary);
    walkeep.backup(&[]);
    let mut all = Vec::new();
    for loss in 0..losses() {
        let writers = Writers::start(&primary, all.len() as u64 * 1000 + loss as u64 * 1_000_000_000);
        std::thread::sleep(Duration::from_millis(rng.random_range(50..600)));
        primary.kill9();
        let acknowledged = writers.acknowledged();
        eprintln!("loss {loss}: {} commits were acknowledged", acknowledged.len());
        all.extend(acknowledged);
        let (data, pgdata) = (primary.data().to_owned(), walkeep.scratch().path().join(format!("next-{loss}")));
        std::fs::remove_dir_all(data).expect("the data directory is there");
        // Drains: what is durable here reaches the repository.
        assert!(agent.stop().success());
        let restored = walkeep.restore().into_directory(&pgdata).command_line("archive_mode", "on").promoted();
        assert_has(&restored, &all);
        primary = restored;
        walkeep.configure("cluster", "conninfo", primary.conninfo());
        walkeep.configure("cluster", "pgdata", primary.data().display().to_string());
        agent = streaming(&walkeep);
        wait_synchronous(&primary);
        if loss % 4 == 3 {
            walkeep.backup(&[]);
        }
    }
    assert!(agent.stop().success());
    walkeep.verify();
}
scenario!([V13, V18], no_acknowledged_commit_is_lost);

/// remote_write and on are served; remote_apply would wait for ever, and `check` says so before anybody does.
fn remote_apply_is_refused(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.sql("create table acknowledged (id bigint primary key)");
    let walkeep: Walkeep = walkeep(&cluster);
    walkeep.configure("stream", "synchronous", true);
    let agent = streaming(&walkeep);
    make_synchronous(&cluster);
    wait_synchronous(&cluster);
    for level in ["remote_write", "on"] {
        cluster.sql(&format!("set synchronous_commit = {level}; insert into acknowledged values ({})", level.len()));
    }
    let findings = |walkeep: &Walkeep| {
        let report = walkeep.run(&["check", "--json"]).json();
        let found = report["findings"].as_array().expect("a list").clone();
        found.into_iter().filter(|f| f["subject"] == "synchronous_commit").collect::<Vec<_>>()
    };
    assert!(findings(&walkeep).is_empty());
    cluster.sql("create role careful; alter role careful set synchronous_commit = remote_apply");
    let found = findings(&walkeep);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["severity"], "problem", "{found:?}");
    assert!(found[0]["text"].as_str().is_some_and(|text| text.contains("careful")), "{found:?}");
    // What the server sees of us: durable, and never applied.
    let row = "select flush_lsn is not null and coalesce(replay_lsn, '0/0') = '0/0' from pg_stat_replication \
               where application_name = 'walkeep'";
    wait_until("a report", SOON, || cluster.query_one::<String>(row) == "t");
    assert!(agent.stop().success());
    cluster.set("synchronous_standby_names", "");
}
scenario!([V14, V17], remote_apply_is_refused);
