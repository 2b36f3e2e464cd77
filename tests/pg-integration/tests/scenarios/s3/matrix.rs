//! Every fault that networks and services have shown, on every way that bytes take: each either does no harm or is an
//! error, nothing is acknowledged that is not stored, and as soon as the fault is over everything works.

use std::path::{Path, PathBuf};
use std::time::Duration;

use walkeep_pg_integration::s3::{Fault, Kind, Operation, Proxy, Rule, S3Server};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, Walkeep, create_marker, scenario, wait_until,
};

use super::{BUCKET, URL, cluster, walkeep};

/// What is done while the fault is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    Archive,
    Backup,
    Mirror,
    Restore,
    FetchWal,
}

const JOBS: [Job; 5] = [Job::Archive, Job::Backup, Job::Mirror, Job::Restore, Job::FetchWal];

/// What must become of a job while the fault is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It takes no notice.
    Success,
    /// It fails.
    Failure,
    /// It fails if it reads what the fault spoils.
    FailedRead,
    /// It depends on what it happens to ask.
    Either,
}

use Expected::{Either, FailedRead, Failure, Success};

impl Expected {
    fn allows(self, job: Job, succeeded: bool) -> bool {
        match self {
            Success => succeeded,
            Failure => !succeeded,
            FailedRead => !(succeeded && matches!(job, Job::Restore | Job::FetchWal)),
            Either => true,
        }
    }
}

/// A fault of the matrix.
struct Case {
    name: &'static str,
    rule: fn() -> Rule,
    expected: Expected,
}

const fn case(name: &'static str, expected: Expected, rule: fn() -> Rule) -> Case {
    Case { name, rule, expected }
}

/// Faults that come twice and go, and faults that stay until they are mended.
const CASES: [Case; 18] = [
    case("500 twice", Success, || Rule::new(Fault::INTERNAL_ERROR).times(2)),
    case("503 SlowDown three times", Success, || Rule::new(Fault::SLOW_DOWN).times(3)),
    case("every fourth answer is 503", Success, || Rule::new(Fault::SLOW_DOWN).every(4)),
    case("reset before the body", Success, || Rule::new(Fault::ResetBeforeBody).times(2)),
    case("reset within the body", Success, || {
        Rule::new(Fault::ResetWithinBody(1000)).on(&[Operation::PutObject]).times(2)
    }),
    case("answer lost after the commit", Success, || {
        Rule::new(Fault::ResetAfterCommit).on(&[Operation::PutObject]).times(2)
    }),
    case("answer never comes after the commit", Success, || {
        Rule::new(Fault::HangAfterCommit).on(&[Operation::PutObject]).times(1)
    }),
    case("request never answered", Success, || Rule::new(Fault::Hang).times(1)),
    case("GET bodies are cut", Success, || Rule::new(Fault::Truncate(100)).on(&[Operation::GetObject]).times(3)),
    case("GET bodies are slow", Success, || {
        Rule::new(Fault::SlowAnswer(256 << 10)).on(&[Operation::GetObject]).times(3)
    }),
    case("a bit of a GET flips", FailedRead, || Rule::new(Fault::FlipBit(70)).on(&[Operation::GetObject])),
    case("wrong ETags", Success, || Rule::new(Fault::WrongETag)),
    case("stale LIST", Either, || Rule::new(Fault::StaleList)),
    case("20 ms away", Success, || Rule::new(Fault::Delay(Duration::from_millis(20)))),
    case("100 ms away", Success, || Rule::new(Fault::Delay(Duration::from_millis(100)))),
    case("403 ExpiredToken", Failure, || Rule::new(Fault::EXPIRED_TOKEN)),
    case("an HTML page", Failure, || Rule::new(Fault::Html(200))),
    case("an HTML page that is not found", Failure, || Rule::new(Fault::Html(404))),
];

/// One cluster in a bucket, reached through a proxy, and the same cluster with a mirror in another prefix.
struct Scene {
    server: S3Server,
    proxy: Proxy,
    cluster: Cluster,
    /// Repository in the bucket.
    direct: Walkeep,
    /// Local repository, mirrored at durability `mirror`.
    mirrored: Walkeep,
}

