//! Tails over a storage in memory, over a directory with a mirror, and over listings that are out of date.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use super::*;
use crate::error::ErrorKind;
use crate::mirror::{Durability, Keep, MirroredStorage, Remote};
use crate::repository::Repository;
use crate::repository::layout::ClusterLayout;
use crate::storage::{LocalStorage, MemoryStorage, ObjectWriter, Storage};

const SEGMENT: u32 = 1 << 20;
const NUMBER: u64 = 7;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT).unwrap()
}

fn segment() -> WalSegment {
    WalSegment { timeline: walkeep_proto::timeline::TimelineId::FIRST, number: size().segment_at(at(0)) }
}

/// The position this far inside the segment.
fn at(offset: u64) -> Lsn {
    Lsn::new(NUMBER * u64::from(SEGMENT) + offset)
}

/// The segment up to this far: a header, then what `seed` makes of it.
fn bytes(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(0xD116_u16.to_le_bytes());
    bytes.extend(2_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(at(0).as_u64().to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(77_u64.to_le_bytes());
    bytes.extend(SEGMENT.to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    bytes.extend((bytes.len()..length).map(|at| (at / 7) as u8 ^ seed));
    bytes.truncate(length);
    bytes
}

fn archive(storage: impl Storage + 'static) -> WalArchive {
    let repository = Arc::new(Repository::init(Arc::new(storage), Timestamp::UNIX_EPOCH).unwrap().0);
    WalArchive::new(repository, ClusterLayout::new("main").unwrap())
}

fn push(archive: &WalArchive, length: usize) -> Pushed {
    push_other(archive, length, 0).unwrap()
}

fn push_other(archive: &WalArchive, length: usize, seed: u8) -> Result<Pushed> {
    archive.push_tail(segment(), size(), at(length as u64), &bytes(length, seed), 1)
}

fn push_whole(archive: &WalArchive) {
    archive.push(&file(), &bytes(SEGMENT as usize, 0), None, 1).unwrap();
}

fn file() -> WalFileName {
    WalFileName::Segment(segment_name(segment(), size()).unwrap())
}

fn tail(archive: &WalArchive) -> Result<Option<usize>> {
    let tail = archive.tail(segment(), size())?;
    Ok(tail.map(|tail| {
        assert_eq!(tail.bytes, bytes(tail.bytes.len(), 0));
        assert_eq!(tail.end, at(tail.bytes.len() as u64));
        tail.bytes.len()
    }))
}

fn drop_tails(archive: &WalArchive, below: Option<u64>) -> Result<u64> {
    archive.drop_tails(segment(), size(), below.map(at))
}

/// Ends of the tails that a storage holds, as offsets in the segment.
fn ends(storage: &dyn Storage) -> Vec<u64> {
    let listed = storage.list("clusters/main/wal/").unwrap();
    listed.iter().filter_map(StoredTail::of).map(|(_, tail)| tail.end.saturating_sub(at(0))).collect()
}

fn key_of(storage: &dyn Storage, end: u64) -> ObjectKey {
    let listed = storage.list("clusters/main/wal/").unwrap();
    let tails = listed.iter().filter_map(StoredTail::of).map(|(_, tail)| tail);
    tails.into_iter().find(|tail| tail.end == at(end)).unwrap().key
}

#[test]
fn the_longest_is_served_until_the_segment_is_whole() {
    let archive = archive(MemoryStorage::new());
    assert_eq!(tail(&archive).unwrap(), None);
    assert_eq!(archive.fetch_or_tail(&file()).unwrap(), None);
    for length in [40, 20_000, 10_000] {
        assert!(matches!(push(&archive, length), Pushed::Stored(_)), "{length}");
        assert_eq!(push(&archive, length), Pushed::AlreadyThere, "{length}");
    }
    assert_eq!(tail(&archive).unwrap(), Some(20_000));
    let mut padded = bytes(20_000, 0);
    padded.resize(SEGMENT as usize, 0);
    assert!(archive.fetch_or_tail(&file()).unwrap().unwrap() == padded);
    assert_eq!(archive.fetch(&file()).unwrap(), None, "a tail is no segment");
    assert!(!archive.contains(&file()).unwrap());
    let partial: WalFileName = format!("{}.partial", file()).parse().unwrap();
    assert_eq!(archive.fetch_or_tail(&partial).unwrap(), None);
    push_whole(&archive);
    assert!(archive.fetch_or_tail(&file()).unwrap().unwrap() == bytes(SEGMENT as usize, 0));
}

#[test]
fn only_the_beginning_of_that_segment_is_taken() {
    let archive = archive(MemoryStorage::new());
    let whole = bytes(SEGMENT as usize, 0);
    let refused = |end: Lsn, bytes: &[u8], size: WalSegmentSize, segment: WalSegment, why: &str| {
        let error = archive.push_tail(segment, size, end, bytes, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
    };
    refused(at(20_000), &whole[..19_999], size(), segment(), "19999 bytes long");
    refused(at(39), &whole[..39], size(), segment(), "not inside");
    refused(at(u64::from(SEGMENT)), &whole, size(), segment(), "not inside");
    refused(Lsn::new(at(0).as_u64() - 8), &whole[..8], size(), segment(), "not inside");
    let next = WalSegment { number: segment().number.next(), ..segment() };
    refused(at(u64::from(SEGMENT) + 400), &whole[..400], size(), next, "starts at");
    let larger = WalSegmentSize::new(2 << 20).unwrap();
    let number = larger.segment_at(at(u64::from(SEGMENT)));
    let start = number.start(larger);
    refused(start.saturating_add(400), &whole[..400], larger, WalSegment { number, ..segment() }, "states segments of");
    refused(at(400), &[0; 400], size(), segment(), "zeroes");
    assert!(ends(archive.repository().storage()).is_empty());
}

#[test]
fn two_contents_up_to_one_position_are_a_conflict() {
    let storage = MemoryStorage::new();
    let archive = archive(storage.clone());
    push(&archive, 5000);
    assert_eq!(push_other(&archive, 5000, 1).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(tail(&archive).unwrap(), Some(5000), "the second is not kept");
    // Two hosts that share a bucket do not see each other's listing when they push.
    let other = storage.fork();
    for info in other.list("clusters/main/wal/").unwrap() {
        other.delete(&info.key).unwrap();
    }
    let second =
        WalArchive::new(Arc::new(Repository::open(Arc::new(other.clone())).unwrap()), archive.layout().clone());
    push_other(&second, 5000, 1).unwrap();
    let key = key_of(&other, 5000);
    storage.put_if_absent(&key, &other.get(&key, 1 << 20).unwrap()).unwrap();
    assert_eq!(tail(&archive).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(archive.fetch_or_tail(&file()).unwrap_err().kind(), ErrorKind::Conflict);
    let inventory = archive.inventory(size()).unwrap();
    assert_eq!(inventory.tails[&segment()].rivals.len(), 1);
    push(&archive, 6000);
    assert_eq!(tail(&archive).unwrap(), Some(6000), "a longer one settles it");
    assert_eq!(archive.inventory(size()).unwrap().superseded.len(), 2);
}

#[test]
fn a_damaged_tail_is_an_error_and_no_shorter_one() {
    let storage = MemoryStorage::new();
    let archive = archive(storage.clone());
    push(&archive, 5000);
    push(&archive, 9000);
    let key = key_of(&storage, 9000);
    let good = storage.get(&key, 1 << 20).unwrap();
    for at in (0..good.len()).step_by(97) {
        let mut bad = good.clone();
        bad[at] ^= 8;
        storage.overwrite(&key, &bad).unwrap();
        for outcome in [tail(&archive).map(drop), archive.fetch_or_tail(&file()).map(drop)] {
            let kind = outcome.expect_err("a flipped bit").kind();
            // A repository id that became another is that of another repository, a format that became another is newer.
            assert!([ErrorKind::Damaged, ErrorKind::Conflict, ErrorKind::Unsupported].contains(&kind), "at {at}");
        }
    }
    storage.overwrite(&key, &good[..good.len() / 2]).unwrap();
    assert_eq!(tail(&archive).unwrap_err().kind(), ErrorKind::Damaged);
    // Under a name that says another end, hash or segment.
    storage.delete(&key).unwrap();
    for (from, to) in [
        (format!("{:x}", at(9000).as_u64()), format!("{:x}", at(9008).as_u64())),
        (key.name()[47..].to_owned(), "0".repeat(16)),
    ] {
        let lying = ObjectKey::new(key.as_str().replace(&from, &to)).unwrap();
        assert_ne!(lying, key);
        storage.put_if_absent(&lying, &good).unwrap();
        assert_eq!(tail(&archive).unwrap_err().kind(), ErrorKind::Damaged, "{lying}");
        assert_eq!(archive.fetch_or_tail(&file()).unwrap_err().kind(), ErrorKind::Damaged, "{lying}");
        storage.delete(&lying).unwrap();
    }
    assert_eq!(tail(&archive).unwrap(), Some(5000));
}

#[test]
fn an_inventory_knows_the_longest_of_each() {
    let storage = MemoryStorage::new();
    let archive = archive(storage.clone());
    for length in [5000, 9000, 7000] {
        push(&archive, length);
    }
    let strange = key_of(&storage, 9000).as_str().replace(&format!("{:x}", at(9000).as_u64()), "7800000");
    storage.put_if_absent(&ObjectKey::new(strange.clone()).unwrap(), b"x").unwrap();
    let inventory = archive.inventory(size()).unwrap();
    assert_eq!(inventory.tails.len(), 1);
    assert_eq!(inventory.tails[&segment()].end, at(9000));
    assert_eq!((inventory.superseded.len(), inventory.segments.len()), (2, 0));
    assert_eq!(inventory.unknown.iter().map(ObjectKey::as_str).collect::<Vec<_>>(), [&strange], "ends elsewhere");
    assert!(!inventory.holds(segment()));
    push_whole(&archive);
    let inventory = archive.inventory(size()).unwrap();
    assert_eq!((inventory.tails.len(), inventory.superseded.len()), (0, 3));
    assert!(inventory.holds(segment()));
}

#[test]
fn the_last_goes_only_when_the_segment_is_whole() {
    let storage = MemoryStorage::new();
    let archive = archive(storage.clone());
    for length in [3000, 5000, 9000] {
        push(&archive, length);
    }
    assert_eq!(drop_tails(&archive, Some(5000)).unwrap(), 1);
    assert_eq!(ends(&storage), [5000, 9000]);
    assert_eq!(drop_tails(&archive, None).unwrap(), 1);
    assert_eq!(drop_tails(&archive, Some(10_000)).unwrap(), 0, "nothing longer is there");
    assert_eq!(ends(&storage), [9000]);
    push_whole(&archive);
    assert_eq!(drop_tails(&archive, Some(9000)).unwrap(), 0);
    assert_eq!(drop_tails(&archive, None).unwrap(), 1);
    assert!(ends(&storage).is_empty());
    assert!(archive.contains(&file()).unwrap());
}

/// A mirror to which only the test copies.
fn mirrored() -> (tempfile::TempDir, MemoryStorage, MirroredStorage) {
    let directory = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(directory.path()).unwrap();
    let mirror = MemoryStorage::new();
    let remotes = vec![Remote { storage: Arc::new(mirror.clone()), durability: Durability::Local }];
    (directory, mirror, MirroredStorage::new(local, remotes, Keep::Everything).unwrap())
}

#[test]
fn a_mirror_that_is_behind_keeps_the_longest_it_has() {
    let (_directory, mirror, storage) = mirrored();
    let archive = archive(storage.clone());
    let send = |end| {
        let key = key_of(&storage, end);
        mirror.put_if_absent(&key, &storage.get(&key, 1 << 20).unwrap()).unwrap();
    };
    push(&archive, 3000);
    send(3000);
    push(&archive, 5000);
    assert_eq!(drop_tails(&archive, Some(5000)).unwrap(), 1);
    assert_eq!((ends(&storage), ends(&mirror)), (vec![5000], vec![3000]), "the mirror has nothing better");
    send(5000);
    push(&archive, 9000);
    assert_eq!(drop_tails(&archive, Some(9000)).unwrap(), 2);
    assert_eq!((ends(&storage), ends(&mirror)), (vec![9000], vec![5000]));
    push_whole(&archive);
    assert_eq!(drop_tails(&archive, None).unwrap(), 1);
    assert_eq!((ends(&storage), ends(&mirror)), (vec![], vec![5000]), "the segment is still on its way");
    let whole = archive.inventory(size()).unwrap().segments[&segment()].key.clone();
    mirror.put_if_absent(&whole, &storage.get(&whole, 1 << 21).unwrap()).unwrap();
    assert_eq!(drop_tails(&archive, None).unwrap(), 1);
    assert!(ends(&mirror).is_empty());
}

/// What credentials without the right to delete see.
#[derive(Debug)]
struct AppendOnly(MemoryStorage);

/// Shows an old listing once.
#[derive(Clone, Debug)]
struct Late {
    inner: MemoryStorage,
    listing: Arc<Mutex<Option<Vec<ObjectInfo>>>>,
}

macro_rules! passes_through {
    ($inner:tt) => {
        fn location(&self) -> String {
            self.$inner.location()
        }
        fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
            self.$inner.writer()
        }
        fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
            self.$inner.get_range(key, range)
        }
        fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
            self.$inner.size(key)
        }
        fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
            self.$inner.overwrite(key, bytes)
        }
        fn make_durable(&self, key: &ObjectKey) -> Result<()> {
            self.$inner.make_durable(key)
        }
    };
}

impl Storage for Late {
    passes_through!(inner);
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let late = self.listing.lock().take();
        late.map_or_else(|| self.inner.list(prefix), Ok)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }
}

impl Storage for AppendOnly {
    passes_through!(0);
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.0.list(prefix)
    }
    fn delete(&self, key: &ObjectKey) -> Result<()> {
        Err(Error::storage("delete", key, std::io::Error::from(std::io::ErrorKind::PermissionDenied)))
    }
}

