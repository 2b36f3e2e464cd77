//! Where routes read WAL from.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::SegmentScan;

use crate::error::{Error, Result};
use crate::wal::{Held, WalArchive, padded, scan_tail};

/// Segments whose summary is kept: each takes at most some 40 KiB.
const CACHED: usize = 1024;

/// Gives out archived segments and tails, which an inventory lists. Shared by threads.
pub trait WalSource: Sync {
    /// What a segment says, or as much of it as is held. Its block changes may be left out.
    ///
    /// The end of a tail's records is no end that a whole segment has, unless nothing is missing after all; it is
    /// [`SegmentEnd::Stopped`](walkeep_proto::wal::segment_scan::SegmentEnd::Stopped) only where something is wrong with it.
    fn scan(&self, segment: WalSegment, size: WalSegmentSize, held: Held<'_>) -> Result<Arc<SegmentScan>>;

    /// A segment's bytes; those of a tail, and zeros behind them at which its records end.
    fn bytes(&self, segment: WalSegment, size: WalSegmentSize, held: Held<'_>) -> Result<Vec<u8>>;

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
    fn scan(&self, segment: WalSegment, size: WalSegmentSize, held: Held<'_>) -> Result<Arc<SegmentScan>> {
        let summary = self.place(segment, size);
        let mut summary = summary.lock();
        if let Some(scan) = &*summary {
            return Ok(Arc::clone(scan));
        }
        let mut scan = match held {
            Held::Whole(stored) => self.archive.listed_summary(segment, size, stored)?,
            Held::Tail(stored) => {
                let bytes = self.archive.listed_tail(segment, size, stored)?;
                scan_tail(&bytes, segment, size).map_err(|e| Error::damaged(&stored.key, e))?
            }
        };
        // Nobody who plans a restore asks for them, and they are most of a summary.
        scan.facts.changes = Default::default();
        Ok(Arc::clone(summary.insert(Arc::new(scan))))
    }

    fn bytes(&self, segment: WalSegment, size: WalSegmentSize, held: Held<'_>) -> Result<Vec<u8>> {
        match held {
            Held::Whole(stored) => self.archive.fetch_listed(segment, size, stored),
            Held::Tail(stored) => {
                let bytes = self.archive.listed_tail(segment, size, stored)?;
                padded(bytes, size).map_err(|e| Error::damaged(&stored.key, e))
            }
        }
    }

    fn parallel_reads(&self) -> usize {
        self.archive.repository().storage().parallel_reads()
    }
}
