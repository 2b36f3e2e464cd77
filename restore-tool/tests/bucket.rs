//! What a repository in a bucket costs in requests, and what is said when they fail.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use synthetic::cluster::{fill, options, read_tree, restore};
use synthetic::files::{Entry, Tree, noise, store};
use synthetic::remote::{Call, Remote, unreachable};
use synthetic::{Archive, SYSTEM, Wal, manifest, size};
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::storage::Storage;
use walkeep_chunkstore::wal::{Pushed, WalArchive};
use walkeep_chunkstore::{Error, ErrorKind};
use walkeep_proto::segment::WalFileName;
use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::{ScanContext, scan_segment};
use walkeep_restore::failure::exit_and_hints;
use walkeep_restore::fetch_wal::{self, ABSENT, CANNOT_TELL, DELIVERED, Request};

/// WAL that no compressor shrinks, so that its objects are longer than what is read of them at first.
fn long_wal() -> Wal {
    let mut wal = Wal::default();
    for seed in 0..9 {
        wal.record(21, 0, 9, &noise(seed, 300_000));
        wal.commit(100 + seed as u32, 10 + seed as i64);
    }
    wal.switch();
    wal
}

/// Asks for a file as PostgreSQL does.
fn fetch(remote: &Remote, file: &str, target: &Path) -> u8 {
    let request = Request { file, path: target, cluster: Some("main") };
    fetch_wal::run(|| Ok(Arc::new(Repository::open(Arc::new(remote.clone()))?)), &request)
}

#[test]
fn a_segment_is_fetched_with_one_listing_and_one_read() {
    let (remote, directory) = (Remote::default(), tempfile::tempdir().unwrap());
    let (wal, target) = (long_wal(), directory.path().join("RECOVERYXLOG"));
    Archive::new(remote.clone()).push(&wal);
    let stored = remote.inner.list("clusters/main/wal/").unwrap();
    assert!(stored.iter().any(|info| info.size > 500_000), "all of it would be read with its end");
    for (segment, bytes) in wal.segments() {
        remote.forget();
        assert_eq!(fetch(&remote, &segment.file_name(size()), &target), DELIVERED);
        assert!(fs::read(&target).unwrap() == bytes);
        assert_eq!(remote.calls(Call::Get, "walkeep.json").len(), 1);
        assert_eq!(remote.calls(Call::Get, "clusters/").len(), 1, "the object");
        assert_eq!((remote.count(Call::Get), remote.count(Call::List), remote.count(Call::Head)), (2, 1, 0));
    }
    remote.forget();
    assert_eq!(fetch(&remote, "0000000200000000000000AA", &target), ABSENT);
    assert_eq!((remote.count(Call::Get), remote.count(Call::List), remote.count(Call::Head)), (1, 2, 0));
}

