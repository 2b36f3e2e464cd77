//! What is stored comes back, costs what changed, and survives a crash at every publish step.

use crate::common::{PAGE, index, load, noise, repository, sample, store};
use walkeep_chunkstore::container::ContainerKind;
use walkeep_chunkstore::storage::{Fault, FaultyStorage, LocalStorage, MemoryStorage, ObjectKey, Storage};
use walkeep_chunkstore::{Error, ErrorKind};

#[test]
fn files_come_back() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let files = sample(1);
    let stored = store(&repository, &index, &files, None).unwrap();
    assert_eq!(load(&repository, &stored).unwrap(), files);
    assert_eq!(stored.logical_bytes, files.values().map(|content| content.len() as u64).sum::<u64>());
}

#[test]
fn the_local_driver_gives_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::create(&directory.path().join("deep/repository")).unwrap();
    let repository = repository(storage).unwrap();
    let index = index(&directory.path().join("index"), &repository).unwrap();
    let files = sample(2);
    let stored = store(&repository, &index, &files, None).unwrap();
    assert_eq!(load(&repository, &stored).unwrap(), files);
    let left = std::fs::read_dir(directory.path().join("deep/repository/.tmp")).unwrap().count();
    assert_eq!(left, 0, "files in the making");
}

#[test]
fn a_second_backup_costs_what_changed() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let mut files = sample(3);
    let first = store(&repository, &index, &files, None).unwrap();
    let same = store(&repository, &index, &files, Some(&first)).unwrap();
    assert_eq!((same.new_bytes, same.changed_pages), (0, 0));
    assert_eq!(same.file_lists, first.file_lists, "nothing new to describe");
    let relation = files.get_mut("base/1/1000").unwrap();
    for page in [3, 50, 9000, 17_000] {
        relation[page * PAGE..(page + 1) * PAGE].copy_from_slice(&noise(page as u64, PAGE));
    }
    let second = store(&repository, &index, &files, Some(&first)).unwrap();
    assert_eq!((second.changed_pages, second.new_bytes), (4, 4 * PAGE as u64));
    assert!(second.stored_bytes < 16_000, "{} bytes for four pages", second.stored_bytes);
    assert_eq!(load(&repository, &second).unwrap(), files);
}

/// Many generations of random changes, truncation and growth: each is complete by itself.
#[test]
fn every_generation_is_complete() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let mut files = sample(4);
    let mut parent = None;
    for generation in 0..12_u64 {
        let relation = files.get_mut("base/1/1000").unwrap();
        let random = noise(100 + generation, 4000);
        for pair in random.chunks_exact(2) {
            let page = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % (relation.len() / PAGE);
            relation[page * PAGE..(page + 1) * PAGE].copy_from_slice(&noise(generation << 32 | page as u64, PAGE));
        }
        match generation % 4 {
            1 => relation.truncate(relation.len() - 700 * PAGE),
            2 => relation.extend(noise(generation, 900 * PAGE + 17)),
            3 => relation.truncate(relation.len() - 17),
            _ => {}
        }
        let stored = store(&repository, &index, &files, parent.as_ref()).unwrap();
        assert_eq!(load(&repository, &stored).unwrap(), files, "generation {generation}");
        parent = Some(stored);
    }
}

#[test]
fn deleting_the_index_loses_nothing() {
    let storage = MemoryStorage::new();
    let repository = repository(storage).unwrap();
    let files = sample(5);
    let directories: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = store(&repository, &index(directories[0].path(), &repository).unwrap(), &files, None).unwrap();
    let fresh = index(directories[1].path(), &repository).unwrap();
    let second = store(&repository, &fresh, &files, None).unwrap();
    assert_eq!(second.new_bytes, 0, "the rebuilt index knows every chunk");
    assert_eq!(load(&repository, &first).unwrap(), load(&repository, &second).unwrap());
}

#[test]
fn an_index_that_is_garbage_is_built_anew() {
    let storage = MemoryStorage::new();
    let repository = repository(storage).unwrap();
    let files = sample(6);
    let directory = tempfile::tempdir().unwrap();
    store(&repository, &index(directory.path(), &repository).unwrap(), &files, None).unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        std::fs::write(entry.unwrap().path(), b"garbage").unwrap();
    }
    let again = store(&repository, &index(directory.path(), &repository).unwrap(), &files, None).unwrap();
    assert_eq!(again.new_bytes, 0);
}

