//! Writing packs, reading them, and finding chunks among a million.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use walkeep_benches::{PAGE, Store, heap_pages};
use walkeep_chunkstore::codec;
use walkeep_chunkstore::container::{
    Compressor, ContainerKind, ContainerWriter, Decompressor, EncodedFrame, FramePosition,
};
use walkeep_chunkstore::id::{ChunkId, PackId};
use walkeep_chunkstore::index::PackKind;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::ObjectKey;

/// Chunks in the index that is searched.
const CHUNKS: u64 = 1_000_000;
/// Chunks in one of its packs.
const CHUNKS_PER_PACK: u64 = 50_000;

fn compression(criterion: &mut Criterion) {
    let pages = heap_pages(0, (512 << 10) / PAGE as u32, 19);
    let mut group = criterion.benchmark_group("frame");
    for kib in [128, 256, 512] {
        let plaintext = &pages[..kib << 10];
        let mut compressor = Compressor::new(1).expect("level 1 exists");
        group.throughput(Throughput::Bytes(plaintext.len() as u64));
        group.bench_function(format!("compress, level 1, {kib} KiB"), |bencher| {
            bencher.iter(|| compressor.encode(black_box(plaintext)).expect("it fits a frame").length());
        });
    }
    let plaintext = &pages[..256 << 10];
    let frame = Compressor::new(1).expect("level 1 exists").encode(plaintext).expect("it fits a frame");
    let (key, bytes) = stored(&frame);
    let mut decompressor = Decompressor::new().expect("memory for zstd");
    let mut out = Vec::new();
    group.throughput(Throughput::Bytes(plaintext.len() as u64));
    group.bench_function("decompress, 256 KiB", |bencher| {
        bencher.iter(|| {
            out.clear();
            decompressor.decode(&key, black_box(&bytes), &mut out).expect("it was just written");
        });
    });
    group.finish();
}

/// A frame as it lies in a pack.
fn stored(frame: &EncodedFrame) -> (ObjectKey, Vec<u8>) {
    let store = Store::new();
    let storage = store.repository.storage();
    let mut writer =
        ContainerWriter::start(storage, ContainerKind::Pack, store.repository.id()).expect("memory takes it");
    let position = writer.append(frame).expect("memory takes it");
    let done = writer.finish(frame, |id| PackKind::Data.key(id)).expect("memory takes it");
    let range = position.offset..position.offset + u64::from(position.length);
    (done.key.clone(), storage.get_range(&done.key, range).expect("it was just written"))
}

fn pack_write(criterion: &mut Criterion) {
    let store = Store::new();
    let frames: Vec<EncodedFrame> = (0..64)
        .map(|n| heap_pages(n * 32, 32, u64::from(n) + 23))
        .map(|plaintext| Compressor::new(1).and_then(|mut c| c.encode(&plaintext)).expect("it fits a frame"))
        .collect();
    let stored: u64 = frames.iter().map(EncodedFrame::length).sum();
    let mut group = criterion.benchmark_group("pack");
    group.throughput(Throughput::Bytes(stored));
    group.bench_function("write 64 frames", |bencher| {
        let start = || ContainerWriter::start(store.repository.storage(), ContainerKind::Pack, store.repository.id());
        bencher.iter_batched(
            || start().expect("memory takes it"),
            |mut writer| {
                for frame in &frames {
                    writer.append(frame).expect("memory takes it");
                }
                writer.finish(&frames[0], |id| PackKind::Data.key(id)).expect("memory takes it").length
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn chunk_id(number: u64) -> ChunkId {
    ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// Packs that say they hold a million chunks; nobody reads the chunks themselves.
fn fill(repository: &Repository) {
    for pack in 0..CHUNKS / CHUNKS_PER_PACK {
        let numbers = pack * CHUNKS_PER_PACK..(pack + 1) * CHUNKS_PER_PACK;
        let frame = FramePosition { offset: 64, length: 100_000 };
        let chunks: Vec<(ChunkId, u32, u32)> = numbers.map(|number| (chunk_id(number), 0, 131_072)).collect();
        let table = codec::encode(1, &vec![(frame, chunks)]);
        let table = Compressor::new(1).and_then(|mut c| c.encode(&table)).expect("it fits a frame");
        let writer = ContainerWriter::start(repository.storage(), ContainerKind::Pack, repository.id());
        let done = writer.and_then(|writer| writer.finish(&table, |id: PackId| PackKind::Data.key(id)));
        done.expect("memory takes it");
    }
}

fn index(criterion: &mut Criterion) {
    let Store { repository, .. } = Store::new();
    fill(&repository);
    let store = Store::open(repository);
    let find = |number| store.index.find(PackKind::Data, &chunk_id(number)).expect("the index reads");
    assert!(find(0).is_some() && find(CHUNKS - 1).is_some() && find(CHUNKS).is_none());
    let mut group = criterion.benchmark_group("index of 1 M chunks");
    group.throughput(Throughput::Elements(1));
    let mut number = 0;
    group.bench_function("find, hit", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % CHUNKS;
            find(black_box(number)).is_some()
        });
    });
    group.bench_function("find, miss", |bencher| {
        bencher.iter(|| {
            number += 7919;
            find(black_box(CHUNKS + number)).is_some()
        });
    });
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

criterion_group!(name = benches; config = short(); targets = compression, pack_write, index);
criterion_main!(benches);