impl Scene {
    fn new(major: MajorVersion, kind: Kind) -> Self {
        let server = S3Server::start(kind);
        server.create_bucket(BUCKET);
        let proxy = Proxy::before(&server);
        let cluster = cluster(&server, major);
        let impatient = |walkeep: &Walkeep| {
            walkeep.configure("mirror", "request_timeout", 2);
            walkeep.configure("mirror", "total_timeout", 12);
            walkeep.configure("limits", "archive_timeout", 20);
        };
        let direct = walkeep(&cluster, &server, &proxy.url()).repository_at(URL);
        let direct =
            direct.environment("WALKEEP_MIRROR_REQUEST_TIMEOUT", "2").environment("WALKEEP_MIRROR_TOTAL_TIMEOUT", "12");
        direct.init(&["--s3-endpoint", &proxy.url()]).ok();
        impatient(&direct);
        let mirrored = walkeep(&cluster, &server, &proxy.url());
        let url = "s3://walkeep-test/mirror";
        mirrored.init(&["--mirror", url, "--durability", "mirror", "--s3-endpoint", &proxy.url()]).ok();
        impatient(&mirrored);
        direct.archive_from(&cluster);
        pgbench_init(&cluster, 1);
        direct.backup(&[]);
        Self { server, proxy, cluster, direct, mirrored }
    }

    /// A segment that is complete and kept in `pg_wal`.
    fn segment(&self) -> (String, PathBuf) {
        let name = self.cluster.switch_wal();
        (name.clone(), self.cluster.data().join("pg_wal").join(name))
    }

    fn stored(&self, prefix: &str) -> Vec<String> {
        self.server.client().list(BUCKET, prefix).expect("the server itself is well")
    }

    fn fetch(&self, walkeep: &Walkeep, url: &str, segment: &str, target: &Path) -> Output {
        let _ = std::fs::remove_file(target);
        let mut command = walkeep.restore_command(&["fetch-wal", "--repo", url, segment]);
        Output::of(command.arg(target))
    }

    /// Does the job once; on success, proves that what was acknowledged is there and right.
    fn run(&self, job: Job) -> Output {
        match job {
            Job::Archive => {
                let (name, path) = self.segment();
                let pushed = self.direct.push(&path);
                if pushed.succeeded() {
                    assert!(
                        self.stored("pg/main/clusters").iter().any(|key| key.contains(&name)),
                        "{name} is not stored"
                    );
                } else {
                    assert_eq!(pushed.code, Some(1), "archive-push has no other code\n{pushed}");
                }
                pushed
            }
            Job::Mirror => {
                let (name, path) = self.segment();
                let pushed = self.mirrored.push(&path);
                if pushed.succeeded() {
                    assert!(
                        self.stored("mirror/clusters").iter().any(|key| key.contains(&name)),
                        "{name} is not mirrored"
                    );
                }
                pushed
            }
            Job::Backup => {
                pgbench_run(&self.cluster, 20, Seed::fixed(8));
                let taken = self.direct.run(&["backup", "--json"]);
                if taken.succeeded() {
                    let id = taken.json()["id"].as_str().expect("a name").to_owned();
                    assert!(self.stored("pg/main/clusters").iter().any(|key| key.ends_with(&id)), "{id} is not stored");
                }
                taken
            }
            Job::Restore => {
                let restore = self.direct.restore().args(&["--target", "immediate"]);
                let restored = restore.output();
                if restored.succeeded() {
                    assert!(restore.target().join("global/pg_control").exists());
                }
                restored
            }
            Job::FetchWal => {
                let (name, path) = self.archived();
                let target = self.direct.scratch().path().join("fetched");
                let fetched = self.fetch(&self.direct, URL, &name, &target);
                if fetched.succeeded() {
                    assert!(
                        std::fs::read(&path).ok() == std::fs::read(&target).ok(),
                        "{name} is not what was archived"
                    );
                } else {
                    assert!(fetched.code.is_some_and(|code| code >= 126), "recovery would end early\n{fetched}");
                }
                fetched
            }
        }
    }

