//! Clusters that are laid out in other ways than most: every one comes back as it was, in modes and directories too.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use walkeep_pg_integration::compare::verify_backup;
use walkeep_pg_integration::user::{TestUser, create_directory, write_file};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Scratch, Seed, StopMode, Walkeep, Workload, amcheck, checksums, scenario,
};

/// Type and mode of everything below `root`, except where recovery and a running server come and go.
fn modes(root: &Path) -> BTreeMap<PathBuf, String> {
    let passing = [
        "pg_wal",
        "pg_stat",
        "pg_stat_tmp",
        "pg_replslot",
        "pg_subtrans",
        "pg_notify",
        "pg_logical",
        "pg_xact",
        "pg_multixact",
        "pg_dynshmem",
        "pg_serial",
        "pg_snapshots",
        "pg_commit_ts",
        "pg_twophase",
    ];
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a cluster can be listed").flatten() {
            let metadata = entry.path().symlink_metadata().expect("the server is stopped");
            let inside = entry.path().strip_prefix(root).expect("it lies below").to_owned();
            let kind = if metadata.is_dir() {
                'd'
            } else if metadata.is_symlink() {
                'l'
            } else {
                'f'
            };
            found.insert(inside.clone(), format!("{kind} {:o}", metadata.permissions().mode() & 0o7777));
            if kind == 'd' && !passing.iter().any(|name| inside == Path::new(name)) {
                directories.push(entry.path());
            }
        }
    }
    // Files that a restore adds, a server leaves, or nobody needs twice.
    for name in ["postmaster.opts", "recovery.signal", "backup_manifest", "backup_label", "tablespace_map", "pg_wal"] {
        found.remove(Path::new(name));
    }
    found.retain(|path, _| !path.ends_with("pg_internal.init") && !path.to_string_lossy().ends_with("_fsm"));
    found
}

fn modes_and_empty_directories_come_back(major: MajorVersion) {
    let mut cluster = Cluster::options(major).group_access().wal_segment_mb(64).setting("autovacuum", "off").create();
    let walkeep = Walkeep::set_up(&cluster);
    Workload::seeded(Seed::take()).rows(200).populate(&cluster);
    create_directory(&cluster.data().join("empty"));
    create_directory(&cluster.data().join("empty/inside"));
    let script = cluster.data().join("script.sh");
    write_file(&script, "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).expect("it is ours");
    write_file(&cluster.data().join("odd name ü\t'\"%"), "odd");
    write_file(&cluster.data().join("empty file"), "");
    std::os::unix::fs::symlink("postgresql.conf", cluster.data().join("link")).expect("links can be made");
    walkeep.backup(&[]);
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    cluster.stop(StopMode::Fast);

    let mut restored = walkeep.restore().files();
    verify_backup(restored.data(), &["-i", "link"]).ok();
    let top = |cluster: &Cluster| fs::metadata(cluster.data()).expect("it is there").permissions().mode() & 0o7777;
    assert_eq!((top(&cluster), top(&restored)), (0o750, 0o750));
    let (before, after) = (modes(cluster.data()), modes(restored.data()));
    let differ: Vec<_> = before.iter().filter(|(path, mode)| after.get(*path) != Some(mode)).collect();
    // Unlogged relations are made anew by the server; their files of other forks than the first one are not restored.
    let unlogged = |path: &Path| before.contains_key(Path::new(&format!("{}_init", path.display())));
    let differ: Vec<_> = differ.into_iter().filter(|(path, _)| !unlogged(path)).collect();
    assert!(differ.is_empty(), "missing or changed: {differ:?}");
    let more: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert!(more.is_empty(), "nobody asked for {more:?}");
    assert_eq!(fs::read_link(restored.data().join("link")).ok().as_deref(), Some(Path::new("postgresql.conf")));

    restored.start();
    restored.wait_writable();
    expected.assert_recovered(&Digest::of(&restored));
    restored.stop(StopMode::Fast);
    checksums(&mut restored);
}
scenario!(per_major, modes_and_empty_directories_come_back);

fn a_linked_pg_wal_becomes_a_plain_one(major: MajorVersion) {
    let elsewhere = Scratch::new("wal");
    let wal = elsewhere.path().join("wal");
    let options = Cluster::options(major).checksums(false).wal_segment_mb(1);
    let cluster = options.initdb_arg(&format!("--waldir={}", wal.display())).create();
    let walkeep = Walkeep::set_up(&cluster);
    walkeep.run(&["check"]).assert_says("damaged pages are backed up unnoticed");
    Workload::seeded(Seed::take()).rows(200).populate(&cluster);
    let backup = walkeep.backup(&[]);
    assert_eq!(backup["data_checksums"], false, "{backup}");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    let mut restored = walkeep.restore().files();
    assert!(restored.data().join("pg_wal").symlink_metadata().expect("PostgreSQL needs it").is_dir());
    verify_backup(restored.data(), &[]).ok();
    restored.start();
    restored.wait_writable();
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
}
scenario!([V13, V16, V18], full [V14, V15, V17], a_linked_pg_wal_becomes_a_plain_one);

fn tablespaces_go_where_they_are_told(major: MajorVersion) {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(Seed::take()).rows(200);
    workload.populate(&cluster);
    let place = workload.populate_tablespace(&cluster);
    let oid: String = cluster.query_one("select oid from pg_tablespace where spcname = 'aside'");
    walkeep.backup(&[]);
    cluster.sql("insert into aside_rows select i, 'behind the backup' from generate_series(1000, 1100) i");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();

    // In its old place is the original: nothing is overwritten.
    let refused = walkeep.restore().output().expect_code(7);
    refused.assert_says(&format!("tablespace {oid}"));
    refused.assert_says(&format!("--tablespace-map {oid}=DIR"));
    walkeep.restore().args(&["--tablespace-map", "99999=/nowhere"]).output().expect_code(2).assert_says(&oid);

    let restore = walkeep.restore().map_tablespaces(&cluster);
    let mut restored = restore.files();
    verify_backup(restored.data(), &[]).ok();
    restored.start();
    restored.wait_writable();
    let location: String = restored.query_one(&format!("select pg_tablespace_location({oid})"));
    assert_ne!(Path::new(&location), place);
    expected.assert_recovered(&Digest::of(&restored));
    amcheck(&restored);
    drop(restored);

    // With the original out of the way, everything returns to where it was.
    cluster.stop(StopMode::Fast);
    let aside = place.with_extension("gone");
    Output::of(TestUser::get().command("mv").arg(&place).arg(&aside)).ok();
    let restored = walkeep.restore().promoted();
    assert_eq!(
        restored.query_one::<String>(&format!("select pg_tablespace_location({oid})")),
        place.display().to_string()
    );
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!(per_major, tablespaces_go_where_they_are_told);

fn in_place_tablespaces_come_back(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).setting("allow_in_place_tablespaces", "on").create();
    let walkeep = Walkeep::set_up(&cluster);
    cluster.sql("create tablespace inside location ''");
    cluster.sql("create table inside_rows tablespace inside as select i, md5(i::text) from generate_series(1, 3000) i");
    let first = walkeep.backup(&[]);
    assert!(first["tablespaces"][0]["location"].is_null(), "{first}");
    cluster.sql("update inside_rows set i = i + 1 where i % 7 = 0");
    walkeep.backup(&[]);
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    for backup in walkeep.backups() {
        let id = backup["id"].as_str().expect("backups have names");
        let mut restored = walkeep.restore().args(&["--backup", id]).files();
        verify_backup(restored.data(), &[]).ok();
        restored.start();
        restored.wait_writable();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!(per_major, in_place_tablespaces_come_back);
