//! Two servers that write one timeline.

use std::sync::Arc;

use walkeep_chunkstore::ErrorKind;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::storage::{MemoryStorage, Storage};
use walkeep_chunkstore::wal::{Pushed, WalArchive};
use walkeep_proto::segment::WalFileName;

fn archive(storage: MemoryStorage) -> WalArchive {
    let repository: Arc<Repository> = crate::common::repository(storage).unwrap();
    WalArchive::new(repository, ClusterLayout::new("main").unwrap())
}

/// Both published before either looked again. From then on neither is acknowledged, however often it tries.
#[test]
fn nobody_is_acknowledged_after_a_lost_race() {
    let file: WalFileName = "00000002.history".parse().unwrap();
    let [one, other] = [b"1\t0/3000000\tone\n", b"1\t0/4000000\ttwo\n"];
    let storage = MemoryStorage::new();
    archive(storage.clone());
    let elsewhere = storage.fork();
    assert!(matches!(archive(storage.clone()).push(&file, one, None, 1).unwrap(), Pushed::Stored(_)));
    archive(elsewhere.clone()).push(&file, other, None, 1).unwrap();
    for object in elsewhere.list("clusters/main/wal/").unwrap() {
        storage.put_if_absent(&object.key, &elsewhere.get(&object.key, 1 << 20).unwrap()).unwrap();
    }
    let archive = archive(storage);
    for content in [one, other, one] {
        assert_eq!(archive.push(&file, content, None, 1).unwrap_err().kind(), ErrorKind::Conflict);
    }
    assert_eq!(archive.contains(&file).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(archive.fetch(&file).unwrap_err().kind(), ErrorKind::Conflict);
}