/// Phantom entries are the worst an index can do: a chunk whose pack is gone must be stored again.
#[test]
fn a_pack_that_is_gone_is_not_referred_to() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage.clone()).unwrap();
    let files = sample(7);
    let first = store(&repository, &index(directory.path(), &repository).unwrap(), &files, None).unwrap();
    for pack in storage.list("packs/").unwrap() {
        storage.delete(&pack.key).unwrap();
    }
    let second = store(&repository, &index(directory.path(), &repository).unwrap(), &files, Some(&first)).unwrap();
    assert_eq!(load(&repository, &second).unwrap(), files);
}

/// The process dies before or after every single change to the storage; the disk fills at every one of them. What was
/// complete stays readable, and the next run goes through without repair.
#[test]
fn a_crash_at_every_publish_step_needs_no_repair() {
    let files = sample(8);
    let mut changed = files.clone();
    changed.get_mut("base/1/1001").unwrap()[..PAGE].copy_from_slice(&noise(777, PAGE));
    let base = MemoryStorage::new();
    let first = {
        let directory = tempfile::tempdir().unwrap();
        let repository = repository(base.clone()).unwrap();
        store(&repository, &index(directory.path(), &repository).unwrap(), &files, None).unwrap()
    };
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Full] {
        let mut at = 0;
        loop {
            let storage = base.fork();
            let directory = tempfile::tempdir().unwrap();
            let faulty = FaultyStorage::new(storage.clone(), fault, at);
            let repository = repository(faulty.clone()).unwrap();
            let opened = index(directory.path(), &repository).unwrap();
            let outcome = store(&repository, &opened, &changed, Some(&first));
            drop(opened);
            if faulty.changes() <= at {
                outcome.unwrap();
                assert!(at >= 3, "only {at} changes: packs, nodes and an index object are published");
                break;
            }
            let error = outcome.unwrap_err();
            let expected = if fault == Fault::Full { ErrorKind::Full } else { ErrorKind::Unreachable };
            assert_eq!(error.kind(), expected, "{fault:?} at {at}: {error}");
            let repository = crate::common::repository(storage).unwrap();
            assert_eq!(load(&repository, &first).unwrap(), files, "{fault:?} at {at}");
            let next =
                store(&repository, &index(directory.path(), &repository).unwrap(), &changed, Some(&first)).unwrap();
            assert_eq!(load(&repository, &next).unwrap(), changed, "{fault:?} at {at}");
            at += 1;
        }
    }
}

/// Every byte of every object flipped, every object cut: exact content or an error, never wrong content.
#[test]
fn damage_is_an_error_or_harmless() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let files = crate::common::Files::from([
        ("base/1/1001".to_owned(), noise(1, 20 * PAGE)),
        ("pg_xact/0000".to_owned(), b"status".repeat(100)),
    ]);
    let original = repository(storage.clone()).unwrap();
    let stored = store(&original, &index(directory.path(), &original).unwrap(), &files, None).unwrap();
    for object in storage.list("").unwrap() {
        let bytes = storage.get(&object.key, 1 << 30).unwrap();
        let step = (bytes.len() / 300).max(1);
        let flips = (0..bytes.len()).step_by(step).map(|at| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            damaged
        });
        let cuts = (0..bytes.len()).step_by(step * 10).map(|at| bytes[..at].to_vec());
        for damaged in flips.chain(cuts) {
            let copy = storage.fork();
            copy.overwrite(&object.key, &damaged).unwrap();
            let Ok(repository) = crate::common::repository(copy) else { continue };
            match load(&repository, &stored) {
                Ok(loaded) => assert_eq!(loaded, files, "'{}'", object.key),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

#[test]
fn an_object_of_another_repository_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let [one, other] = [MemoryStorage::new(), MemoryStorage::new()];
    let repository_one = repository(one.clone()).unwrap();
    let files = sample(10);
    store(&repository_one, &index(directory.path(), &repository_one).unwrap(), &files, None).unwrap();
    let key = one.list("index/").unwrap().remove(0).key;
    other.put_if_absent(&ObjectKey::new("walkeep.json").unwrap(), b"{}").ok();
    let foreign = MemoryStorage::new();
    let repository_two = repository(foreign.clone()).unwrap();
    foreign.put_if_absent(&key, &one.get(&key, 1 << 30).unwrap()).unwrap();
    let opened =
        walkeep_chunkstore::container::Container::open(&foreign, &key, ContainerKind::Index, repository_two.id());
    assert!(matches!(opened.err(), Some(Error::Conflict { .. })));
}
