//! A small data directory, backed up and put together again with the store's own interface.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use walkeep_chunkstore::Result;
use walkeep_chunkstore::extract::{COALESCE_GAP, JobReader, ReadPlan};
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::ingest::{FileHead, FileKind, FileOrder, Ingest, IngestOptions, Ingested, PageRegion};
use walkeep_chunkstore::node::{Body, FileContent, NodeRef, NodeStore, REGION};
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::Storage;

/// Bytes per page in these tests: the smallest, so that small files have many.
pub const PAGE: usize = 1024;

/// Files by path; those whose path begins with `base/` are relations.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Opens or creates a repository.
pub fn repository(storage: impl Storage + 'static) -> Result<Arc<Repository>> {
    Ok(Arc::new(Repository::init(Arc::new(storage), Timestamp::UNIX_EPOCH)?.0))
}

/// Opens the index in `directory`.
pub fn index(directory: &Path, repository: &Arc<Repository>) -> Result<Arc<ChunkIndex>> {
    Ok(Arc::new(ChunkIndex::open(directory, repository)?.0))
}

/// Noise that no compressor shrinks: lengths of objects then follow from lengths of content.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// A directory with relations over one region, a small one, zero pages, an empty file, and plain files.
pub fn sample(seed: u64) -> Files {
    let mut large = noise(seed, 17 << 20);
    large[40 * PAGE..60 * PAGE].fill(0);
    Files::from([
        ("PG_VERSION".to_owned(), b"17\n".to_vec()),
        ("base/1/1000".to_owned(), large),
        ("base/1/1001".to_owned(), noise(seed + 1, 3 * PAGE + 100)),
        ("base/1/1002".to_owned(), Vec::new()),
        ("pg_xact/0000".to_owned(), noise(seed + 2, 300_000)),
    ])
}

/// Stores the files, comparing relations with an earlier outcome.
pub fn store(
    repository: &Arc<Repository>,
    index: &Arc<ChunkIndex>,
    files: &Files,
    parent: Option<&Ingested>,
) -> Result<Ingested> {
    let nodes = NodeStore::new(Arc::clone(repository));
    let earlier = parent.map(|parent| regions_of(&nodes, parent)).transpose()?.unwrap_or_default();
    let options = IngestOptions { page_size: PAGE as u32, compression_level: 1, workers: 1, order: FileOrder::ByPath };
    let ingest = Ingest::start(Arc::clone(repository), Arc::clone(index), options)?;
    let stored = store_files(&ingest, &nodes, files, &earlier);
    match stored {
        Ok(()) => ingest.finish(),
        Err(error) => Err(ingest.abort().unwrap_or(error)),
    }
}

fn store_files(
    ingest: &Ingest,
    nodes: &NodeStore,
    files: &Files,
    earlier: &BTreeMap<String, Vec<NodeRef>>,
) -> Result<()> {
    let mut worker = ingest.worker()?;
    for (number, (path, content)) in (0..).zip(files) {
        let body = if path.starts_with("base/") { Body::Pages } else { Body::Bytes };
        let head =
            FileHead { path: path.clone().into_bytes(), mode: 0o600, modified: 7, kind: FileKind::File { body } };
        let regions: Vec<&[u8]> = content.chunks(REGION as usize).collect();
        ingest.file(number, head, regions.len() as u32)?;
        for (region, bytes) in regions.iter().enumerate() {
            let (place, crc) = ((number, region as u32), crc32c::crc32c(bytes));
            if body == Body::Bytes {
                let mut building = worker.byte_region();
                building.push(&mut worker, bytes)?;
                building.finish(&mut worker, place, crc)?;
                continue;
            }
            let node = earlier.get(path).and_then(|nodes| nodes.get(region));
            let map = node.map(|node| nodes.page_map(node)).transpose()?;
            let mut building = PageRegion::start(&worker, map);
            let mut padded = bytes.to_vec();
            padded.resize(bytes.len().next_multiple_of(PAGE), 0);
            building.push(&mut worker, &padded)?;
            for page in building.pages_to_rewrite(&mut worker)? {
                let at = page as usize * PAGE;
                building.rewrite(&mut worker, page, &padded[at..at + PAGE])?;
            }
            building.finish(&mut worker, place, bytes.len() as u64, crc)?;
        }
    }
    worker.finish()
}

fn regions_of(nodes: &NodeStore, ingested: &Ingested) -> Result<BTreeMap<String, Vec<NodeRef>>> {
    let mut found = BTreeMap::new();
    for list in &ingested.file_lists {
        for entry in nodes.file_list(list)?.entries {
            if let FileContent::File { regions, .. } = &entry.content {
                found.insert(entry.display_path(), regions.clone());
            }
        }
    }
    Ok(found)
}

/// Puts the files together again.
pub fn load(repository: &Arc<Repository>, ingested: &Ingested) -> Result<Files> {
    let nodes = NodeStore::new(Arc::clone(repository));
    let mut contents: Vec<(String, Vec<u8>, u32)> = Vec::new();
    let mut plan = ReadPlan::default();
    for list in &ingested.file_lists {
        for entry in nodes.file_list(list)?.entries {
            let FileContent::File { length, crc32c, body, regions } = &entry.content else { continue };
            let file = contents.len() as u32;
            for (region, node) in (0..).zip(regions) {
                match body {
                    Body::Pages => plan.add_pages(file, region * REGION, &nodes.page_map(node)?.map),
                    Body::Bytes => plan.add_bytes(file, region * REGION, &nodes.byte_map(node)?),
                }
            }
            contents.push((entry.display_path(), vec![0; *length as usize], *crc32c));
        }
    }
    let mut reader = JobReader::new()?;
    for job in plan.into_jobs(COALESCE_GAP) {
        reader.run(repository, &job, &mut |piece, bytes| {
            let at = piece.file_offset as usize;
            contents[piece.file as usize].1[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        })?;
    }
    for (path, content, crc) in &contents {
        assert_eq!(crc32c::crc32c(content), *crc, "{path}");
    }
    Ok(contents.into_iter().map(|(path, content, _)| (path, content)).collect())
}
