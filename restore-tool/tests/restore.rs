//! A backup of synthetic files comes back exactly, and nothing is overwritten.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use synthetic::cluster::{Cluster, read_tree};
use synthetic::files::{Entry, Tree, control_file, sample};
use walkeep_proto::backup_manifest::{BackupManifest, FileChecksum};
use walkeep_proto::control_file::ControlFile;
use walkeep_restore::failure::exit_and_hints;

/// The part of a tree below a directory, with shorter names.
fn below(tree: &Tree, prefix: &str) -> Tree {
    let inside = |(name, entry): (&String, &Entry)| Some((name.strip_prefix(prefix)?.to_owned(), entry.clone()));
    tree.iter().filter_map(inside).collect()
}

#[test]
fn everything_comes_back() {
    let cluster = Cluster::new();
    let restored = cluster.restore(&cluster.options()).unwrap();
    let (data, tablespace) = (read_tree(&cluster.path("data")), read_tree(&cluster.path("tablespace")));
    let rewritten = ["global/pg_control", "postgresql.auto.conf"];
    for (path, entry) in sample() {
        if let Some(inside) = path.strip_prefix("pg_tblspc/16400/") {
            assert_eq!(tablespace.get(inside), Some(&entry), "{path}");
        } else if path != "pg_tblspc/16400" && !rewritten.contains(&path.as_str()) {
            assert!(data.get(&path) == Some(&entry), "{path} differs");
        }
    }
    assert_eq!(below(&tablespace, "PG_17_202406281/").len(), 2);
    assert_eq!(fs::read_link(cluster.path("data/pg_tblspc/16400")).unwrap(), cluster.path("tablespace"));
    for directory in ["pg_wal/archive_status", "pg_wal/summaries", "pg_replslot", "pg_stat_tmp", "pg_notify"] {
        assert_eq!(data.get(directory), Some(&Entry::Directory(0o750)), "{directory}");
    }
    assert_eq!(fs::metadata(cluster.path("data")).unwrap().permissions().mode() & 0o7777, 0o750);
    let holes = fs::metadata(cluster.path("data/base/1/1003")).unwrap();
    assert!(holes.blocks() * 512 < 100_000, "zero pages take {} bytes", holes.blocks() * 512);
    assert_eq!(restored.files, 13);
}