    /// A segment that is archived and still there, found while nothing disturbs.
    fn archived(&self) -> (String, PathBuf) {
        let name = self.cluster.query_one::<String>("select last_archived_wal from pg_stat_archiver");
        let name: String = name.chars().take(24).collect();
        (name.clone(), self.cluster.data().join("pg_wal").join(name))
    }
}

fn no_fault_on_any_way_does_harm(major: MajorVersion) {
    assert_unharmed(&Scene::new(major, Kind::S3s));
}
scenario!([V17], no_fault_on_any_way_does_harm);

fn no_fault_before_any_other_server_does_harm(major: MajorVersion) {
    for kind in Kind::all().into_iter().filter(|kind| *kind != Kind::S3s) {
        eprintln!("-- {kind:?}");
        assert_unharmed(&Scene::new(major, kind));
    }
}
scenario!([V15], no_fault_before_any_other_server_does_harm);

fn assert_unharmed(scene: &Scene) {
    for case in &CASES {
        for job in JOBS {
            let planned = scene.proxy.plan((case.rule)());
            let outcome = scene.run(job);
            let hits = planned.end();
            eprintln!("{} × {job:?}: {:?}, {hits} times", case.name, outcome.code);
            let allowed = case.expected.allows(job, outcome.succeeded());
            assert!(allowed, "{} × {job:?}: expected {:?}\n{outcome}", case.name, case.expected);
            assert!(outcome.signal.is_none(), "{outcome}");
            if hits > 0 && !outcome.succeeded() {
                assert!(outcome.stderr.contains("error: "), "{outcome}");
            }
            let after = scene.run(job);
            assert!(after.succeeded(), "{} × {job:?}: not well after it\n{after}", case.name);
        }
    }
    // PostgreSQL's own archiver caught up by itself, and nothing that was acknowledged is damaged.
    create_marker(&scene.cluster, "the end");
    let expected = Digest::of(&scene.cluster);
    scene.cluster.archive_everything();
    scene.direct.verify();
    scene.mirrored.verify();
    let restored = scene.direct.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
}

/// What stays wrong until somebody mends it: exit code 4, a hint, in time, and archiving that PostgreSQL tries again.
fn what_stays_wrong_is_named(major: MajorVersion) {
    let scene = Scene::new(major, Kind::S3s);
    for (name, rule, says) in [
        ("read only", Rule::read_only as fn() -> Rule, "AccessDenied"),
        ("full", Rule::full, "QuotaExceeded"),
        ("expired", || Rule::new(Fault::EXPIRED_TOKEN), "ExpiredToken"),
        ("clock", || Rule::new(Fault::CLOCK_SKEW), "RequestTimeTooSkewed"),
        ("region", || Rule::new(Fault::WRONG_REGION), "eu-central-1"),
        ("HTML", || Rule::new(Fault::Html(200)), "not"),
    ] {
        let planned = scene.proxy.plan(rule());
        let (segment, path) = scene.segment();
        let pushed = scene.direct.push(&path).expect_code(1);
        assert!(pushed.stderr.contains(says) && pushed.stderr.contains("hint: "), "{name}\n{pushed}");
        let taken = scene.direct.run(&["backup"]);
        assert!(matches!(taken.code, Some(1 | 4)), "{name}\n{taken}");
        planned.end();
        assert!(!scene.stored("pg/main/clusters").iter().any(|key| key.contains(&segment)), "{name}: {segment}");
        scene.direct.push(&path).ok();
    }
    for outage in [Proxy::refuse as fn(&Proxy), Proxy::fall_silent] {
        outage(&scene.proxy);
        scene.direct.run(&["list"]).expect_code(4);
        let (_, path) = scene.segment();
        scene.direct.push(&path).expect_code(1);
        scene.proxy.restore();
        scene.direct.push(&path).ok();
    }
    wait_until("PostgreSQL's archiver to catch up", Duration::from_secs(180), || {
        scene
            .cluster
            .query_one::<String>("select count(*) = 0 from pg_ls_archive_statusdir() where name like '%.ready'")
            == "t"
    });
    scene.direct.verify();
}
scenario!([V16], what_stays_wrong_is_named);
