//! WAL: decoding a segment, and taking it into the archive.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::storage::MemoryStorage;
use walkeep_chunkstore::wal::WalArchive;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::wal::{ScanContext, SegmentHeader, scan_segment};

/// A real segment of PostgreSQL 17: its name and its bytes.
fn segment() -> (String, Vec<u8>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/fixtures/wal/17");
    let entries = fs::read_dir(&directory).expect("the fixtures are there");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let name = names.filter(|name| name.starts_with("0000")).min().expect("a segment among the fixtures");
    let compressed = fs::read(directory.join(&name)).expect("the fixture is readable");
    let bytes = zstd::decode_all(&compressed[..]).expect("the fixture is intact");
    (name.trim_end_matches(".zst").to_owned(), bytes)
}

fn wal(criterion: &mut Criterion) {
    let (name, bytes) = segment();
    let header = SegmentHeader::parse(&bytes).expect("it begins with a header");
    let segment = WalSegment::from_file_name(&name, header.segment_size).expect("its name is one");
    let context =
        ScanContext { segment, segment_size: header.segment_size, system_identifier: Some(header.system_identifier) };
    let scan = scan_segment(&bytes, &context).expect("PostgreSQL wrote it");
    assert!(scan.is_complete());
    let mut group = criterion.benchmark_group("WAL");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("scan a segment", |bencher| {
        bencher.iter(|| scan_segment(black_box(&bytes), &context).expect("PostgreSQL wrote it").valid_up_to);
    });

    let storage = MemoryStorage::new();
    Repository::init(Arc::new(storage.clone()), Timestamp::UNIX_EPOCH).expect("memory takes it");
    let file = name.parse().expect("its name is one");
    group.bench_function("archive a segment in memory", |bencher| {
        bencher.iter_batched(
            || {
                let repository = Repository::open(Arc::new(storage.fork())).expect("it was just made");
                WalArchive::new(Arc::new(repository), ClusterLayout::new("main").expect("a good name"))
            },
            |archive| archive.push(&file, black_box(&bytes), Some(&scan), 1).expect("memory takes it"),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = wal);
criterion_main!(benches);
