//! From files to chunks, packs and nodes.
//!
//! ```text
//! caller's threads, one IngestWorker each          one collector thread
//! read → compare → cut → hash → look up → compress ─→ data packs → maps → node packs → file lists → index objects
//! ```
//!
//! Everything is bounded: a worker holds one frame and one region's map, the queue to the collector a few frames, the
//! collector the maps whose packs are not sealed yet. A chunk's entry reaches the index only after its pack is durable.

mod collector;
mod merge;
mod pack_stream;
mod pages;
mod worker;

pub use collector::{FileHead, FileKind, FileSum, Ingested};
pub use merge::{ChangedPages, KnownRegion, RegionSum, extended_sum};
pub use pages::PageRegion;
pub use worker::{ByteRegion, IngestWorker};

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use crate::container::{EncodedFrame, FramePosition};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::index::ChunkIndex;
use crate::node::{ChunkRef, Location, NodeRef};
use crate::repository::Repository;

use collector::{Collector, RegionMessage};

/// Plaintext bytes gathered into one frame, the unit of compression. Frames of 256 KiB store 1–2 % more.
pub(crate) const FRAME_TARGET: usize = 512 << 10;
/// Bytes of a pack at which it is sealed.
pub(crate) const PACK_TARGET: u64 = 64 << 20;
/// Chunks of a pack at which it is sealed, however few bytes they take: its table must stay one frame.
pub(crate) const PACK_CHUNKS: usize = 64 << 10;
/// Weight of the regions waiting for their chunks' pack at which it is sealed, however small: they hold maps in memory.
/// As much as 512 whole regions of relations, some 20 MiB; see [`RegionContent::weight`].
pub(crate) const WAITING_WEIGHT: u64 = 512 * 2048;
/// Regions that a worker may describe by a frame that it still holds back.
pub(crate) const REGIONS_PER_FRAME: u32 = 16;

/// In which order files are announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileOrder {
    /// Ascending by path: what is complete is stored at once, and a backup of millions of files takes no more memory.
    #[default]
    ByPath,
    /// As they come. All entries, some 200 bytes each, stay in memory until the end, when they are sorted.
    Any,
}

/// How to ingest.
#[derive(Clone, Copy, Debug)]
pub struct IngestOptions {
    /// Bytes per page of relation files.
    pub page_size: u32,
    /// zstd level.
    pub compression_level: i32,
    /// Threads that will call [`Ingest::worker`].
    pub workers: usize,
    /// How files will be announced.
    pub order: FileOrder,
}

/// Where a frame ended up: known once its pack is sealed.
pub(crate) type FrameSlot = OnceLock<(PackId, FramePosition)>;

/// A chunk that may still be on its way into a pack.
#[derive(Clone, Debug)]
pub(crate) enum PendingChunk {
    Stored(ChunkRef),
    InFlight { id: ChunkId, slot: Arc<FrameSlot>, offset: u32, length: u32 },
}

impl PendingChunk {
    pub(crate) fn length(&self) -> u32 {
        match self {
            Self::Stored(chunk) => chunk.location.length,
            Self::InFlight { length, .. } => *length,
        }
    }

    /// The reference, once its pack is sealed.
    pub(crate) fn resolve(&self) -> Option<ChunkRef> {
        match self {
            Self::Stored(chunk) => Some(*chunk),
            Self::InFlight { id, slot, offset, length } => {
                let (pack, frame) = *slot.get()?;
                Some(ChunkRef { id: *id, location: Location { pack, frame, offset: *offset, length: *length } })
            }
        }
    }
}

/// What workers and collector share.
pub(crate) struct Shared {
    pub(crate) repository: Arc<Repository>,
    pub(crate) index: Arc<ChunkIndex>,
    pub(crate) options: IngestOptions,
    /// Chunks whose pack is not sealed yet.
    pub(crate) in_flight: Mutex<HashMap<ChunkId, PendingChunk>>,
    /// Set when the caller gives up: nothing more is published.
    pub(crate) aborted: AtomicBool,
    /// Plaintext bytes of new chunks.
    pub(crate) new_bytes: AtomicU64,
    /// Stored bytes so far, for progress.
    pub(crate) stored_bytes: AtomicU64,
}

