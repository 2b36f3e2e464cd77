//! Sudden death of the agent and of the server, at random moments, under load.

use std::time::Duration;

use rand::RngExt;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load};
use walkeep_pg_integration::{Digest, MajorVersion, Seed, create_marker, is_full_run, scenario};

use super::follows::assert_archive_is;
use super::{assert_restored, cluster, now, status, streaming, wait_stored, walkeep};

/// How many deaths there are.
fn deaths() -> usize {
    if is_full_run() { 200 } else { 24 }
}

/// The archive is, byte for byte, what the server wrote, whoever died when.
fn the_archive_stays_the_servers(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    let mut cluster = cluster(major);
    cluster.set("wal_keep_size", "4GB");
    let walkeep = walkeep(&cluster);
    pgbench_init(&cluster, 1);
    let mut agent = streaming(&walkeep);
    walkeep.backup(&[]);
    let mut load = Some(pgbench_load(&cluster, seed));
    for death in 0..deaths() {
        std::thread::sleep(Duration::from_millis(rng.random_range(20..400)));
        if rng.random_bool(0.7) {
            agent.kill9();
            agent = streaming(&walkeep);
        } else {
            eprintln!("death {death}: the server");
            drop(load.take());
            cluster.kill9();
            cluster.start();
            load = Some(pgbench_load(&cluster, seed));
        }
    }
    drop(load);
    create_marker(&cluster, "the end");
    let expected = Digest::of(&cluster);
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    assert_eq!(status(&walkeep)["gaps"], serde_json::json!([]));
    assert_eq!(status(&walkeep)["side_branches"], serde_json::json!([]));
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
    walkeep.verify();
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V13, V15, V18], the_archive_stays_the_servers);