#[test]
fn tails_that_may_not_be_deleted_do_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let (local, mirror) = (LocalStorage::open(directory.path()).unwrap(), MemoryStorage::new());
    let remotes = vec![
        Remote { storage: Arc::new(AppendOnly(mirror.clone())), durability: Durability::Mirror },
        Remote { storage: Arc::new(MemoryStorage::new()), durability: Durability::Mirror },
    ];
    let second = Arc::clone(&remotes[1].storage);
    let archive = archive(MirroredStorage::new(local.clone(), remotes, Keep::Everything).unwrap());
    for length in [3000, 5000] {
        push(&archive, length);
    }
    assert_eq!(drop_tails(&archive, Some(5000)).unwrap_err().kind(), ErrorKind::Unreachable);
    assert_eq!((ends(&local), ends(&mirror), ends(&*second)), (vec![5000], vec![3000, 5000], vec![5000]));
    push_whole(&archive);
    assert!(drop_tails(&archive, None).is_err());
    let bucket = WalArchive::new(Arc::new(Repository::open(Arc::new(mirror)).unwrap()), archive.layout().clone());
    assert!(bucket.fetch_or_tail(&file()).unwrap().unwrap() == bytes(SEGMENT as usize, 0));
    let inventory = bucket.inventory(size()).unwrap();
    assert_eq!((inventory.tails.len(), inventory.superseded.len()), (0, 2));
}

