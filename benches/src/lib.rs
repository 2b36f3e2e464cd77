//! Material that the measurements share: pages as PostgreSQL writes them, a repository in memory.

use std::sync::Arc;

use jiff::Timestamp;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::MemoryStorage;
use walkeep_proto::page::page_checksum;

/// Bytes per page.
pub const PAGE: usize = 8192;
/// Bytes that a backup reads at a time.
pub const BLOCK: usize = 256 << 10;
/// Bytes of a region, which one map describes.
pub const REGION: usize = 16 << 20;

/// A small generator: the same numbers on every machine.
pub struct Numbers(u64);

impl Numbers {
    /// Starts at a seed other than 0.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Heap pages of a table with an id, a UUID, some text and JSON, with right checksums; zstd level 1 makes a third of them.
pub fn heap_pages(first_block: u32, count: u32, seed: u64) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut pages = Vec::with_capacity(count as usize * PAGE);
    for block in first_block..first_block + count {
        let mut page = heap_page(u64::from(block), &mut numbers);
        seal(&mut page, block);
        pages.extend_from_slice(&page);
    }
    pages
}

/// Gives a page the checksum it must have at this place.
pub fn seal(page: &mut [u8], block: u32) {
    let checksum = page_checksum(page, block);
    page[8..10].copy_from_slice(&checksum.to_le_bytes());
}

fn heap_page(block: u64, numbers: &mut Numbers) -> Vec<u8> {
    let mut page = vec![0; PAGE];
    let (mut lower, mut upper, mut row) = (24, PAGE, 0);
    loop {
        let (id, a, b) = (block * 40 + row, numbers.next(), numbers.next());
        let text = format!(
            "customer {} used {:016x} from branch {}{{\"ms\": {}, \"ok\": true, \"tags\": [\"t{}\", \"u{}\"], \"session\": \"{b:016x}\"}}",
            a % 99_991,
            a.rotate_left(17),
            a % 977,
            b % 5000,
            a % 10,
            b % 100,
        );
        let length = (24 + 8 + 16 + text.len()).next_multiple_of(8);
        if upper < lower + 4 + length {
            break;
        }
        upper -= length;
        let tuple = &mut page[upper..upper + length];
        tuple[..4].copy_from_slice(&734_u32.to_le_bytes());
        tuple[12..16].copy_from_slice(&(block as u32).to_le_bytes());
        tuple[16..18].copy_from_slice(&(row as u16 + 1).to_le_bytes());
        tuple[18..23].copy_from_slice(&[6, 0, 2, 9, 24]);
        tuple[24..32].copy_from_slice(&id.to_le_bytes());
        tuple[32..40].copy_from_slice(&a.to_le_bytes());
        tuple[40..48].copy_from_slice(&b.to_le_bytes());
        tuple[48..48 + text.len()].copy_from_slice(text.as_bytes());
        let pointer = (upper as u32) | 1 << 15 | (length as u32) << 17;
        page[lower..lower + 4].copy_from_slice(&pointer.to_le_bytes());
        lower += 4;
        row += 1;
    }
    page[4..8].copy_from_slice(&(block as u32 * 8192).to_le_bytes());
    for (at, value) in [(12, lower), (14, upper), (16, PAGE), (18, PAGE | 4)] {
        page[at..at + 2].copy_from_slice(&(value as u16).to_le_bytes());
    }
    page
}

/// A new repository in memory, its index in a directory that goes away with it.
pub struct Store {
    /// The repository.
    pub repository: Arc<Repository>,
    /// Its index.
    pub index: Arc<ChunkIndex>,
    _directory: tempfile::TempDir,
}

impl Store {
    /// An empty one.
    pub fn new() -> Self {
        let (repository, _) =
            Repository::init(Arc::new(MemoryStorage::new()), Timestamp::UNIX_EPOCH).expect("memory takes it");
        Self::open(Arc::new(repository))
    }

    /// Indexes what a repository holds.
    pub fn open(repository: Arc<Repository>) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the index");
        let (index, _) = ChunkIndex::open(directory.path(), &repository).expect("a new index");
        Self { repository, index: Arc::new(index), _directory: directory }
    }
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}
