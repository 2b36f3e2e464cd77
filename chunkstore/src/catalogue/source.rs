//! Where routes read WAL from.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use walkeep_proto::segment::{WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::wal::SegmentScan;

use crate::error::{Error, Result};
use crate::wal::WalArchive;

/// Segments whose summary is kept: each takes at most some 40 KiB.
const CACHED: usize = 1024;

/// Gives out archived segments. Shared by threads.
pub trait WalSource: Sync {
    /// What a segment says. Its block changes may be left out.
    fn scan(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Arc<SegmentScan>>;

    /// A segment's bytes.
    fn bytes(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Vec<u8>>;
}

/// The WAL archive as a source, with a cache of summaries.
#[derive(Debug)]
pub struct ArchivedWal {
    archive: WalArchive,
    cache: Mutex<HashMap<(WalSegment, WalSegmentSize), Arc<SegmentScan>>>,
}

impl ArchivedWal {
    /// The archive with an empty cache.
    pub fn new(archive: WalArchive) -> Self {
        Self { archive, cache: Mutex::default() }
    }
}

fn missing(segment: WalSegment, size: WalSegmentSize) -> Error {
    Error::not_found(format_args!("WAL segment {} in the archive", segment.file_name(size)))
}

impl WalSource for ArchivedWal {
    fn scan(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Arc<SegmentScan>> {
        if let Some(scan) = self.cache.lock().get(&(segment, size)) {
            return Ok(Arc::clone(scan));
        }
        let mut scan = self.archive.summary(segment, size)?.ok_or_else(|| missing(segment, size))?;
        // Nobody who plans a restore asks for them, and they are most of a summary.
        scan.facts.changes = Default::default();
        let scan = Arc::new(scan);
        let mut cache = self.cache.lock();
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert((segment, size), Arc::clone(&scan));
        Ok(scan)
    }

    fn bytes(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Vec<u8>> {
        let name = segment.file_name(size);
        let file: WalFileName = name.parse().map_err(|e| Error::Invalid(format!("{e}")))?;
        self.archive.fetch(&file)?.ok_or_else(|| missing(segment, size))
    }
}
