//! Where routes read WAL from.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::SegmentScan;

use crate::error::Result;
use crate::wal::{StoredSegment, WalArchive};

/// Segments whose summary is kept: each takes at most some 40 KiB.
const CACHED: usize = 1024;

/// Gives out archived segments, which an inventory lists. Shared by threads.
pub trait WalSource: Sync {
    /// What a segment says. Its block changes may be left out.
    fn scan(&self, segment: WalSegment, size: WalSegmentSize, stored: &StoredSegment) -> Result<Arc<SegmentScan>>;

    /// A segment's bytes.
    fn bytes(&self, segment: WalSegment, size: WalSegmentSize, stored: &StoredSegment) -> Result<Vec<u8>>;

    /// How many reads should be under way at once.
    fn parallel_reads(&self) -> usize;
}

/// A summary, once it was read: whoever wants it meanwhile waits for whoever reads it.
type Summary = Arc<Mutex<Option<Arc<SegmentScan>>>>;

/// The WAL archive as a source, with a cache of summaries.
#[derive(Debug)]
pub struct ArchivedWal {
    archive: WalArchive,
    cache: Mutex<HashMap<(WalSegment, WalSegmentSize), Summary>>,
}

impl ArchivedWal {
    /// The archive with an empty cache.
    pub fn new(archive: WalArchive) -> Self {
        Self { archive, cache: Mutex::default() }
    }

    fn place(&self, segment: WalSegment, size: WalSegmentSize) -> Summary {
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED && !cache.contains_key(&(segment, size)) {
            cache.clear();
        }
        Arc::clone(cache.entry((segment, size)).or_default())
    }
}

impl WalSource for ArchivedWal {
    fn scan(&self, segment: WalSegment, size: WalSegmentSize, stored: &StoredSegment) -> Result<Arc<SegmentScan>> {
        let summary = self.place(segment, size);
        let mut summary = summary.lock();
        if let Some(scan) = &*summary {
            return Ok(Arc::clone(scan));
        }
        let mut scan = self.archive.listed_summary(segment, size, stored)?;
        // Nobody who plans a restore asks for them, and they are most of a summary.
        scan.facts.changes = Default::default();
        Ok(Arc::clone(summary.insert(Arc::new(scan))))
    }

    fn bytes(&self, segment: WalSegment, size: WalSegmentSize, stored: &StoredSegment) -> Result<Vec<u8>> {
        self.archive.fetch_listed(segment, size, stored)
    }

    fn parallel_reads(&self) -> usize {
        self.archive.repository().storage().parallel_reads()
    }
}
