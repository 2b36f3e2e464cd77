//! The harness itself: servers live, and its judges see what they must see.

use std::fs;

use walkeep_pg_integration::compare::{scan_pages, try_amcheck, try_checksums, verify_backup};
use walkeep_pg_integration::faults::{corrupt_page, flip_bit};
use walkeep_pg_integration::user::TestUser;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Scratch, Seed, StopMode, Workload, amcheck, checksums, create_marker,
    scenario,
};

fn stays_equal_over_a_restart(major: MajorVersion) {
    let mut cluster = Cluster::create(major);
    pgbench_init(&cluster, 1);
    let before = Digest::of(&cluster);
    cluster.stop(StopMode::Fast);
    cluster.start();
    before.assert_equal(&Digest::of(&cluster));
    amcheck(&cluster);
    cluster.stop(StopMode::Fast);
    assert!(checksums(&mut cluster).pages > 1000);
}
scenario!(per_major, stays_equal_over_a_restart);

fn survives_a_kill_with_every_kind_of_table(major: MajorVersion) {
    let seed = Seed::take();
    let mut cluster = Cluster::options(major).wal_segment_mb(1).setting("autovacuum", "off").create();
    let mut workload = Workload::seeded(seed).rows(1000);
    workload.populate(&cluster);
    workload.populate_tablespace(&cluster);
    workload.prepare_transaction(&cluster, "open at the crash");
    workload.churn(&cluster, 40);
    let marker = create_marker(&cluster, "before the kill");
    assert_eq!(marker.timeline, 1);
    let before = Digest::of(&cluster);
    cluster.kill9();
    assert!(!cluster.is_running());
    cluster.start();
    let after = Digest::of(&cluster);
    before.assert_recovered(&after);
    assert_eq!(after.table("postgres", "public.unlogged_rows"), Some("0 rows, digest 0"));
    amcheck(&cluster);
    cluster.stop(StopMode::Fast);
    checksums(&mut cluster);
}
scenario!(per_major, survives_a_kill_with_every_kind_of_table);

fn a_copy_is_verified_and_recovers_beside_the_original(major: MajorVersion) {
    let cluster = Cluster::create(major);
    let mut workload = Workload::seeded(Seed::fixed(7)).rows(500);
    workload.populate(&cluster);
    let before = Digest::of(&cluster);

    let scratch = Scratch::new("copy");
    let copy = scratch.path().join("data");
    let mut command = TestUser::get().command(cluster.tools().client("pg_basebackup"));
    command.envs(cluster.client_environment()).args(["-X", "stream", "-c", "fast", "--no-sync", "-D"]).arg(&copy);
    Output::of(&mut command).ok();
    verify_backup(&copy, &[]).ok();
    flip_bit(&copy.join("global/pg_control"), 8191);
    verify_backup(&copy, &[]).expect_code(1).assert_says("pg_control");
    flip_bit(&copy.join("global/pg_control"), 8191);
    fs::write(copy.join("standby.signal"), "").expect("the copy can be written to");

    let mut standby = Cluster::adopt(cluster.server().clone(), scratch, copy);
    standby.start();
    before.assert_recovered(&Digest::of(&standby));
    standby.promote();
    standby.sql("create table only_here (i int)");
    let differences = before.differences_after_recovery(&Digest::of(&standby));
    assert!(differences.iter().any(|line| line.starts_with("unexpected: postgres: relation")), "{differences:?}");
    assert_eq!(create_marker(&standby, "later").timeline, 2);
}
scenario!(per_major, a_copy_is_verified_and_recovers_beside_the_original);

fn archives_with_any_segment_size(major: MajorVersion) {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).checksums(false).group_access().create();
    let archive = cluster.scratch().subdirectory("archive");
    cluster.set("archive_command", &format!("cp %p {}/%f", archive.display()));
    pgbench_init(&cluster, 1);
    pgbench_run(&cluster, 50, Seed::fixed(1));
    let last = cluster.archive_everything();
    let size = fs::metadata(archive.join(&last)).expect("the last segment was archived").len();
    assert_eq!(size, 1 << 20);
    cluster.set("archive_command", "false");
    let next = cluster.switch_wal();
    assert!(next > last, "{next} after {last}");
    cluster.restart();
}
scenario!(per_major, archives_with_any_segment_size);

fn damage_is_seen(major: MajorVersion) {
    let mut cluster = Cluster::create(major);
    cluster.sql("create table t as select i, md5(i::text) from generate_series(1, 20000) i");
    cluster.sql("create index t_i on t (i)");
    cluster.sql("checkpoint");
    let (table, index) = (cluster.relation_file("t"), cluster.relation_file("t_i"));
    let before = Digest::of(&cluster);
    cluster.sql("update t set i = 0 where i = 77");
    let differences = before.differences(&Digest::of(&cluster));
    assert!(
        matches!(differences.as_slice(), [only] if only.starts_with("postgres: rows of public.t:")),
        "{differences:?}"
    );

    cluster.stop(StopMode::Fast);
    checksums(&mut cluster);
    corrupt_page(&mut cluster, &table, 3);
    corrupt_page(&mut cluster, &index, 2);
    let report = try_checksums(&mut cluster).expect("pg_checksums agrees");
    assert_eq!(report.failures.len(), 2, "{report:?}");
    assert_eq!(report, scan_pages(cluster.data()));
    cluster.start();
    let damage = try_amcheck(&cluster).expect_err("amcheck reads the damaged pages");
    assert!(damage.contains("invalid page"), "{damage}");
}
scenario!(per_major, damage_is_seen);

fn a_server_that_cannot_start_says_why(major: MajorVersion) {
    let mut cluster = Cluster::options(major).initdb();
    cluster.command_line("shared_preload_libraries", "no_such_library");
    let failure = cluster.try_start().expect_err("the library does not exist");
    assert!(failure.log.contains("no_such_library"), "{failure}");
    cluster.command_line("shared_preload_libraries", "");
    cluster.start();
}
scenario!([V13, V18], a_server_that_cannot_start_says_why);
