//! A repository copied to another place is that repository, however often the copying broke off and whatever was damaged;
//! and one that others copied in the wrong order says what it lacks.

use std::path::Path;
use std::sync::Arc;

use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console::{Progress, Show};
use walkeep_chunkstore::ingest::Ingested;
use walkeep_chunkstore::mirror::{Class, Copying, SyncReport, Syncing, join, missing};
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::storage::{Fault, FaultyStorage, LocalStorage, MemoryStorage, ObjectKey, Storage};
use walkeep_chunkstore::verify::{Sample, VerifyOptions, VerifyReport, verify};
use walkeep_chunkstore::{ErrorKind, Result};

use crate::common::load;

/// The repository of the fixture, in memory.
fn golden() -> MemoryStorage {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/repository-format-1-tail");
    let (local, memory) = (LocalStorage::open(&directory).unwrap(), MemoryStorage::new());
    for info in local.list("").unwrap() {
        memory.put_if_absent(&info.key, &local.get(&info.key, 1 << 30).unwrap()).unwrap();
    }
    memory
}

fn open(storage: &(impl Storage + Clone + 'static)) -> Result<Arc<Repository>> {
    Ok(Arc::new(Repository::open(Arc::new(storage.clone()))?))
}

fn sync(from: &MemoryStorage, to: &dyn Storage) -> Result<SyncReport> {
    let repository = open(from)?;
    join(repository.config(), to)?;
    let from: Arc<dyn Storage> = Arc::new(from.clone());
    let missing = missing(&*from, to, &Class::ALL)?;
    let progress = Progress::start("sync", missing.bytes(), Show::Nothing);
    Syncing { repository: &repository, from: &from, to, threads: 2, progress: &progress }.run(&missing)
}

fn verified(storage: &(impl Storage + Clone + 'static)) -> VerifyReport {
    let options = VerifyOptions { sample: Sample::ALL, backup: None, jobs: 1 };
    let layout = ClusterLayout::new("golden").unwrap();
    verify(&open(storage).unwrap(), &layout, &options, &Progress::start("verify", 0, Show::Nothing)).unwrap()
}

fn keys(storage: &dyn Storage, prefix: &str) -> Vec<ObjectKey> {
    storage.list(prefix).unwrap().into_iter().map(|info| info.key).collect()
}

#[test]
fn a_copy_is_the_repository_and_a_second_run_has_nothing_to_do() {
    let from = golden();
    from.put_if_absent(&ObjectKey::new("leases/backup/x").unwrap(), b"{}").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let to = LocalStorage::create(directory.path()).unwrap();
    let report = sync(&from, &to).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(
        report.copied.objects + 1,
        keys(&golden(), "").len() as u64,
        "all but the description, which joined them"
    );
    assert_eq!(keys(&to, ""), keys(&golden(), ""), "and no lease");
    let report = verified(&to);
    assert_eq!((report.damage, report.backups, report.segments, report.tails), (Vec::new(), 2, 1, 1));
    let again = sync(&from, &to).unwrap();
    assert_eq!((again.copied.objects, again.skipped), (0, keys(&to, "").len() as u64));
}

/// The agent drops tails while others copy.
#[test]
fn a_tail_that_goes_while_others_are_copied_is_not_missed() {
    let (from, to) = (golden(), MemoryStorage::new());
    let repository = open(&from).unwrap();
    join(repository.config(), &to).unwrap();
    let listed = missing(&from, &to, &Class::ALL).unwrap();
    let tail = keys(&from, "clusters/").into_iter().find(|key| key.as_str().contains(".tail-")).unwrap();
    from.delete(&tail).unwrap();
    let progress = Progress::start("sync", listed.bytes(), Show::Nothing);
    let shared: Arc<dyn Storage> = Arc::new(from.clone());
    let syncing = Syncing { repository: &repository, from: &shared, to: &to, threads: 2, progress: &progress };
    let report = syncing.run(&listed).unwrap();
    assert!(report.is_complete(), "{report:?}");
    assert_eq!(keys(&to, ""), keys(&from, ""));
    let to = MemoryStorage::new();
    let copied = Copying { from: &from, to: &to, threads: 2, progress: &progress }.run(&listed).unwrap();
    assert_eq!(copied.objects, listed.objects.len() as u64 - 1);
    // Nothing else may go.
    let segment = keys(&from, "clusters/golden/wal/00000001/").remove(0);
    from.delete(&segment).unwrap();
    let to = MemoryStorage::new();
    assert!(Copying { from: &from, to: &to, threads: 2, progress: &progress }.run(&listed).is_err());
}

/// Broken off at every change, in three ways: whatever is listed at the target is whole, and the next run completes it.
#[test]
fn a_copy_that_breaks_off_lists_no_backup_without_its_packs() {
    let from = golden();
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::Full] {
        for at in 0.. {
            let to = MemoryStorage::new();
            let faulty = FaultyStorage::new(to.clone(), fault, at);
            let ended = sync(&from, &faulty);
            if to.size(&ObjectKey::new("walkeep.json").unwrap()).unwrap().is_some() {
                let report = verified(&to);
                assert_eq!(report.damage, [], "{fault:?} at {at}");
            }
            assert!(sync(&from, &to).unwrap().is_complete(), "{fault:?} at {at}");
            assert_eq!(keys(&to, ""), keys(&from, ""), "{fault:?} at {at}");
            if ended.is_ok() {
                break;
            }
        }
    }
}

/// One object after the other damaged at its source, by a flipped bit and by a cut: it is named and left behind, and what
/// is listed at the target is whole.
#[test]
fn damage_does_not_travel() {
    let golden = golden();
    for info in golden.list("").unwrap() {
        if info.key.as_str() == "walkeep.json" {
            continue;
        }
        let bytes = golden.get(&info.key, 1 << 30).unwrap();
        let flips = [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1].map(|at| {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            damaged
        });
        for damaged in flips.into_iter().chain([bytes[..bytes.len() / 2].to_vec(), Vec::new()]) {
            let (from, to) = (golden.fork(), MemoryStorage::new());
            from.overwrite(&info.key, &damaged).unwrap();
            let report = sync(&from, &to).unwrap();
            if info.key.as_str().contains("/identity/") && report.is_complete() {
                // A digit that became another is no damage that anybody could see.
                continue;
            }
            assert_eq!(report.damaged[0].object, info.key.to_string(), "{report:?}");
            assert_eq!(to.size(&info.key).unwrap(), None, "'{}' was copied", info.key);
            let no_pack_is_missing = |report: VerifyReport| report.damage.iter().all(|d| !d.problem.contains("pack"));
            assert!(no_pack_is_missing(verified(&to)), "after '{}': {:?}", info.key, verified(&to));
            if info.key.as_str().starts_with("nodes/") || info.key.as_str().starts_with("packs/") {
                let listed = keys(&to, "clusters/golden/backups/").len();
                assert_eq!(listed + report.held_back.len(), 2, "{report:?}");
                assert!(!report.held_back.is_empty(), "'{}' is needed by some backup: {report:?}", info.key);
            }
        }
    }
}

#[test]
fn an_object_of_another_repository_stays_behind() {
    let (from, to) = (golden(), MemoryStorage::new());
    let key = keys(&from, "clusters/golden/wal/00000001/").remove(0);
    let mut foreign = from.get(&key, 1 << 30).unwrap();
    foreign[20] ^= 1;
    from.overwrite(&key, &foreign).unwrap();
    let report = sync(&from, &to).unwrap();
    assert!(report.damaged[0].problem.contains("belongs to repository"), "{report:?}");
}

#[test]
fn nothing_at_the_target_is_replaced() {
    let from = golden();
    for key in keys(&from, "").into_iter().filter(|key| key.as_str() != "walkeep.json") {
        let to = MemoryStorage::new();
        sync(&from, &to).unwrap();
        to.overwrite(&key, b"shorter").unwrap();
        let report = sync(&from, &to).unwrap();
        assert_eq!((report.damaged.len(), report.copied.objects), (1, 0), "{report:?}");
        assert_eq!(report.damaged[0].object, key.to_string());
        assert_eq!(to.get(&key, 100).unwrap(), b"shorter");
    }
    let other = MemoryStorage::new();
    Repository::init(Arc::new(other.clone()), jiff::Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(sync(&from, &other).unwrap_err().kind(), ErrorKind::Conflict, "another repository");
}

/// What a tool does that copies a repository while backups are taken, the packs before the roots: roots arrive whose packs
/// do not. Everything that can be used still is, and another run of the tool repairs it.
#[test]
fn a_root_without_its_packs_is_listed_and_named_and_refused() {
    let (from, to) = (golden(), golden());
    for key in [keys(&to, "packs/"), keys(&to, "nodes/")].concat() {
        to.delete(&key).unwrap();
    }
    let (repository, layout) = (open(&to).unwrap(), ClusterLayout::new("golden").unwrap());
    let backups = repository.backups(&layout).unwrap();
    assert_eq!(backups.len(), 2, "the list works");
    let catalogue = Catalogue::load(&repository, None).unwrap();
    assert_eq!((catalogue.backups.len(), catalogue.unreadable.len()), (2, 0));
    for backup in backups {
        let manifest = backup.manifest.unwrap();
        let stored = Ingested { file_lists: manifest.file_lists, ..Ingested::default() };
        let refused = load(&repository, &stored).unwrap_err();
        assert!(refused.to_string().contains("nodes/"), "{refused}");
        assert!([ErrorKind::NotFound, ErrorKind::Damaged].contains(&refused.kind()), "{refused}");
        let damage = verified(&to).damage;
        let named = damage.iter().any(|d| d.object.contains(manifest.id.as_str()) && d.problem.contains("is missing"));
        assert!(named, "{damage:?}");
    }
    assert!(sync(&from, &to).unwrap().is_complete());
    assert_eq!(verified(&to).damage, []);
}
