//! Sudden death while bytes travel to a bucket.

use std::process::Stdio;
use std::time::{Duration, Instant};

use walkeep_pg_integration::faults::kill_at_random;
use walkeep_pg_integration::s3::{Kind, Proxy, S3Server};
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Digest, MajorVersion, Seed, amcheck, create_marker, is_full_run, scenario};

use super::{BUCKET, URL, cluster, walkeep};

/// How many of each command die.
fn deaths() -> usize {
    if is_full_run() { 500 } else { 50 }
}

/// Fifty backups and fifty pushes are killed on their way; nothing acknowledged is lost, the next needs no repair.
fn survives_a_hundred_deaths_on_the_way(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    let server = S3Server::start(Kind::S3s);
    server.create_bucket(BUCKET);
    let proxy = Proxy::before(&server);
    let cluster = cluster(&server, major);
    let walkeep = walkeep(&cluster, &server, &proxy.url()).repository_at(URL);
    walkeep.init(&["--s3-endpoint", &proxy.url()]).ok();
    walkeep.archive_from(&cluster);
    pgbench_init(&cluster, 1);
    // The way is long, so that death finds bytes on it.
    proxy.latency(Duration::from_millis(5));
    let (mut acknowledged, mut backups_killed, mut pushes_killed, mut attempt) = (Vec::new(), 0, 0, 0);
    let (mut usual_backup, mut usual_push) = (Duration::from_secs(1), Duration::from_millis(200));
    while backups_killed < deaths() || pushes_killed < deaths() {
        attempt += 1;
        let lives = attempt % 8 == 0;
        let begun = Instant::now();
        let mut command = walkeep.command(&["backup", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("walkeep can be started");
        let killed = !lives && kill_at_random(&mut child, usual_backup.mul_f32(1.1), &mut rng);
        let output = child.wait_with_output().expect("it is our child");
        if output.status.success() {
            let backup: serde_json::Value = serde_json::from_slice(&output.stdout).expect("backup --json");
            acknowledged.push(backup["id"].as_str().expect("a name").to_owned());
            usual_backup = begun.elapsed();
        } else {
            assert!(killed, "a backup failed by itself: {}", String::from_utf8_lossy(&output.stderr));
        }
        backups_killed += usize::from(killed);

        let path = cluster.data().join("pg_wal").join(cluster.switch_wal());
        let begun = Instant::now();
        let mut command = walkeep.command(&["archive-push"]);
        let mut child = command.arg(&path).stderr(Stdio::piped()).spawn().expect("walkeep can be started");
        let killed = !lives && kill_at_random(&mut child, usual_push.mul_f32(1.1), &mut rng);
        let output = child.wait_with_output().expect("it is our child");
        assert!(output.status.success() || killed, "{}", String::from_utf8_lossy(&output.stderr));
        if lives {
            usual_push = begun.elapsed();
            pgbench_run(&cluster, 10, seed);
        }
        pushes_killed += usize::from(killed);
    }
    proxy.latency(Duration::ZERO);
    eprintln!("{backups_killed} and {pushes_killed} deaths, {} backups lived", acknowledged.len());
    walkeep.verify();
    let last = walkeep.backup(&[]);
    assert_eq!(last["status"], "ok", "{last}");
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    walkeep.verify();
    let listed: Vec<String> = walkeep.backups().iter().filter_map(|b| Some(b["id"].as_str()?.to_owned())).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|id| !listed.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged backups are not listed: {lost:?}");
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}
scenario!([V17], survives_a_hundred_deaths_on_the_way);
