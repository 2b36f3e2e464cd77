//! Base backups that the server sends: the same files, the same maps, the same restores as from the data directory.

mod incremental;
mod standby;
mod trouble;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Child;

use walkeep_pg_integration::compare::verify_backup;
use walkeep_pg_integration::user::{create_directory, write_file};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Scratch, Seed, StopMode, Walkeep, Workload, amcheck, checksums,
    create_marker, scenario, wait_until,
};

use crate::backup_faults::{copying, fails_with, spawned};
use crate::backup_restore::statistic;

const WIRE: [&str; 2] = ["--source", "replication"];

/// A backup that is busy with [`slow_file`](crate::backup_faults::slow_file): the server has sent far more than a small
/// cluster has.
fn being_sent(walkeep: &Walkeep, cluster: &Cluster) -> Child {
    let child = spawned(walkeep, &["backup", "--jobs", "1", "--source", "replication"]);
    wait_until("the server to send", SOON, || {
        let sent = "select coalesce(max(backup_streamed), 0) from pg_stat_progress_basebackup";
        cluster.query_one::<u64>(sent) > 200 << 20
    });
    child
}

/// The same from either source.
fn copying_from(source: &str, walkeep: &Walkeep, cluster: &Cluster) -> Child {
    if source == "local" { copying(walkeep) } else { being_sent(walkeep, cluster) }
}

/// Under load, with tablespaces and everything that a cluster may hold: restored to a moment, it is what it was.
fn a_running_cluster_comes_back(major: MajorVersion) {
    let cluster = Cluster::create(major);
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(Seed::take()).rows(1000);
    workload.populate(&cluster);
    workload.populate_tablespace(&cluster);
    pgbench_init(&cluster, 2);
    let load = pgbench_load(&cluster, Seed::fixed(81));
    let first = walkeep.backup(&WIRE);
    assert_eq!((&first["status"], &first["kind"]), (&"ok".into(), &"full_read".into()), "{first}");
    let second = walkeep.backup(&WIRE);
    assert_eq!((&second["kind"], &second["parent"]), (&"scan".into(), &first["id"]), "{second}");
    load.stop();
    let marker = create_marker(&cluster, "wanted");
    let expected = Digest::of(&cluster);
    workload.churn(&cluster, 5);
    cluster.archive_everything();
    walkeep.verify();
    for backup in [&first, &second] {
        let id = backup["id"].as_str().expect("backups have names");
        let restore = walkeep.restore().args(&["--backup", id]).map_tablespaces(&cluster).target_name(&marker);
        let mut restored = restore.args(&["--target-action", "promote"]).files();
        verify_backup(restored.data(), &[]).ok();
        restored.start();
        restored.wait_writable();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
        restored.stop(StopMode::Fast);
        checksums(&mut restored);
    }
}
scenario!(per_major, a_running_cluster_comes_back);

