//! Regions of which only the changed pages came: what is put together is what a reading of everything would have given.

use std::collections::BTreeSet;
use std::sync::Arc;

use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::ingest::{
    ChangedPages, FileHead, FileKind, FileOrder, Ingest, IngestOptions, Ingested, KnownRegion, RegionSum, extended_sum,
};
use walkeep_chunkstore::node::{Body, FileContent, NodeStore, REGION};
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::{LocalStorage, MemoryStorage, ObjectKey};
use walkeep_chunkstore::{Error, Result};

use crate::common::{Files, PAGE, index, load, noise, repository, store};

const PATH: &str = "base/1/1000";
const REGION_PAGES: usize = REGION as usize / PAGE;

/// What a server says of a file.
struct Sent {
    pages: usize,
    changed: BTreeSet<usize>,
    /// Pages from here on that did not come are zero.
    limit: usize,
}

/// Completes the file with `parent`'s; `content` are the bytes of the changed pages' file.
fn merge(
    repository: &Arc<Repository>,
    index: &Arc<ChunkIndex>,
    parent: &Ingested,
    sent: &Sent,
    content: &[u8],
) -> Result<Ingested> {
    let nodes = NodeStore::new(Arc::clone(repository));
    let entry = nodes.file_list(&parent.file_lists[0])?.entries.remove(0);
    let FileContent::File { length, crc32c, regions: old, .. } = entry.content else { panic!("a file") };
    let old_pages = length as usize / PAGE;
    let options = IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::Any };
    let ingest = Ingest::start(Arc::clone(repository), Arc::clone(index), options)?;
    let regions = sent.pages.div_ceil(REGION_PAGES);
    let head = FileHead { path: PATH.into(), mode: 0o600, modified: 7, kind: FileKind::File { body: Body::Pages } };
    ingest.file(0, head, regions as u32)?;
    let mut worker = ingest.worker()?;
    let merged = (0..regions).try_for_each(|region| {
        let first = region * REGION_PAGES;
        let last = sent.pages.min(first + REGION_PAGES);
        let pages: Vec<u32> = sent.changed.range(first..last).map(|page| (page - first) as u32).collect();
        let bytes: Vec<u8> =
            sent.changed.range(first..last).flat_map(|page| &content[page * PAGE..][..PAGE]).copied().collect();
        let sum = match sent.pages.checked_sub(old_pages) {
            None => RegionSum::Whole,
            Some(more) if region + 1 == regions => {
                RegionSum::Difference { carried: extended_sum(crc32c, more as u64, PAGE as u32) }
            }
            Some(_) => RegionSum::Difference { carried: 0 },
        };
        let known = KnownRegion {
            parent: old.get(region).map(|node| nodes.page_map(node)).transpose()?,
            parent_length: length.saturating_sub(region as u64 * REGION).min(REGION),
            kept: sent.limit.saturating_sub(first) as u32,
            length: ((last - first) * PAGE) as u64,
            sum,
        };
        worker.merge((0, region as u32), known, ChangedPages { pages: &pages, bytes: &bytes })
    });
    match merged.and_then(|()| worker.finish()) {
        Ok(()) => ingest.finish(),
        Err(error) => Err(ingest.abort().unwrap_or(error)),
    }
}

fn files(content: &[u8]) -> Files {
    Files::from([(PATH.to_owned(), content.to_vec())])
}

/// A stream of small numbers.
fn numbers(seed: u64) -> impl FnMut(usize) -> usize {
    let mut bytes = noise(seed, 1 << 20).into_iter();
    move |below| {
        let mut number = 0;
        for _ in 0..3 {
            number = number << 8 | usize::from(bytes.next().expect("enough for a test"));
        }
        number % below.max(1)
    }
}

/// Many generations, each completed with the one before: pages changed, sent for nothing, zeroed, cut off and put back, files
/// that grow over the end of a region and shrink to nothing. `load` compares each file with its checksum.
#[test]
fn every_generation_is_what_the_server_has() {
    for seed in 0..4 {
        let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
        let repository = repository(storage).unwrap();
        let index = index(directory.path(), &repository).unwrap();
        let mut random = numbers(seed);
        let mut content = noise(seed, (REGION_PAGES + 300) * PAGE);
        content[40 * PAGE..60 * PAGE].fill(0);
        let mut parent = store(&repository, &index, &files(&content), None).unwrap();
        for generation in 0..14_usize {
            let old = content.len() / PAGE;
            let mut changed = BTreeSet::new();
            let mut limit = usize::MAX;
            let pages = match generation % 7 {
                1 => old + random(700),
                2 => old.saturating_sub(random(600)),
                3 => REGION_PAGES + random(2),
                4 if generation > 7 => 0,
                _ => old,
            };
            if generation % 7 == 5 || pages < old {
                limit = random(pages + 1);
            }
            content.truncate(pages.min(limit) * PAGE);
            content.resize(pages * PAGE, 0);
            for _ in 0..if generation % 2 == 0 { 30 } else { 3000 } {
                let page = random(pages);
                if page >= pages {
                    continue;
                }
                match random(10) {
                    0 => content[page * PAGE..][..PAGE].fill(0),
                    // Sent although it is as it was.
                    1 => {}
                    _ => content[page * PAGE..][..PAGE].copy_from_slice(&noise((generation << 20 | page) as u64, PAGE)),
                }
                changed.insert(page);
            }
            let sent = Sent { pages, changed, limit };
            let merged = merge(&repository, &index, &parent, &sent, &content).unwrap();
            let loaded = load(&repository, &merged).unwrap();
            assert!(loaded[PATH] == content, "seed {seed}, generation {generation}");
            // A reading of everything finds nothing that differs.
            let read = store(&repository, &index, &files(&content), Some(&merged)).unwrap();
            assert_eq!(read.changed_pages, 0, "seed {seed}, generation {generation}");
            parent = merged;
        }
    }
}