#[test]
fn what_was_superseded_since_the_listing_is_found_again() {
    let storage = Late { inner: MemoryStorage::new(), listing: Arc::default() };
    let archive = archive(storage.clone());
    push(&archive, 3000);
    let listed = storage.inner.list("clusters/main/wal/").unwrap();
    let inventory = archive.inventory(size()).unwrap();
    let stored = &inventory.tails[&segment()];
    push(&archive, 5000);
    assert_eq!(drop_tails(&archive, Some(5000)).unwrap(), 1);
    // Whoever lists afresh gets what is there now; whoever listed before gets what he listed.
    for whole in [false, true] {
        if whole {
            push_whole(&archive);
            drop_tails(&archive, None).unwrap();
        }
        *storage.listing.lock() = Some(listed.clone());
        let found = archive.fetch_or_tail(&file()).unwrap().unwrap();
        assert_eq!(
            found.iter().rposition(|byte| *byte != 0).unwrap() >= 5000,
            whole,
            "the longer tail, then the segment"
        );
        *storage.listing.lock() = Some(listed.clone());
        assert_eq!(tail(&archive).unwrap(), if whole { None } else { Some(5000) });
        assert_eq!(archive.listed_tail(segment(), size(), stored).unwrap(), bytes(3000, 0));
    }
    for info in storage.inner.list("clusters/main/wal/").unwrap() {
        storage.delete(&info.key).unwrap();
    }
    assert_eq!(archive.listed_tail(segment(), size(), stored).unwrap_err().kind(), ErrorKind::NotFound);
    push_other(&archive, 5000, 1).unwrap();
    assert_eq!(archive.listed_tail(segment(), size(), stored).unwrap_err().kind(), ErrorKind::Conflict);
}
