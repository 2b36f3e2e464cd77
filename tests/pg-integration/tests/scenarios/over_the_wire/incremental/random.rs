//! Random histories: each backup of a long chain, restored to its own moment, is what the server was then.

use rand::RngExt;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, StopMode, Walkeep, Workload, create_marker, is_full_run, scenario,
};

use super::{EVERYTHING, take};
use crate::backup_restore::{comes_back, id};

/// Backups in a row; the long campaign is for `WALKEEP_FULL=1`.
fn rounds() -> u64 {
    if is_full_run() { 150 } else { 4 }
}

fn any_history_comes_back(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    // Buffers enough for the server to extend files in bulk; checkpoints come at any time, and autovacuum too.
    let options = Cluster::options(major).setting("summarize_wal", "on").setting("shared_buffers", "128MB");
    let options = options.setting("autovacuum_naptime", "1s").setting("checkpoint_timeout", "30s");
    let mut cluster = options.wal_segment_mb(4).create();
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(seed).rows(800);
    workload.populate(&cluster);
    workload.populate_tablespace(&cluster);
    pgbench_init(&cluster, 1);
    cluster.sql("create table bulk (i int, filler text)");
    walkeep.backup(&super::WIRE);
    for round in 0..rounds() {
        for _ in 0..rng.random_range(1..6) {
            step(&mut cluster, &mut workload, seed.value() ^ round);
        }
        let load = rng.random_bool(0.5).then(|| pgbench_load(&cluster, Seed::fixed(round)));
        let (backup, output) = take(&walkeep);
        drop(load);
        // A truncation that is not summarised yet, and a checkpoint behind it: the one thing here that needs everything.
        let is_cut = output.stderr.contains("was truncated while the backup began");
        let expected = if is_cut { "scan" } else { "incremental" };
        assert_eq!(backup["kind"], expected, "round {round}: {output}");
        assert_eq!(output.stderr.contains(EVERYTHING), is_cut, "round {round}: {output}");
        let marker = create_marker(&cluster, &format!("behind round {round}"));
        let expected = Digest::of(&cluster);
        cluster.archive_everything();
        eprintln!("round {round}: backup {} is restored", id(&backup));
        comes_back(&walkeep, &cluster, &backup, &["--target-name", &marker.name], &expected);
    }
    walkeep.verify();
}
scenario!([V17, V18], any_history_comes_back);

/// One change of any kind, and now and then what makes a summary end or a server recover.
fn step(cluster: &mut Cluster, workload: &mut Workload, seed: u64) {
    let (kind, rows) = (workload.rng().random_range(0..10), workload.rng().random_range(100..6000));
    match kind {
        0..4 => workload.churn(cluster, 10),
        4 => cluster.sql(&format!("copy bulk (i) from program 'seq {rows}'")),
        5 => {
            cluster.sql(&format!("delete from bulk where i > {}", rows / 2));
            cluster.sql("vacuum bulk");
        }
        6 => pgbench_run(cluster, 100, Seed::fixed(seed)),
        7 => cluster.sql("checkpoint"),
        8 => cluster.sql("vacuum full bulk"),
        _ => {
            cluster.stop(if rows % 2 == 0 { StopMode::Fast } else { StopMode::Immediate });
            cluster.start();
        }
    }
}