#[test]
fn an_unchanged_file_costs_nothing() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let content = noise(9, (REGION_PAGES + 5) * PAGE);
    let parent = store(&repository, &index, &files(&content), None).unwrap();
    let sent = Sent { pages: REGION_PAGES + 5, changed: BTreeSet::from([3, 7]), limit: usize::MAX };
    let merged = merge(&repository, &index, &parent, &sent, &content).unwrap();
    assert_eq!((merged.new_bytes, merged.changed_pages, &merged.file_lists), (0, 0, &parent.file_lists));
}

/// A lost pack is missed only by who needs it, and then by name.
#[test]
fn a_parent_that_is_gone_is_told() {
    let (directory, stored) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = || repository(LocalStorage::create(stored.path()).unwrap()).unwrap();
    let repository = open();
    let content = noise(11, 50 * PAGE);
    let parent = store(&repository, &index(directory.path(), &repository).unwrap(), &files(&content), None).unwrap();
    let keys: Vec<ObjectKey> =
        repository.storage().list("packs/").unwrap().into_iter().map(|object| object.key).collect();
    for key in keys {
        repository.storage().delete(&key).unwrap();
    }
    let fresh = tempfile::tempdir().unwrap();
    let repository = open();
    let index = index(fresh.path(), &repository).unwrap();
    for changed in [BTreeSet::new(), BTreeSet::from([4])] {
        let sent = Sent { pages: 50, changed, limit: usize::MAX };
        let other = noise(12, 50 * PAGE);
        let error = merge(&repository, &index, &parent, &sent, &other).unwrap_err();
        assert!(matches!(error, Error::UnusableParent { .. }), "{error}");
    }
}

/// A map of another length than its file's would be read as zeros.
#[test]
fn a_map_of_another_length_is_refused() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let parent = store(&repository, &index, &files(&noise(14, 5 * PAGE)), None).unwrap();
    let nodes = NodeStore::new(Arc::clone(&repository));
    let entry = nodes.file_list(&parent.file_lists[0]).unwrap().entries.remove(0);
    let FileContent::File { regions, .. } = entry.content else { panic!("a file") };
    let options = IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::Any };
    let ingest = Ingest::start(Arc::clone(&repository), index, options).unwrap();
    let mut worker = ingest.worker().unwrap();
    for (parent, parent_length) in [(Some(regions[0]), 6 * PAGE), (None, PAGE), (Some(regions[0]), 0)] {
        let parent = parent.map(|node| nodes.page_map(&node).unwrap());
        let sum = RegionSum::Difference { carried: 0 };
        let known = KnownRegion { parent, parent_length: parent_length as u64, kept: 9, length: 9 * PAGE as u64, sum };
        let error = worker.merge((0, 0), known, ChangedPages { pages: &[], bytes: &[] }).unwrap_err();
        assert!(matches!(error, Error::UnusableParent { .. }), "{error}");
    }
    drop(worker);
    ingest.abort();
}

#[test]
fn pages_out_of_order_are_refused() {
    let (directory, storage) = (tempfile::tempdir().unwrap(), MemoryStorage::new());
    let repository = repository(storage).unwrap();
    let index = index(directory.path(), &repository).unwrap();
    let ingest_options =
        IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::Any };
    let ingest = Ingest::start(Arc::clone(&repository), index, ingest_options).unwrap();
    let mut worker = ingest.worker().unwrap();
    let known = |length| KnownRegion { parent: None, parent_length: 0, kept: 0, length, sum: RegionSum::Whole };
    let bytes = noise(13, 2 * PAGE);
    for (pages, bytes, length, says) in [
        (&[4, 3][..], &bytes[..], 9 * PAGE, "page 3 came"),
        (&[3, 9], &bytes, 9 * PAGE, "page 9 came"),
        (&[3], &bytes, 9 * PAGE, "are not 1 pages"),
        (&[], &[], 9 * PAGE + 1, "no whole pages"),
    ] {
        let error = worker.merge((0, 0), known(length as u64), ChangedPages { pages, bytes }).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    drop(worker);
    ingest.abort();
}
