//! Leases over a storage in memory, and over one that lets nobody delete.

use std::ops::Range;

use super::*;
use crate::error::ErrorKind;
use crate::storage::{MemoryStorage, ObjectInfo, ObjectWriter, Storage};

/// What credentials without `DeleteObject` see.
#[derive(Debug)]
struct AppendOnly(MemoryStorage);

impl Storage for AppendOnly {
    fn location(&self) -> String {
        self.0.location()
    }
    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        self.0.writer()
    }
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.0.get_range(key, range)
    }
    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.0.size(key)
    }
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.0.list(prefix)
    }
    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.0.overwrite(key, bytes)
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.0.make_durable(key)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        Err(Error::storage("delete", key, std::io::Error::from(std::io::ErrorKind::PermissionDenied)))
    }
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn repository(storage: impl Storage + 'static) -> Arc<Repository> {
    Arc::new(Repository::init(Arc::new(storage), NOW).unwrap().0)
}

fn take(repository: &Arc<Repository>, cluster: &str, now: Timestamp) -> Result<Lease> {
    Lease::take(repository, LeaseKind::Backup, cluster, "test", now)
}

fn states(repository: &Repository, now: Timestamp) -> Vec<LeaseState> {
    list_leases(repository).unwrap().iter().map(|lease| lease.state(now)).collect()
}

#[test]
fn one_at_a_time_per_cluster() {
    let repository = repository(MemoryStorage::new());
    let mut held = take(&repository, "a", NOW).unwrap();
    held.renew(NOW, Some("1.20 GiB of 3.40 GiB".to_owned())).unwrap();
    let refused = take(&repository, "a", NOW).unwrap_err().to_string();
    let holder = Holder::this_process();
    let pid = holder.pid.to_string();
    for told in ["cluster 'a' is in use", "'test'", &pid, &holder.host, "1.20 GiB of 3.40 GiB", "leases/backup/"] {
        assert!(refused.contains(told), "{told} in {refused}");
    }
    take(&repository, "b", NOW).unwrap();
    drop(held);
    take(&repository, "a", NOW).unwrap();
}

#[test]
fn a_dead_or_lapsed_holder_is_no_obstacle() {
    let repository = repository(MemoryStorage::new());
    let mut dead = take(&repository, "a", NOW).unwrap();
    dead.record.holder.started_ticks += 1;
    dead.write().unwrap();
    assert_eq!(states(&repository, NOW), [LeaseState::Dead]);
    let mut elsewhere = take(&repository, "a", NOW).unwrap();
    assert!(dead.renew(NOW, None).is_err(), "it was removed");
    elsewhere.record.holder.host = "elsewhere.example".to_owned();
    elsewhere.write().unwrap();
    assert!(take(&repository, "a", NOW).is_err());
    let later = NOW.checked_add(LIFETIME).unwrap();
    assert_eq!(states(&repository, later), [LeaseState::Expired]);
    take(&repository, "a", later).unwrap();
}

#[test]
fn without_the_right_to_delete_leases_still_work() {
    let storage = MemoryStorage::new();
    let repository = repository(AppendOnly(storage));
    drop(take(&repository, "a", NOW).unwrap());
    assert_eq!(states(&repository, NOW), [LeaseState::Expired], "given back");
    let mut paused = take(&repository, "a", NOW).unwrap();
    let later = NOW.checked_add(LIFETIME).unwrap();
    let mut other = take(&repository, "a", later).unwrap();
    let error = paused.renew(later, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "it was held for lapsed and could not be removed: {error}");
    other.renew(later, None).unwrap();
}

#[test]
fn a_lease_that_cannot_be_read_blocks_and_says_how_to_remove_it() {
    let repository = repository(MemoryStorage::new());
    let mut running = take(&repository, "a", NOW).unwrap();
    let key = ObjectKey::new("leases/backup/unreadable").unwrap();
    repository.storage().overwrite(&key, b"{").unwrap();
    running.renew(NOW, None).expect("what runs is not stopped by it");
    drop(running);
    let error = take(&repository, "a", NOW).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(error.to_string().contains("`walkeep unlock leases/backup/unreadable --force`"), "{error}");
    assert_eq!(states(&repository, NOW), [LeaseState::Unreadable]);
    assert!(remove_lease(&repository, &layout::config().unwrap()).is_err(), "that is no lease");
    remove_lease(&repository, &key).unwrap();
    take(&repository, "a", NOW).unwrap();
}

#[test]
fn leases_of_earlier_versions_are_read() {
    let text = r#"{"kind":"backup","cluster":"a","holder":{"host":"h","boot_id":"b","pid":7,"started_ticks":1},
        "purpose":"backup","since":"1970-01-01T00:00:00Z","expires":"1970-01-01T00:15:00Z"}"#;
    let record: LeaseRecord = serde_json::from_str(text).unwrap();
    assert_eq!((record.progress.as_ref(), record.holder.user.as_ref()), (None, None));
    assert!(record.to_string().contains("process 7 on h since"), "{record}");
}
