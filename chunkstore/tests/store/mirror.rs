//! The mirror's queue: everything gets there, in an order that is safe at every moment, whatever fails in between.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use walkeep_chunkstore::mirror::{Durability, Keep, Lag, MirrorQueue, MirroredStorage, Remote};
use walkeep_chunkstore::storage::{LocalStorage, MemoryStorage, ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use walkeep_chunkstore::{Error, Result};

/// A bucket that can be out of reach, and that remembers what arrived in which order.
#[derive(Clone, Debug, Default)]
struct Bucket {
    inner: MemoryStorage,
    out: Arc<AtomicBool>,
    arrived: Arc<Mutex<Vec<String>>>,
}

impl Bucket {
    fn reach(&self) -> Result<()> {
        if self.out.load(Ordering::SeqCst) {
            return Err(Error::storage("reach", "bucket", std::io::Error::from(std::io::ErrorKind::TimedOut)));
        }
        Ok(())
    }
}

struct Arriving {
    writer: Box<dyn ObjectWriter>,
    bucket: Bucket,
}

impl ObjectWriter for Arriving {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write(bytes)
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        self.bucket.reach()?;
        let put = self.writer.publish(key)?;
        self.bucket.arrived.lock().push(key.to_string());
        Ok(put)
    }
}

impl Storage for Bucket {
    fn location(&self) -> String {
        "bucket".to_owned()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Arriving { writer: self.inner.writer()?, bucket: self.clone() }))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.reach().and_then(|()| self.inner.get_range(key, range))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.reach().and_then(|()| self.inner.size(key))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.reach().and_then(|()| self.inner.list(prefix))
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.reach().and_then(|()| self.inner.overwrite(key, bytes))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.reach().and_then(|()| self.inner.delete(key))
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.reach().and_then(|()| self.inner.make_durable(key))
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn pack(number: u32) -> (ObjectKey, Vec<u8>) {
    let bytes = number.to_le_bytes().to_vec();
    (key(&format!("packs/00/{}", blake3::hash(&bytes))), bytes)
}

/// Runs the queue of `storage` while `during` does.
fn with_queue(storage: &MirroredStorage, during: impl FnOnce(&MirrorQueue)) {
    struct Stop<'a>(&'a MirrorQueue);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.stop();
        }
    }
    let queue = MirrorQueue::new(storage.clone(), 0);
    std::thread::scope(|scope| {
        let _stop = Stop(&queue);
        scope.spawn(|| queue.run());
        during(&queue);
    });
}

fn wait(queue: &MirrorQueue, what: &str, is: impl Fn(&Lag) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let lag = queue.lag();
        if is(&lag) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {lag:?}");
        std::thread::yield_now();
    }
}

fn mirrored(bucket: &Bucket, keep: Keep) -> (tempfile::TempDir, MirroredStorage) {
    let directory = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(directory.path()).unwrap();
    let remotes = vec![Remote { storage: Arc::new(bucket.clone()), durability: Durability::Local }];
    (directory, MirroredStorage::new(local, remotes, keep).unwrap())
}

/// Every root that arrived came after its pack: backup N refers to pack N.
fn assert_safe_order(bucket: &Bucket) {
    let arrived = bucket.arrived.lock();
    for (at, name) in arrived.iter().enumerate() {
        let Some(number) = name.strip_prefix("clusters/a/backups/").and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let needed = pack(number).0.to_string();
        assert!(arrived[..at].contains(&needed), "{name} came before {needed}: {arrived:?}");
    }
}

#[test]
fn everything_arrives_in_an_order_that_is_safe_at_every_moment() {
    let bucket = Bucket::default();
    let (_directory, storage) = mirrored(&bucket, Keep::Everything);
    let put = |number: u32| {
        let (pack, bytes) = pack(number);
        storage.put_if_absent(&pack, &bytes).unwrap();
        storage.put_if_absent(&key(&format!("clusters/a/wal/00000001/{number}")), b"wal").unwrap();
        storage.put_if_absent(&key(&format!("clusters/a/backups/{number}")), b"root").unwrap();
    };
    // Some of it was there before the agent started, and some of that was mirrored already.
    (0..20).for_each(put);
    let (there, bytes) = pack(3);
    bucket.put_if_absent(&there, &bytes).unwrap();
    with_queue(&storage, |queue| {
        (20..40).for_each(put);
        wait(queue, "everything to arrive", |lag| lag.compared && lag.objects == 0 && lag.sent_objects >= 119);
    });
    assert_safe_order(&bucket);
    assert_eq!(bucket.inner.list("").unwrap(), storage.list("").unwrap());
}

