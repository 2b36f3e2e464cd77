//! Files for a backup, and what a restore of them must look like.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::ingest::{FileHead, FileKind, FileOrder, Ingest, IngestOptions, Ingested, PageRegion};
use walkeep_chunkstore::node::{Body, REGION};
use walkeep_chunkstore::repository::Repository;

use super::{MAJOR, SYSTEM};

const PAGE: usize = 8192;

/// What stands at a path: a directory, or a file's mode and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
}

pub type Tree = BTreeMap<String, Entry>;

/// Noise that no compressor shrinks.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// `pg_control` of a running server.
pub fn control_file() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, SYSTEM as u32);
    put(8, MAJOR.control_version());
    put(12, MAJOR.catalog_version());
    put(16, 6);
    put(32, 0x0500_0028);
    put(48, 1);
    put(52, 1);
    put(172, 1);
    put(216, 8192);
    put(220, 131_072);
    put(224, 8192);
    put(228, 1 << 20);
    let checksum = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A small data directory: relations with holes and with an unfinished last page, tablespaces, odd modes.
pub fn sample() -> Tree {
    let mut relation = noise(1, 40 * PAGE);
    relation[10 * PAGE..30 * PAGE].fill(0);
    let mut zero_tail = noise(2, 3 * PAGE);
    zero_tail.extend(vec![0; 500 * PAGE]);
    let file = |content: Vec<u8>| Entry::File(0o640, content);
    let directory = || Entry::Directory(0o750);
    Tree::from([
        ("PG_VERSION".to_owned(), file(b"17\n".to_vec())),
        ("base".to_owned(), directory()),
        ("base/1".to_owned(), directory()),
        ("base/1/1000".to_owned(), file(relation)),
        ("base/1/1001".to_owned(), file(noise(3, 3 * PAGE + 100))),
        ("base/1/1002".to_owned(), file(Vec::new())),
        ("base/1/1003".to_owned(), file(zero_tail)),
        ("base/1/1004".to_owned(), file(vec![0; 3 * PAGE])),
        ("base/1/1005".to_owned(), file(noise(4, REGION as usize + 3 * PAGE))),
        ("empty".to_owned(), Entry::Directory(0o700)),
        ("global".to_owned(), directory()),
        ("global/pg_control".to_owned(), file(control_file())),
        ("pg_tblspc".to_owned(), directory()),
        ("pg_tblspc/16400".to_owned(), directory()),
        ("pg_tblspc/16400/PG_17_202406281".to_owned(), directory()),
        ("pg_tblspc/16400/PG_17_202406281/1".to_owned(), directory()),
        ("pg_tblspc/16400/PG_17_202406281/1/2000".to_owned(), file(noise(5, 2 * PAGE))),
        ("pg_tblspc/16401".to_owned(), directory()),
        ("pg_tblspc/16401/PG_17_202406281".to_owned(), directory()),
        ("pg_tblspc/16401/PG_17_202406281/x".to_owned(), file(noise(6, 77))),
        ("pg_xact".to_owned(), directory()),
        ("pg_xact/0000".to_owned(), file(noise(7, 300_000))),
        ("postgresql.auto.conf".to_owned(), file(b"port = '5433'\nrecovery_target_name = 'old'\n".to_vec())),
        ("server.key".to_owned(), Entry::File(0o600, b"secret".to_vec())),
    ])
}

/// Stores the tree.
pub fn store(repository: &Arc<Repository>, index: &Path, tree: &Tree) -> Ingested {
    let index = Arc::new(ChunkIndex::open(index, repository).unwrap().0);
    let options = IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::ByPath };
    let ingest = Ingest::start(Arc::clone(repository), index, options).unwrap();
    let mut worker = ingest.worker().unwrap();
    for (number, (path, entry)) in (0..).zip(tree) {
        let head = |mode, kind| FileHead { path: path.clone().into_bytes(), mode, modified: 1_700_000_000, kind };
        let (mode, content) = match entry {
            Entry::Directory(mode) => {
                ingest.file(number, head(*mode, FileKind::Directory), 0).unwrap();
                continue;
            }
            Entry::File(mode, content) => (*mode, content),
        };
        let body = if path.starts_with("base/") { Body::Pages } else { Body::Bytes };
        let regions: Vec<&[u8]> = content.chunks(REGION as usize).collect();
        ingest.file(number, head(mode, FileKind::File { body }), regions.len() as u32).unwrap();
        for (region, bytes) in (0..).zip(&regions) {
            let crc = crc32c::crc32c(bytes);
            if body == Body::Bytes {
                let mut building = worker.byte_region();
                building.push(&mut worker, bytes).unwrap();
                building.finish(&mut worker, (number, region), crc).unwrap();
                continue;
            }
            let mut building = PageRegion::start(&worker, None);
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(PAGE), 0);
            building.push(&mut worker, &padded).unwrap();
            building.finish(&mut worker, (number, region), bytes.len() as u64, crc).unwrap();
        }
    }
    worker.finish().unwrap();
    ingest.finish().unwrap()
}
