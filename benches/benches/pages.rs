//! A region of 16 MiB through a backup's worker: new, unchanged, and with every 25th page changed.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walkeep_benches::{BLOCK, PAGE, REGION, Store, heap_pages};
use walkeep_chunkstore::ingest::{FileHead, FileKind, FileOrder, Ingest, IngestOptions, IngestWorker, PageRegion};
use walkeep_chunkstore::node::{Body, FileContent, NodeStore, StoredPageMap};

/// Pages between two that change.
const CHANGED_EACH: usize = 25;

fn start(store: &Store) -> Ingest {
    let options = IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::ByPath };
    Ingest::start(store.repository.clone(), store.index.clone(), options).expect("an ingest starts")
}

/// A pipeline, one worker, and the number of the next file.
struct Running {
    ingest: Ingest,
    worker: IngestWorker,
    number: u64,
}

impl Running {
    fn new(store: &Store) -> Self {
        let ingest = start(store);
        let worker = ingest.worker().expect("a worker");
        Self { ingest, worker, number: 0 }
    }

    /// Stores one file of one region.
    fn file(&mut self, parent: Option<StoredPageMap>, pages: &[u8]) {
        let path = format!("base/1/{:020}", self.number).into_bytes();
        let head = FileHead { path, mode: 0o600, modified: 0, kind: FileKind::File { body: Body::Pages } };
        self.ingest.file(self.number, head, 1).expect("the collector runs");
        let mut region = PageRegion::start(&self.worker, parent);
        for block in pages.chunks(BLOCK) {
            region.push(&mut self.worker, block).expect("memory takes it");
        }
        region.finish(&mut self.worker, (self.number, 0), pages.len() as u64, 0).expect("the collector runs");
        self.number += 1;
    }
}

/// Stores the pages as a backup of one file, and gives its map.
fn parent_of(store: &Store, pages: &[u8]) -> StoredPageMap {
    let mut running = Running::new(store);
    running.file(None, pages);
    running.worker.finish().expect("the last frame is taken");
    let ingested = running.ingest.finish().expect("everything is sealed");
    let nodes = NodeStore::new(store.repository.clone());
    let list = nodes.file_list(&ingested.file_lists[0]).expect("the list reads back");
    let FileContent::File { regions, .. } = &list.entries[0].content else { unreachable!("it is a file") };
    nodes.page_map(&regions[0]).expect("the map reads back")
}

/// Makes pages differ from all before.
fn touch(pages: &mut [u8], each: usize, counter: u64) {
    for page in pages.chunks_exact_mut(PAGE * each) {
        page[4000..4008].copy_from_slice(&counter.to_le_bytes());
    }
}

fn regions(criterion: &mut Criterion) {
    let store = Store::new();
    let mut pages = heap_pages(0, (REGION / PAGE) as u32, 17);
    let parent = parent_of(&store, &pages);
    let mut group = criterion.benchmark_group("region");
    group.throughput(Throughput::Bytes(REGION as u64));

    let mut running = Running::new(&store);
    group.bench_function("unchanged", |bencher| bencher.iter(|| running.file(Some(parent.clone()), &pages)));
    let mut counter = 0;
    group.bench_function("4 % changed", |bencher| {
        bencher.iter(|| {
            counter += 1;
            touch(&mut pages, CHANGED_EACH, counter);
            running.file(Some(parent.clone()), &pages);
        });
    });
    group.bench_function("new", |bencher| {
        bencher.iter(|| {
            counter += 1;
            touch(&mut pages, 1, counter);
            running.file(None, &pages);
        });
    });
    drop(running.worker);
    running.ingest.abort();
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

criterion_group!(name = benches; config = short(); targets = regions);
criterion_main!(benches);