#[test]
fn an_outage_delays_and_loses_nothing() {
    let bucket = Bucket::default();
    let (_directory, storage) = mirrored(&bucket, Keep::Everything);
    bucket.out.store(true, Ordering::SeqCst);
    with_queue(&storage, |queue| {
        wait(queue, "the outage to be noticed", |lag| lag.error.is_some() && !lag.compared);
        for number in 0..5 {
            let (pack, bytes) = pack(number);
            storage.put_if_absent(&pack, &bytes).unwrap();
            storage.put_if_absent(&key(&format!("clusters/a/backups/{number}")), b"root").unwrap();
        }
        wait(queue, "the lag to show", |lag| lag.objects == 10 && lag.error.is_some());
        bucket.out.store(false, Ordering::SeqCst);
        wait(queue, "the mirror to catch up", |lag| lag.compared && lag.objects == 0 && lag.error.is_none());
    });
    assert_safe_order(&bucket);
    assert_eq!(bucket.inner.list("").unwrap(), storage.list("").unwrap());
}

#[test]
fn a_spool_is_emptied_into_the_bucket() {
    let bucket = Bucket::default();
    let (_directory, storage) = mirrored(&bucket, Keep::Nothing);
    for number in 0..5 {
        let (pack, bytes) = pack(number);
        storage.put_if_absent(&pack, &bytes).unwrap();
        storage.put_if_absent(&key(&format!("clusters/a/backups/{number}")), b"root").unwrap();
    }
    assert_eq!(storage.list_at_hand("").unwrap().len(), 10, "success did not wait for the bucket");
    with_queue(&storage, |queue| wait(queue, "the spool to be empty", |lag| lag.compared && lag.objects == 0));
    assert_safe_order(&bucket);
    assert!(storage.list_at_hand("").unwrap().is_empty());
    assert_eq!(bucket.inner.list("").unwrap().len(), 10);
}

/// A tail of segment `number`, or the segment itself.
fn wal(number: u32, end: Option<u32>) -> ObjectKey {
    let name = format!("clusters/a/wal/00000001/00000000/0000000100000000{number:08X}");
    let hash = "0".repeat(16);
    key(&end.map_or_else(|| format!("{name}-{hash}"), |end| format!("{name}.tail-{end:016x}-{hash}")))
}

/// Superseded while the mirror could not be reached.
#[test]
fn what_goes_before_it_was_sent_holds_nothing_up() {
    for keep in [Keep::Everything, Keep::Recent, Keep::Nothing] {
        let bucket = Bucket::default();
        let (_directory, storage) = mirrored(&bucket, keep);
        bucket.out.store(true, Ordering::SeqCst);
        with_queue(&storage, |queue| {
            for end in [1, 2, 3] {
                storage.put_if_absent(&wal(1, Some(end)), b"tail").unwrap();
            }
            wait(queue, "the lag to show", |lag| lag.objects == 3 && lag.error.is_some());
            for end in [1, 2] {
                assert!(storage.delete(&wal(1, Some(end))).is_err(), "the mirror cannot be asked");
            }
            bucket.out.store(false, Ordering::SeqCst);
            wait(queue, "the mirror to catch up", |lag| lag.compared && lag.objects == 0 && lag.error.is_none());
        });
        let there: Vec<ObjectKey> = bucket.inner.list("").unwrap().into_iter().map(|info| info.key).collect();
        assert_eq!(there, [wal(1, Some(3))], "{keep:?}");
    }
}

/// Whoever dropped a segment's tails here had to leave the last one there, where the segment had not arrived.
#[test]
fn a_segment_that_arrives_whole_takes_its_tails_along() {
    let bucket = Bucket::default();
    let (_directory, storage) = mirrored(&bucket, Keep::Everything);
    with_queue(&storage, |queue| {
        for (number, end) in [(1, 8), (1, 9), (2, 20)] {
            storage.put_if_absent(&wal(number, Some(end)), b"tail").unwrap();
        }
        wait(queue, "the tails to arrive", |lag| lag.sent_objects == 3);
        storage.put_if_absent(&wal(1, None), b"segment").unwrap();
        wait(queue, "the segment to arrive", |lag| lag.sent_objects == 4);
    });
    let there: Vec<ObjectKey> = bucket.inner.list("").unwrap().into_iter().map(|info| info.key).collect();
    assert_eq!(there, [wal(1, None), wal(2, Some(20))]);
}