/// An idle cluster backed up both ways: the second stores next to nothing, whichever it is, and all restore to the same files.
/// With everything that a data directory may be: open to the group, its WAL elsewhere, tablespaces in place and elsewhere,
/// unlogged and temporary tables, names of all kinds.
fn both_sources_give_the_same(major: MajorVersion) {
    let elsewhere = Scratch::new("wal");
    let wal = format!("--waldir={}", elsewhere.path().join("wal").display());
    let options = Cluster::options(major).group_access().wal_segment_mb(1).initdb_arg(&wal);
    let cluster = options.setting("autovacuum", "off").setting("allow_in_place_tablespaces", "on").create();
    let walkeep = Walkeep::set_up(&cluster);
    let mut workload = Workload::seeded(Seed::take()).rows(1000);
    workload.populate(&cluster);
    workload.populate_tablespace(&cluster);
    pgbench_init(&cluster, 3);
    cluster.sql("create tablespace inside location ''");
    if major < MajorVersion::V16 {
        // The server would leave it out without a word.
        fails_with(&walkeep, &WIRE, 1, &["tablespace 'inside' is in place", "use --source local"]);
        cluster.sql("drop tablespace inside");
        // Nobody is to leave hints behind later.
        cluster.sql("vacuum pg_tablespace");
    } else {
        cluster.sql("create table inside_rows tablespace inside as select generate_series(1, 3000) i");
    }
    let session = cluster.session("postgres");
    session.sql("create temp table passing as select generate_series(1, 3000) i");
    create_directory(&cluster.data().join("empty"));
    write_file(&cluster.data().join("odd name ü\t'\"%"), "odd");
    write_file(&cluster.data().join("empty file"), "");
    cluster.sql("checkpoint");
    let mut trees = Vec::new();
    for (number, source) in ["local", "replication", "replication", "local"].into_iter().enumerate() {
        let backup = walkeep.backup(&["--source", source]);
        assert_eq!(backup["status"], "ok", "{backup}");
        if number > 0 {
            assert!(statistic(&backup, "new_bytes") < 1 << 20, "{source}: {backup}");
            assert!(statistic(&backup, "stored_bytes") < 1 << 20, "{source}: {backup}");
        }
        let id = backup["id"].as_str().expect("backups have names");
        let restore = walkeep.restore().args(&["--backup", id, "--target", "immediate"]).map_tablespaces(&cluster);
        let restored = restore.files();
        verify_backup(restored.data(), &[]).ok();
        trees.push((source, tree(restored.data())));
    }
    let (_, first) = &trees[0];
    for (source, other) in &trees[1..] {
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(first), names(other), "{source}");
        for (name, content) in first {
            assert!(other[name] == *content, "{source}: '{name}' differs");
        }
    }
}
scenario!(per_major, both_sources_give_the_same);

/// Path → permission bits and bytes.
type Tree = BTreeMap<String, (u32, Vec<u8>)>;

/// Every file and directory of a data directory and its tablespaces, but for what two backups never have in common.
fn tree(data: &Path) -> Tree {
    fn walk(root: &Path, directory: &Path, tree: &mut Tree) {
        use std::os::unix::fs::PermissionsExt;
        for entry in fs::read_dir(directory).expect("it can be listed") {
            let path = entry.expect("it can be listed").path();
            let name = path.strip_prefix(root).expect("it lies inside").display().to_string();
            // The backup's own description, the checkpoint it made, and where the restore says what it is for.
            let own = ["backup_label", "backup_manifest", "global/pg_control", "postgresql.auto.conf"];
            if own.contains(&name.as_str()) {
                continue;
            }
            let metadata = fs::metadata(&path).expect("it is there");
            let mode = metadata.permissions().mode();
            if metadata.is_dir() {
                tree.insert(name, (mode, Vec::new()));
                walk(root, &path, tree);
            } else {
                // Targets of tablespaces differ from restore to restore.
                let bytes =
                    if name == "tablespace_map" { Vec::new() } else { fs::read(&path).expect("it can be read") };
                tree.insert(name, (mode, bytes));
            }
        }
    }
    let mut tree = Tree::new();
    walk(data, data, &mut tree);
    assert!(tree.len() > 500, "{} entries", tree.len());
    tree
}