/// What travels to the collector.
pub(crate) enum Message {
    Frame { frame: EncodedFrame, chunks: Vec<crate::index::FrameChunk>, slot: Arc<FrameSlot> },
    File { number: u64, head: FileHead, regions: u32, deferred: bool },
    Region(RegionMessage),
}

/// The pipeline of one backup.
pub struct Ingest {
    shared: Arc<Shared>,
    sender: Sender<Message>,
    collector: JoinHandle<Result<Ingested>>,
}

impl Ingest {
    /// Starts the collector.
    pub fn start(repository: Arc<Repository>, index: Arc<ChunkIndex>, options: IngestOptions) -> Result<Self> {
        repository.config().check_writable()?;
        let shared = Arc::new(Shared {
            repository,
            index,
            options,
            in_flight: Mutex::default(),
            aborted: AtomicBool::new(false),
            new_bytes: AtomicU64::new(0),
            stored_bytes: AtomicU64::new(0),
        });
        let (sender, receiver) = bounded(options.workers * 4 + 8);
        let collector = Collector::new(Arc::clone(&shared))?;
        let collector = std::thread::Builder::new()
            .name("collector".to_owned())
            .spawn(move || collector.run(&receiver))
            .map_err(|e| Error::storage("start", "the collector thread", e))?;
        Ok(Self { shared, sender, collector })
    }

    /// A worker for one thread.
    pub fn worker(&self) -> Result<IngestWorker> {
        IngestWorker::new(Arc::clone(&self.shared), self.sender.clone())
    }

    /// Announces a file before any of its regions is finished. Numbers are given from 0 without a gap, in the order of
    /// [`IngestOptions::order`]; `regions` may be 0.
    pub fn file(&self, number: u64, head: FileHead, regions: u32) -> Result<()> {
        self.announce(number, head, regions, false)
    }

    /// Announces a file whose regions come last of all. It gets a file list of its own, so that the files behind it need
    /// not wait in memory. Only where files come by path.
    pub fn deferred_file(&self, number: u64, head: FileHead, regions: u32) -> Result<()> {
        self.announce(number, head, regions, true)
    }

    fn announce(&self, number: u64, head: FileHead, regions: u32, deferred: bool) -> Result<()> {
        self.sender.send(Message::File { number, head, regions, deferred }).map_err(|_| Error::Stopped)
    }

    /// Seals everything. All workers have been finished or dropped.
    pub fn finish(self) -> Result<Ingested> {
        let Self { shared: _, sender, collector } = self;
        drop(sender);
        collector.join().unwrap_or_else(|_| Err(Error::Invalid("the collector thread died".to_owned())))
    }

    /// Gives up: what is not sealed is dropped. Returns the collector's own error if it was the first to fail.
    pub fn abort(self) -> Option<Error> {
        self.shared.aborted.store(true, Ordering::SeqCst);
        self.finish().err().filter(|error| !matches!(error, Error::GivenUp))
    }
}

/// A region's finished description, for the collector.
#[derive(Clone, Debug)]
pub(crate) enum RegionContent {
    /// As in the parent.
    Unchanged { node: NodeRef, packs: Vec<PackId> },
    /// Relation pages.
    Pages(Box<pages::PendingPageMap>),
    /// Bytes.
    Bytes(Vec<PendingChunk>),
}

impl RegionContent {
    /// Memory it takes while it waits, in units of what a page takes.
    pub(crate) fn weight(&self) -> u64 {
        /// A region's and a chunk's own fields, beside a page's.
        const FIELDS: u64 = 16;
        match self {
            Self::Unchanged { packs, .. } => FIELDS + packs.len() as u64,
            Self::Pages(map) => FIELDS + map.page_count(),
            Self::Bytes(chunks) => FIELDS * (1 + chunks.len() as u64),
        }
    }
}
