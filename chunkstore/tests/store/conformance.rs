//! One set of promises, kept by every storage.

use walkeep_chunkstore::ErrorKind;
use walkeep_chunkstore::storage::{Fault, FaultyStorage, LocalStorage, MemoryStorage, ObjectKey, Put, Storage};

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn keeps_its_promises(storage: &dyn Storage) {
    assert!(storage.list("").unwrap().is_empty());
    assert_eq!(storage.put_if_absent(&key("a/b/one"), b"first").unwrap(), Put::Created);
    assert_eq!(storage.put_if_absent(&key("a/b/one"), b"second").unwrap(), Put::AlreadyExists);
    assert_eq!(storage.get(&key("a/b/one"), 100).unwrap(), b"first", "create-if-absent never replaces");
    assert_eq!(storage.get_range(&key("a/b/one"), 1..3).unwrap(), b"ir");
    assert_eq!(storage.get_range(&key("a/b/one"), 1..9).unwrap_err().kind(), ErrorKind::Damaged);
    assert_eq!(storage.get(&key("a/b/one"), 4).unwrap_err().kind(), ErrorKind::Damaged, "longer than allowed");
    assert_eq!(storage.get(&key("a/x"), 9).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(storage.get_range(&key("a/x"), 0..1).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((storage.size(&key("a/b/one")).unwrap(), storage.size(&key("a/b")).unwrap()), (Some(5), None));
    storage.make_durable(&key("a/b/one")).unwrap();

    let mut writer = storage.writer().unwrap();
    writer.write(b"in ").unwrap();
    assert_eq!(storage.list("").unwrap().len(), 1, "an object in the making is invisible");
    writer.write(b"two parts").unwrap();
    assert_eq!(writer.publish(&key("a/b/two")).unwrap(), Put::Created);
    drop(storage.writer().unwrap());
    storage.put_if_absent(&key("a/bb"), b"").unwrap();
    let listed = |prefix: &str| -> Vec<String> {
        storage.list(prefix).unwrap().iter().map(|info| format!("{}:{}", info.key, info.size)).collect()
    };
    assert_eq!(listed(""), ["a/b/one:5", "a/b/two:12", "a/bb:0"]);
    assert_eq!(listed("a/b/t"), ["a/b/two:12"]);
    assert_eq!(listed("a/b"), ["a/b/one:5", "a/b/two:12", "a/bb:0"]);
    assert!(listed("a/c").is_empty() && listed("z/").is_empty());

    storage.overwrite(&key("leases/x"), b"1").unwrap();
    storage.overwrite(&key("leases/x"), b"22").unwrap();
    assert_eq!(storage.get(&key("leases/x"), 9).unwrap(), b"22");
    storage.delete(&key("leases/x")).unwrap();
    storage.delete(&key("leases/x")).unwrap();
    assert_eq!(storage.size(&key("leases/x")).unwrap(), None);
}

#[test]
fn memory() {
    keeps_its_promises(&MemoryStorage::new());
}

#[test]
fn local() {
    let directory = tempfile::tempdir().unwrap();
    keeps_its_promises(&LocalStorage::create(&directory.path().join("new/place")).unwrap());
}

#[test]
fn faulty_without_its_fault() {
    keeps_its_promises(&FaultyStorage::new(MemoryStorage::new(), Fault::Full, u64::MAX));
}

/// Many threads publish one key: one of them creates it, all others learn that it exists, nobody sees a part of it.
#[test]
fn only_one_creates() {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::create(directory.path()).unwrap();
    for round in 0..20 {
        let key = key(&format!("race/{round}"));
        let created = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8_u8)
                .map(|racer| {
                    let (storage, key) = (&storage, &key);
                    scope.spawn(move || storage.put_if_absent(key, &[racer; 1000]).unwrap() == Put::Created)
                })
                .collect();
            racers.into_iter().filter(|_| true).map(|racer| racer.join().unwrap()).filter(|created| *created).count()
        });
        assert_eq!(created, 1);
        let content = storage.get(&key, 2000).unwrap();
        assert!(content.len() == 1000 && content.iter().all(|byte| *byte == content[0]));
    }
}
