//! Sudden death: SIGKILL at random moments, under load, again and again. Nothing acknowledged is lost, nothing needs
//! repair.
//!
//! PostgreSQL's own archiver rests for seconds after each failure, so most kills happen under an archiver of ours that
//! obeys the same contract: `.ready` becomes `.done` when the command has exited with 0, and not otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use sha2::Digest as _;
use walkeep_pg_integration::faults::{ObjectKind, kill_at_random, objects};
use walkeep_pg_integration::wait::{SOON, try_poll};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load, pgbench_trickle};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, Walkeep, amcheck, create_marker, is_full_run, scenario, wait_until,
};

/// How many of each command die; the long campaign is for `WALKEEP_FULL=1`.
fn deaths() -> usize {
    if is_full_run() { 1000 } else { 100 }
}

/// PostgreSQL's archiver, except that its commands are killed while `killing` is set.
struct Archiver<'a> {
    cluster: &'a Cluster,
    walkeep: &'a Walkeep,
    /// What was acknowledged: name and hash of the content.
    acknowledged: BTreeMap<String, Vec<u8>>,
    rng: StdRng,
}

impl Archiver<'_> {
    fn status(&self, name: &str, kind: &str) -> PathBuf {
        self.cluster.data().join(format!("pg_wal/archive_status/{name}.{kind}"))
    }

    /// The oldest file that waits; history files would go first, as PostgreSQL does it.
    fn next(&self) -> Option<String> {
        let entries = fs::read_dir(self.cluster.data().join("pg_wal/archive_status")).ok()?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.strip_suffix(".ready").map(str::to_owned)).min()
    }

    /// Tries to archive one file; says whether the command was killed.
    fn push(&mut self, name: &str, kill_within: Option<Duration>) -> bool {
        let path = self.cluster.data().join("pg_wal").join(name);
        let content = hash(&path);
        let mut command = self.walkeep.command(&["archive-push"]);
        let mut child = command.arg(&path).stderr(Stdio::piped()).spawn().expect("walkeep can be started");
        let killed = kill_within.is_some_and(|latest| kill_at_random(&mut child, latest, &mut self.rng));
        let output = child.wait_with_output().expect("it is our child");
        if output.status.success() {
            self.acknowledged.insert(name.to_owned(), content);
            // One step, as PostgreSQL takes it: with both there, the server may remove one any time.
            rustix::fs::rename(self.status(name, "ready"), self.status(name, "done")).expect("it was there");
        } else {
            assert!(killed, "archive-push failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        killed
    }

    /// Archives until `over`, killing until enough have died.
    fn run(&mut self, over: &AtomicBool, killed: &AtomicUsize) {
        let usual = {
            self.cluster.switch_wal();
            let started = Instant::now();
            let first = self.next().expect("a segment was just closed");
            self.push(&first, None);
            started.elapsed()
        };
        while !over.load(Ordering::Relaxed) {
            // Some live, or a segment would be tried for ever and backups wait in vain.
            let wanted = killed.load(Ordering::Relaxed) < deaths();
            let kill = wanted && self.rng.random_bool(0.6);
            let Some(name) = self.next() else {
                if wanted {
                    self.cluster.switch_wal();
                } else {
                    try_poll(Duration::from_millis(200), || self.next());
                }
                continue;
            };
            if self.push(&name, kill.then_some(usual.mul_f32(1.2))) {
                killed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn hash(path: &Path) -> Vec<u8> {
    sha2::Sha256::digest(fs::read(path).expect("PostgreSQL keeps what is not archived")).to_vec()
}

/// Ends the archiver's thread however the scope ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn backup_command(walkeep: &Walkeep) -> Child {
    let mut command = walkeep.command(&["backup", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("walkeep can be started")
}

fn survives_two_hundred_deaths(major: MajorVersion) {
    let seed = Seed::take();
    // `archive_command` stays empty: segments wait in pg_wal for the archiver above.
    let cluster = Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "32MB").create();
    let walkeep = Walkeep::new(&cluster);
    walkeep.init(&[]).ok();
    pgbench_init(&cluster, 1);
    let load = pgbench_trickle(&cluster, seed, 40);
    let mut rng = seed.rng();
    let mut archiver = Archiver {
        cluster: &cluster,
        walkeep: &walkeep,
        acknowledged: BTreeMap::new(),
        rng: Seed::fixed(seed.value() + 1).rng(),
    };
    let (over, pushes_killed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut acknowledged = Vec::new();
    let started = Instant::now();
    let expected = std::thread::scope(|scope| {
        let _end = SetOnDrop(&over);
        let archiving = scope.spawn(|| archiver.run(&over, &pushes_killed));
        let mut backups_killed = 0;
        let mut usual = Duration::from_secs(1);
        let mut attempt = 0;
        while backups_killed < deaths() || pushes_killed.load(Ordering::Relaxed) < deaths() {
            assert!(!archiving.is_finished(), "the archiver gave up");
            // Now and then one lives: it meets what the dead left behind, and measures how long a life is.
            let lives = attempt % 12 == 0 || backups_killed >= deaths();
            let begun = Instant::now();
            let mut child = backup_command(&walkeep);
            let killed = !lives && kill_at_random(&mut child, usual.mul_f32(1.1), &mut rng);
            let output = child.wait_with_output().expect("it is our child");
            if output.status.success() {
                let backup: serde_json::Value = serde_json::from_slice(&output.stdout).expect("backup --json");
                acknowledged.push(backup["id"].as_str().expect("backups have names").to_owned());
                usual = begun.elapsed();
            } else {
                assert!(killed, "a backup failed by itself: {}", String::from_utf8_lossy(&output.stderr));
            }
            backups_killed += usize::from(killed);
            attempt += 1;
        }
        load.stop();
        eprintln!(
            "{} deaths each in {} s; {} backups lived",
            deaths(),
            started.elapsed().as_secs(),
            acknowledged.len()
        );
        // The next run needs no repair, and the death of so many has left no damage.
        walkeep.verify();
        let last = walkeep.backup(&[]);
        assert_eq!(last["status"], "ok", "{last}");
        create_marker(&cluster, "the end");
        let expected = Digest::of(&cluster);
        cluster.switch_wal();
        expected
    });
    while let Some(name) = archiver.next() {
        assert!(!archiver.push(&name, None));
    }
    walkeep.verify();
    assert!(objects(walkeep.repository_dir(), ObjectKind::Leases).is_empty(), "the dead still hold leases");

    let listed: Vec<String> = walkeep.backups().iter().filter_map(|b| Some(b["id"].as_str()?.to_owned())).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !listed.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged backups are not listed: {lost:?}");
    for (name, content) in &archiver.acknowledged {
        let delivered = walkeep.scratch().path().join("delivered");
        let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
        Output::of(command.arg(walkeep.repository()).arg(name).arg(&delivered)).ok();
        assert_eq!(hash(&delivered), *content, "{name} is not what was acknowledged");
    }
    eprintln!("{} segments, {} backups listed", archiver.acknowledged.len(), listed.len());

    let oldest = listed.first().expect("some lived");
    for args in [&[][..], &["--backup", oldest.as_str()]] {
        let restored = walkeep.restore().args(args).promoted();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!([V17], survives_two_hundred_deaths);

/// The whole server dies with its archive commands, several times; PostgreSQL's own archiver picks up by itself.
fn survives_the_deaths_of_the_server(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    let mut cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    for _ in 0..4 {
        let load = pgbench_load(&cluster, seed);
        let segments: u32 = rng.random_range(2..6);
        let enough = format!("select archived_count >= {segments} from pg_stat_archiver");
        cluster.sql("select pg_stat_reset_shared('archiver')");
        wait_until("some segments to be archived", SOON, || cluster.query_one::<String>(&enough) == "t");
        cluster.kill9();
        load.stop();
        cluster.start();
    }
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    walkeep.verify();
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}
scenario!([V13, V18], survives_the_deaths_of_the_server);
