//! Cutting: page tails for relations, bytes for everything else.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walkeep_benches::{PAGE, REGION, heap_pages};
use walkeep_chunkstore::chunker::{ContentChunker, ContentSizes, PageChunker, PageSizes};
use walkeep_chunkstore::id::RepositoryKeys;

fn chunking(criterion: &mut Criterion) {
    let gear = RepositoryKeys::derive(&[7; 32]).gear_table();
    let pages = heap_pages(0, (REGION / PAGE) as u32, 11);
    let mut group = criterion.benchmark_group("chunking");
    group.throughput(Throughput::Bytes(pages.len() as u64));

    let mut by_page = PageChunker::new(gear, PageSizes::DEFAULT, PAGE);
    group.bench_function("page tails, 16 MiB", |bencher| {
        bencher.iter(|| {
            let (mut at, mut chunks) = (0, 0);
            while at < pages.len() {
                at += by_page.cut(black_box(&pages[at..])) * PAGE;
                chunks += 1;
            }
            chunks
        });
    });

    for (name, sizes) in [("file bytes, 16 MiB", ContentSizes::FILES), ("WAL bytes, 16 MiB", ContentSizes::WAL)] {
        let chunker = ContentChunker::new(gear, sizes);
        group.bench_function(name, |bencher| bencher.iter(|| chunker.chunks(black_box(&pages)).count()));
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = chunking);
criterion_main!(benches);