/// From another machine: no data directory in the configuration, TCP, a role with the least rights. The server compresses
/// where it can.
fn needs_no_data_directory(major: MajorVersion) {
    let options = Cluster::options(major).wal_segment_mb(1).setting("log_replication_commands", "on");
    let mut cluster = options.setting("password_encryption", "scram-sha-256").initdb();
    cluster.listen();
    cluster.start();
    cluster.let_in(&["host all,replication keeper 127.0.0.1/32 scram-sha-256"]);
    cluster.sql("create role keeper login replication password 'sesame'");
    cluster.sql("grant pg_monitor to keeper");
    for function in ["pg_create_restore_point(text)", "pg_switch_wal()"] {
        cluster.sql(&format!("grant execute on function {function} to keeper"));
    }
    let walkeep = Walkeep::new(&cluster);
    let port: u16 = cluster.query_one("show port");
    let conninfo = format!("host=127.0.0.1 port={port} user=keeper dbname=postgres password=sesame");
    let repository = walkeep.repository().to_owned();
    let mut command = walkeep.command(&["init", "--conninfo", &conninfo, "--repo"]);
    command.arg(&repository).env("WALKEEP_STATE_DIR", walkeep.scratch().path().join("state"));
    let output = Output::of(&mut command).ok();
    assert!(!output.stdout.contains("archive_command"), "{output}");
    walkeep.archive_from(&cluster);
    Workload::seeded(Seed::take()).rows(500).populate(&cluster);
    let backup = walkeep.backup(&[]);
    assert_eq!(backup["status"], "ok", "{backup}");
    let asked = commands(&cluster);
    match major {
        MajorVersion::V13 | MajorVersion::V14 => assert!(!asked[0].contains("COMPRESSION"), "{asked:?}"),
        // Debian's server compresses; the others were built without, and are asked again.
        MajorVersion::V15 => assert!(asked.len() == 1 && asked[0].contains("COMPRESSION 'zstd'"), "{asked:?}"),
        _ => assert!(asked[0].contains("COMPRESSION 'zstd'") && !asked[1].contains("COMPRESSION"), "{asked:?}"),
    }
    walkeep.configure("limits", "read_rate", "64MiB");
    walkeep.backup(&[]);
    let last = commands(&cluster).pop().expect("it was asked");
    assert!(last.contains("MAX_RATE 65536") && !last.contains("COMPRESSION"), "{last}");
    let elsewhere = conninfo.replace("dbname=postgres", "dbname=template1");
    let mut command = walkeep.command(&["init", "--conninfo", &elsewhere, "--repo"]);
    Output::of(command.arg(&repository)).expect_code(7).assert_says("it configures another cluster");
    let report = walkeep.json(&["check"]);
    let findings = report["findings"].as_array().expect("a list");
    assert!(findings.iter().any(|f| f["subject"] == "server" && f["severity"] == "ok"), "{report}");
    let summaries = findings.iter().find(|finding| finding["subject"] == "summarize_wal");
    let expected = (major >= MajorVersion::V17).then(|| "warning".into());
    assert_eq!(summaries.map(|finding| finding["severity"].clone()), expected, "{report}");
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    walkeep.verify();
    let restored = walkeep.restore().promoted();
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!([V13, V15, V18], full [V14, V16, V17], needs_no_data_directory);

/// The commands for base backups that the server has logged.
fn commands(cluster: &Cluster) -> Vec<String> {
    let log = fs::read_to_string(cluster.log_file()).expect("the log is there");
    log.lines().filter(|line| line.contains("command: BASE_BACKUP")).map(str::to_owned).collect()
}

/// `--checkpoint spread` is the server's own, `read_rate` its MAX_RATE; both are in the command that it logs.
fn the_server_is_told_how(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).setting("log_replication_commands", "on").create();
    let walkeep = Walkeep::set_up(&cluster);
    walkeep.configure("limits", "read_rate", "512MiB");
    cluster.set("checkpoint_timeout", "30s");
    walkeep.backup(&["--source", "replication", "--checkpoint", "spread"]);
    walkeep.backup(&WIRE);
    let commands = commands(&cluster);
    let [spread, fast] = commands.as_slice() else { panic!("{commands:?}") };
    assert!(spread.contains("MAX_RATE 524288") && fast.contains("MAX_RATE 524288"), "{commands:?}");
    let (old, new) = (major < MajorVersion::V15, "CHECKPOINT 'spread'");
    assert!(if old { !spread.contains(" FAST") } else { spread.contains(new) }, "{spread}");
    assert!(if old { fast.contains(" FAST") } else { fast.contains("CHECKPOINT 'fast'") }, "{fast}");
}
scenario!([V14, V18], full [V13, V15, V16, V17], the_server_is_told_how);
