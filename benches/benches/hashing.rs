//! What every byte goes through: names, fingerprints, checksums.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use walkeep_benches::{BLOCK, PAGE, heap_pages};
use walkeep_chunkstore::id::RepositoryKeys;
use walkeep_proto::page::{PageVerifier, is_zero_page};

fn hashing(criterion: &mut Criterion) {
    let keys = RepositoryKeys::derive(&[7; 32]);
    let pages = heap_pages(0, (BLOCK / PAGE) as u32, 13);
    let mut group = criterion.benchmark_group("hashing");

    let chunk = &pages[..128 << 10];
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    group.bench_function("chunk id, 128 KiB", |bencher| bencher.iter(|| keys.chunk_id(black_box(chunk))));

    group.throughput(Throughput::Bytes(PAGE as u64));
    group.bench_function("page fingerprint, 8 KiB", |bencher| {
        bencher.iter(|| keys.fingerprint(black_box(&pages[..PAGE])));
    });

    group.throughput(Throughput::Bytes(pages.len() as u64));
    group.bench_function("page fingerprints, 256 KiB", |bencher| {
        bencher.iter(|| {
            black_box(&pages).chunks_exact(PAGE).map(|page| keys.fingerprint(page).0[0]).fold(0, |a, b| a ^ b)
        });
    });
    group.bench_function("crc32c, 256 KiB", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&pages))));

    let verifier = PageVerifier::new();
    group.bench_function("page checksums, 256 KiB", |bencher| {
        bencher.iter(|| {
            let mut bad = 0;
            verifier.verify_pages(black_box(&pages), PAGE, 0, &mut |_, _| bad += 1);
            assert_eq!(bad, 0, "the pages' checksums are right");
        });
    });

    let zeros = vec![0; BLOCK];
    group.bench_function("zero pages, 256 KiB", |bencher| {
        bencher.iter(|| black_box(&zeros).chunks_exact(PAGE).filter(|page| is_zero_page(page)).count());
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = hashing);
criterion_main!(benches);