/// What is wrong, and how it is made so.
type Case = (&'static str, fn(&Remote));

#[test]
fn only_an_answer_of_the_service_proves_absence() {
    let absent = "0000000100000000000000AA";
    let cases: [Case; 7] = [
        ("no listing", |remote| remote.fail(|call, key| (call == Call::List).then(|| unreachable("list", key)))),
        ("no second listing", |remote| {
            remote.fail(|call, key| (call == Call::List && key.contains("identity")).then(|| unreachable("list", key)));
        }),
        ("no read", |remote| remote.fail(|call, key| (call == Call::Get).then(|| unreachable("read", key)))),
        ("no bucket", |remote| {
            remote.fail(|call, key| (call == Call::Get).then(|| Error::not_found(format_args!("'{key}'"))));
        }),
        ("other cluster", |remote| remove(remote, "clusters/main/identity/")),
        ("no repository", |remote| remove(remote, "walkeep.json")),
        ("a web page", |remote| {
            remote
                .inner
                .overwrite(&remote.inner.list("walkeep.json").unwrap()[0].key, b"<html>Welcome</html>")
                .unwrap();
        }),
    ];
    for (name, change) in cases {
        let (remote, directory) = (Remote::default(), tempfile::tempdir().unwrap());
        Archive::new(remote.clone()).push(&long_wal());
        assert_eq!(fetch(&remote, absent, directory.path()), ABSENT);
        change(&remote);
        assert_eq!(fetch(&remote, absent, directory.path()), CANNOT_TELL, "{name}");
    }
}

fn remove(remote: &Remote, prefix: &str) {
    for info in remote.inner.list(prefix).unwrap() {
        remote.inner.delete(&info.key).unwrap();
    }
}

/// Listed and then gone is no proof either: somebody may be moving it.
#[test]
fn a_segment_that_is_listed_and_gone_is_not_absent() {
    let (remote, directory) = (Remote::default(), tempfile::tempdir().unwrap());
    Archive::new(remote.clone()).push(&long_wal());
    remote.fail(|call, key| {
        (call == Call::Get && key.contains("/wal/")).then(|| Error::not_found(format_args!("'{key}'")))
    });
    assert_eq!(fetch(&remote, "000000010000000000000005", &directory.path().join("x")), CANNOT_TELL);
    // A service that fails is asked by its driver as often as makes sense.
    remote.forget();
    remote.fail(|_, key| Some(unreachable("read", key)));
    assert_eq!(fetch(&remote, "000000010000000000000005", &directory.path().join("x")), CANNOT_TELL);
    assert_eq!(remote.count(Call::Get), 1);
}

#[test]
fn archiving_asks_for_nothing() {
    let remote = Remote::default();
    let archive = Archive::new(remote.clone());
    let identity = archive.repository.identity(&archive.layout, "main").unwrap();
    assert_eq!(identity.system_identifier.as_u64(), SYSTEM);
    remote.forget();
    let wal = long_wal();
    archive.push(&wal);
    let segments = wal.segments().count();
    assert_eq!(remote.count(Call::Put), segments, "one object per segment");
    assert_eq!((remote.count(Call::List), remote.count(Call::Head), remote.count(Call::Get)), (0, 0, 0));
    // A second time each is proven to be what it was.
    let (segment, bytes) = wal.segments().next().unwrap();
    let context = ScanContext { segment, segment_size: size(), system_identifier: None };
    let scan = scan_segment(bytes, &context).unwrap();
    let file: WalFileName = segment.file_name(size()).parse().unwrap();
    let wal_archive = WalArchive::new(Arc::clone(&archive.repository), archive.layout.clone());
    let push = || wal_archive.push(&file, bytes, Some(&scan), 1);
    assert_eq!(push().unwrap(), Pushed::AlreadyThere);
    assert_eq!(remote.count(Call::List), 0);
    let key = remote.inner.list("clusters/main/wal/").unwrap().remove(0).key;
    let mut damaged = remote.inner.get(&key, u64::MAX).unwrap();
    damaged[200] ^= 1;
    remote.inner.overwrite(&key, &damaged).unwrap();
    assert_eq!(push().unwrap_err().kind(), ErrorKind::Damaged, "what is there is not what was pushed");
}

/// An identity at hand is taken without a question; only a host that has seen none asks.
#[test]
fn an_identity_at_hand_is_enough() {
    let (remote, layout) = (Remote::default(), ClusterLayout::new("main").unwrap());
    let archive = Archive::new(remote.clone());
    archive.register(SYSTEM + 1, MajorVersion::V18);
    let newest = || archive.repository.identity(&layout, "main").unwrap();
    for (at_hand, lists) in [(false, 1), (true, 0)] {
        if at_hand {
            remote.put_at_hand();
        }
        remote.forget();
        assert_eq!((newest().system_identifier.as_u64(), newest().major), (SYSTEM + 1, MajorVersion::V18));
        assert_eq!(remote.count(Call::List), 2 * lists, "at hand: {at_hand}");
    }
}

#[test]
fn windows_read_each_summary_once() {
    let (remote, mut wal) = (Remote::default(), Wal::default());
    let archive = Archive::new(remote.clone());
    let mut bounds = Vec::new();
    for round in 0..6 {
        bounds.push(wal.backup(50 * round));
        for seed in 0..6 {
            wal.record(21, 0, 9, &noise(100 * round as u64 + seed, 300_000));
        }
        wal.commit(100 + round as u32, 50 * round + 10);
        wal.switch();
    }
    archive.push(&wal);
    for (round, bounds) in bounds.into_iter().enumerate() {
        archive.backup(&format!("b{round}"), 1, bounds);
    }
    remote.forget();
    let catalogue = Catalogue::load(&archive.repository, Some("main")).unwrap();
    let lists = remote.count(Call::List);
    assert!(lists <= 4, "{lists} listings");
    assert_eq!(remote.calls(Call::Head, "clusters/main/wal/").len(), 0);
    remote.forget();
    let source = catalogue.archived_wal(&archive.repository).unwrap();
    let windows = catalogue.windows(&source).unwrap();
    assert_eq!(windows.branches[0].windows[0].backups.len(), 6);
    let mut reads = remote.calls(Call::Get, "clusters/main/wal/");
    assert_eq!((remote.count(Call::List), remote.count(Call::Head), remote.count(Call::Get)), (0, 0, reads.len()));
    reads.sort();
    let most = reads.chunk_by(|one, other| one == other).map(<[_]>::len).max();
    assert!(most <= Some(2), "a segment's summary and its bytes, each once: {reads:?}");
    // The same from a source that is at hand.
    let here = Arc::new(Repository::open(Arc::new(remote.inner)).unwrap());
    let local = Catalogue::load(&here, None).unwrap();
    let expected = local.windows(&local.archived_wal(&here).unwrap()).unwrap();
    assert_eq!(windows.to_string(), expected.to_string());
}

#[test]
fn a_catalogue_that_cannot_be_read_is_not_damaged() {
    let remote = Remote::default();
    let archive = Archive::new(remote.clone());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    archive.push(&wal).backup("b1", 1, bounds);
    remote.fail(|call, key| (call == Call::Get && key.contains("/backups/")).then(|| unreachable("read", key)));
    let error = Catalogue::load(&archive.repository, Some("main")).unwrap_err();
    assert_eq!(exit_and_hints(&error.into()).0.code(), 4);
}

/// A data directory of many small files and some of several regions.
fn many_files() -> Tree {
    let mut tree = synthetic::files::sample();
    for number in 0..300_u64 {
        let length = 8192 * (1 + number as usize % 3);
        tree.insert(format!("base/1/{}", 3000 + number), Entry::File(0o600, noise(1000 + number, length)));
    }
    tree.insert("base/1/9000".to_owned(), Entry::File(0o600, noise(9, 40 << 20)));
    tree
}

fn filled(storage: impl Storage + 'static, tree: &Tree) -> Arc<Repository> {
    let index = tempfile::tempdir().unwrap();
    let archive = Archive::new(storage);
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    archive.push(&wal);
    let stored = store(&archive.repository, index.path(), tree);
    archive.commit(manifest("b1", 1, bounds, stored.file_lists));
    archive.repository
}

fn restored(repository: &Arc<Repository>) -> Tree {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut options = options(&data, directory.path());
    options.tablespaces.clear();
    restore(repository, &options).unwrap();
    let mut tree = read_tree(&data);
    tree.remove("backup_manifest");
    tree
}

#[test]
fn a_restore_reads_ahead_and_in_few_requests() {
    let (remote, tree) = (Remote::default(), many_files());
    let repository = filled(remote.clone(), &tree);
    let here = Arc::new(Repository::open(Arc::new(remote.inner.clone())).unwrap());
    let expected = restored(&here);
    remote.forget();
    // More than there are workers: only fetchers of their own can bring so many under way.
    remote.wait_for_packs(6);
    let packs: u64 = remote.inner.list("packs/").unwrap().iter().map(|info| info.size).sum();
    let found = restored(&repository);
    assert!(found == expected, "another tree than from a directory");
    assert!(tree.iter().all(|(path, entry)| found.get(path) == Some(entry) || is_rewritten(path)));
    let reads = remote.calls(Call::Get, "packs/").len() as u64;
    assert!(reads <= packs.div_ceil(8 << 20) * 2 + 4, "{reads} reads of {packs} bytes");
    let nodes: u64 = remote.inner.list("nodes/").unwrap().iter().map(|info| info.size.div_ceil(1 << 20)).sum();
    assert_eq!(remote.calls(Call::Get, "nodes/").len() as u64, nodes, "every block once");
    assert_eq!((remote.calls(Call::List, "nodes/").len(), remote.calls(Call::Head, "nodes/").len()), (1, 0));
    let (lists, heads) = (remote.count(Call::List), remote.count(Call::Head));
    assert!(lists <= 6 && heads <= 1, "{lists} listings, {heads} questions for a size");
}

fn is_rewritten(path: &str) -> bool {
    ["global/pg_control", "postgresql.auto.conf"].contains(&path)
}

#[test]
fn a_read_that_fails_ends_the_restore_with_the_reason() {
    let (remote, directory) = (Remote::default(), tempfile::tempdir().unwrap());
    let repository = fill(remote.clone(), &directory.path().join("index"), Path::new("/nowhere/at/all"));
    for (rule, code) in [
        (
            (|call, key: &str| (call == Call::Get && key.starts_with("packs/")).then(|| unreachable("read", key)))
                as fn(Call, &str) -> Option<Error>,
            4,
        ),
        (|call, key| (call == Call::Get && key.starts_with("nodes/")).then(|| unreachable("read", key)), 4),
        (|call, key| (call == Call::List && key == "nodes/").then(|| unreachable("list", key)), 4),
    ] {
        remote.fail(rule);
        let place = tempfile::tempdir().unwrap();
        let error =
            restore(&repository, &options(&place.path().join("data"), &place.path().join("space"))).unwrap_err();
        assert_eq!(exit_and_hints(&error).0.code(), code, "{error:#}");
        assert!(!place.path().join("data/global/pg_control").exists());
    }
}
