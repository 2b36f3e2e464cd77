use super::super::made_wal::{PAGE, at, bytes, identity, segment, size, spool};
use super::super::status::Beginning;
use super::*;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::storage::MemoryStorage;

struct Stage {
    _directory: tempfile::TempDir,
    store: Store<'static>,
}

impl Stage {
    fn new() -> Self {
        let (directory, spool) = spool();
        let repository = Repository::init(Arc::new(MemoryStorage::default()), Timestamp::UNIX_EPOCH).unwrap().0;
        let shared = Arc::<Shared>::default();
        // A test's process is short.
        let losses = Box::leak(Box::new(Losses::load(directory.path().to_owned(), Arc::clone(&shared))));
        let store = Store {
            spool: Arc::new(spool),
            shared,
            losses,
            archive: WalArchive::new(Arc::new(repository), ClusterLayout::new("main").unwrap()),
            identity: identity(),
            level: 1,
            ledger: Arc::default(),
            tail_interval: Duration::ZERO,
            sweep: Arc::default(),
        };
        Self { _directory: directory, store }
    }

    /// A stream of timeline 1 from segment 5 on.
    fn began(&self) {
        let (timeline, first) = (segment(1, 5).timeline, Lsn::INVALID);
        let (position, archived, server) = (at(5, 0), at(5, 0), at(8, 0));
        self.store.shared.began(Beginning { timeline, first, position, archived, server });
    }

    /// A file of the spool, with `bytes` at its beginning.
    fn spooled(&self, segment: WalSegment, bytes: &[u8], complete: bool) {
        let mut open = self.store.spool.begin(segment).unwrap();
        open.write(0, bytes).unwrap();
        if complete {
            self.store.spool.complete(open).unwrap();
        }
    }

    fn archived(&self) -> Lsn {
        self.store.shared.status().archived_lsn
    }

    fn holds(&self, segment: WalSegment) -> bool {
        self.store.archive.inventory(size()).unwrap().holds(segment)
    }
}

#[test]
fn only_what_the_repository_holds_counts_as_archived() {
    let stage = Stage::new();
    stage.began();
    stage.spooled(segment(1, 5), &bytes(segment(1, 5), b'x'), true);
    stage.spooled(segment(1, 6), &bytes(segment(1, 6), b'x'), true);
    stage.spooled(segment(1, 7), &bytes(segment(1, 7), b'x'), true);
    // What stands in its place cannot be read.
    let path = stage.store.spool.contents().unwrap()[1].path.clone();
    let elsewhere = path.with_extension("away");
    std::fs::hard_link(&path, &elsewhere).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    stage.store.round(true, &mut None).expect_err("a directory is not stored");
    assert_eq!(stage.archived(), at(6, 0), "the segment before it is");
    assert!(stage.holds(segment(1, 5)) && !stage.holds(segment(1, 6)) && !stage.holds(segment(1, 7)));
    let waiting = stage.store.spool.contents().unwrap();
    assert_eq!(waiting.len(), 2, "what is not stored stays: {waiting:?}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::hard_link(&elsewhere, &path).unwrap();
    stage.store.round(true, &mut None).unwrap();
    assert_eq!(stage.archived(), at(8, 0));
    assert!(stage.holds(segment(1, 6)) && stage.holds(segment(1, 7)));
    assert!(stage.store.spool.contents().unwrap().is_empty());
}

#[test]
fn a_tail_holds_no_more_than_what_is_durable() {
    let stage = Stage::new();
    let sent = bytes(segment(1, 5), b'x');
    stage.spooled(segment(1, 5), &sent[..4 * PAGE], false);
    stage.began();
    let (flushed, received) = (at(5, 3 * PAGE as u64), at(5, 4 * PAGE as u64));
    stage.store.shared.update(|status| (status.received_lsn, status.flushed_lsn) = (received, flushed));
    stage.store.round(true, &mut None).unwrap();
    let tail = stage.store.archive.tail(segment(1, 5), size()).unwrap().expect("a tail");
    assert_eq!((tail.end, stage.store.shared.status().stored_lsn), (flushed, flushed));
    assert!(tail.bytes == sent[..3 * PAGE]);
    assert_eq!(stage.archived(), at(5, 0), "a tail is no whole segment");
}