#[test]
fn the_directory_is_ready_for_recovery() {
    let cluster = Cluster::new();
    cluster.restore(&cluster.options()).unwrap();
    let data = read_tree(&cluster.path("data"));
    let text = |name: &str| match data.get(name) {
        Some(Entry::File(0o640, content)) => String::from_utf8(content.clone()).unwrap(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(text("recovery.signal"), "");
    assert!(text("backup_label").starts_with("START WAL LOCATION: "));
    assert_eq!(text("tablespace_map"), format!("16400 {}\n", cluster.path("tablespace").display()));
    insta::assert_snapshot!(text("postgresql.auto.conf"), @r"
    port = '5433'
    # taken out by walkeep-restore: recovery_target_name = 'old'
    # BEGIN walkeep-restore
    # Recovery from backup b1 of cluster 'main'.
    restore_command = '/usr/bin/walkeep-restore fetch-wal --repo /srv/repository --cluster main %f %p'
    primary_conninfo = ''
    primary_slot_name = ''
    recovery_end_command = ''
    archive_cleanup_command = ''
    recovery_target_timeline = '1'
    recovery_target = ''
    recovery_target_name = ''
    recovery_target_time = ''
    recovery_target_xid = ''
    recovery_target_lsn = ''
    recovery_target_inclusive = 'on'
    recovery_target_action = 'promote'
    archive_mode = 'off'
    # END walkeep-restore
    ");
    let control = fs::read(cluster.path("data/global/pg_control")).unwrap();
    let (old, new) = (ControlFile::parse(&control_file()).unwrap(), ControlFile::parse(&control).unwrap());
    assert_ne!(old.checkpoint, new.checkpoint, "without a backup_label it must not start");
    assert_eq!(new.system_identifier, old.system_identifier);
}

/// What `pg_verifybackup -n` checks: every file on disk is in the manifest with its size and checksum, and the reverse.
#[test]
fn the_manifest_describes_what_is_there() {
    let cluster = Cluster::new();
    cluster.restore(&cluster.options()).unwrap();
    let manifest = BackupManifest::parse(&fs::read(cluster.path("data/backup_manifest")).unwrap()).unwrap();
    let mut tree = read_tree(&cluster.path("data"));
    for (path, entry) in read_tree(&cluster.path("tablespace")) {
        tree.insert(format!("pg_tblspc/16400/{path}"), entry);
    }
    for ignored in ["backup_manifest", "recovery.signal"] {
        tree.remove(ignored);
    }
    for file in &manifest.files {
        let path = String::from_utf8(file.path.clone()).unwrap();
        let Some(Entry::File(_, content)) = tree.remove(&path) else { panic!("{path} is not there") };
        assert_eq!(file.size, content.len() as u64, "{path}");
        assert_eq!(file.checksum, Some(FileChecksum::Crc32c(crc32c::crc32c(&content))), "{path}");
    }
    tree.retain(|_, entry| matches!(entry, Entry::File(..)));
    assert_eq!(tree, Tree::new(), "files that the manifest does not name");
}

#[test]
fn nothing_is_overwritten() {
    let cluster = Cluster::new();
    let refusal = |options| {
        let error = cluster.restore(&options).unwrap_err();
        let (exit, hints) = exit_and_hints(&error);
        let text = walkeep_chunkstore::console::render(error.as_ref(), &hints);
        format!("{}: {}", exit.code(), text.replace(cluster.directory.path().to_str().unwrap(), ""))
    };
    fs::create_dir(cluster.path("data")).unwrap();
    fs::write(cluster.path("data/x"), "").unwrap();
    insta::assert_snapshot!(refusal(cluster.options()), @r"
    7: error: data directory '/data' is not empty: it holds 'x'
    hint: restore into a new or empty directory; nothing is ever overwritten
    ");
    fs::remove_file(cluster.path("data/x")).unwrap();
    fs::write(cluster.path("data/postmaster.pid"), "").unwrap();
    insta::assert_snapshot!(refusal(cluster.options()), @r"
    7: error: data directory '/data' holds a cluster that is running, or was when it was killed: postmaster.pid is there
    hint: stop it with `pg_ctl stop -D /data`, or restore into another directory
    ");
    fs::remove_file(cluster.path("data/postmaster.pid")).unwrap();
    fs::create_dir(cluster.path("original")).unwrap();
    fs::write(cluster.path("original/live"), "").unwrap();
    let unmapped = walkeep_restore::apply::Options { tablespaces: Vec::new(), ..cluster.options() };
    insta::assert_snapshot!(refusal(unmapped), @r"
    7: error: directory of tablespace 16400 '/original' is not empty: it holds 'live'
    hint: restore into a new or empty directory; nothing is ever overwritten
    hint: choose another directory with --tablespace-map 16400=DIR
    ");
    let mapped = |oid, to: &str| walkeep_restore::apply::Options {
        tablespaces: vec![(oid, cluster.path(to))],
        ..cluster.options()
    };
    insta::assert_snapshot!(refusal(mapped(9, "t")), @"2: error: the backup has no tablespace 9 outside the data directory; it has 16400 at '/original'");
    assert!(refusal(mapped(16401, "t")).starts_with("2: "), "an in-place tablespace has no place of its own");
    assert!(refusal(mapped(16400, "data/inside")).starts_with("2: "));
    let inside = walkeep_restore::apply::Options { target: cluster.path("repository/data"), ..cluster.options() };
    assert!(refusal(inside).starts_with("2: "));
    assert_eq!(fs::read_dir(cluster.path("data")).unwrap().count(), 0, "nothing was written");
}

#[test]
fn an_interrupted_restore_has_no_control_file() {
    let cluster = Cluster::new();
    let packs = read_tree(&cluster.path("repository/packs"));
    let pack = packs.iter().find(|(_, entry)| matches!(entry, Entry::File(..))).unwrap().0;
    fs::remove_file(cluster.path("repository/packs").join(pack)).unwrap();
    let error = cluster.restore(&cluster.options()).unwrap_err();
    assert_eq!(exit_and_hints(&error).0.code(), 5);
    assert!(error.to_string().contains("incomplete and cannot be started"), "{error:#}");
    assert!(!cluster.path("data/global/pg_control").exists());
}

#[test]
fn an_empty_directory_that_is_there_is_used() {
    let cluster = Cluster::new();
    fs::create_dir(cluster.path("data")).unwrap();
    cluster.restore(&cluster.options()).unwrap();
    let deep = walkeep_restore::apply::Options { target: cluster.path("a/b/data"), ..cluster.options() };
    fs::remove_dir_all(cluster.path("tablespace")).unwrap();
    cluster.restore(&deep).unwrap();
    assert!(cluster.path("a/b/data/global/pg_control").exists());
}
