//! A worker: cuts, names, looks up and compresses, on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Sender;

use super::collector::RegionMessage;
use super::{FRAME_TARGET, FrameSlot, Message, PendingChunk, REGIONS_PER_FRAME, RegionContent, Shared};
use crate::chunker::{ContentChunker, PageChunker};
use crate::container::Compressor;
use crate::error::{Error, Result};
use crate::extract::JobReader;
use crate::id::PageFingerprint;
use crate::index::{FrameChunk, PackKind};
use crate::node::ChunkRef;

/// One thread's part of the pipeline.
pub struct IngestWorker {
    pub(super) shared: Arc<Shared>,
    sender: Sender<Message>,
    compressor: Compressor,
    pub(super) page_chunker: PageChunker,
    content_chunker: ContentChunker,
    frame: FrameBuilder,
    /// Made when a parent's pages are first read.
    pub(super) reader: Option<JobReader>,
}

/// The frame that is being filled.
struct FrameBuilder {
    plaintext: Vec<u8>,
    chunks: Vec<FrameChunk>,
    slot: Arc<FrameSlot>,
    /// Regions finished since the last frame was handed over.
    regions: u32,
}

impl FrameBuilder {
    fn new() -> Self {
        Self { plaintext: Vec::with_capacity(FRAME_TARGET * 2), chunks: Vec::new(), slot: Arc::default(), regions: 0 }
    }
}

impl IngestWorker {
    pub(super) fn new(shared: Arc<Shared>, sender: Sender<Message>) -> Result<Self> {
        let gear = shared.repository.keys().gear_table();
        let chunker = &shared.repository.config().chunker;
        let page_chunker = PageChunker::new(gear, chunker.pages, shared.options.page_size as usize);
        let content_chunker = ContentChunker::new(gear, chunker.files);
        let compressor = Compressor::new(shared.options.compression_level)?;
        Ok(Self { shared, sender, compressor, page_chunker, content_chunker, frame: FrameBuilder::new(), reader: None })
    }

    /// The fingerprint of a page.
    pub fn fingerprint(&self, page: &[u8]) -> PageFingerprint {
        self.shared.repository.keys().fingerprint(page)
    }

    /// Names a chunk and stores it unless the repository has it.
    pub(super) fn store(&mut self, plaintext: &[u8]) -> Result<PendingChunk> {
        let id = self.shared.repository.keys().chunk_id(plaintext);
        if let Some(location) = self.shared.index.find(PackKind::Data, &id)? {
            return Ok(PendingChunk::Stored(ChunkRef { id, location }));
        }
        if let Some(pending) = self.shared.in_flight.lock().get(&id) {
            return Ok(pending.clone());
        }
        if !self.frame.plaintext.is_empty() && self.frame.plaintext.len() + plaintext.len() > FRAME_TARGET {
            self.flush()?;
        }
        let offset = u32::try_from(self.frame.plaintext.len()).map_err(|_| too_large())?;
        let length = u32::try_from(plaintext.len()).map_err(|_| too_large())?;
        self.frame.plaintext.extend_from_slice(plaintext);
        self.frame.chunks.push(FrameChunk { id, offset, length });
        let pending = PendingChunk::InFlight { id, slot: Arc::clone(&self.frame.slot), offset, length };
        self.shared.in_flight.lock().insert(id, pending.clone());
        self.shared.new_bytes.fetch_add(u64::from(length), Ordering::Relaxed);
        Ok(pending)
    }

    fn flush(&mut self) -> Result<()> {
        self.frame.regions = 0;
        if self.frame.chunks.is_empty() {
            return Ok(());
        }
        let frame = self.compressor.encode(&self.frame.plaintext)?;
        self.frame.plaintext.clear();
        let chunks = std::mem::take(&mut self.frame.chunks);
        let slot = std::mem::take(&mut self.frame.slot);
        self.sender.send(Message::Frame { frame, chunks, slot }).map_err(|_| Error::Stopped)
    }

    /// Starts a region of a file that is no relation.
    pub fn byte_region(&self) -> ByteRegion {
        ByteRegion { chunks: Vec::new(), pending: Vec::new(), length: 0 }
    }

    pub(super) fn send_region(
        &mut self,
        place: (u64, u32),
        length: u64,
        crc32c: u32,
        content: RegionContent,
    ) -> Result<()> {
        let (file, region) = place;
        let message = RegionMessage { file, region, length, crc32c, content };
        self.sender.send(Message::Region(message)).map_err(|_| Error::Stopped)?;
        self.frame.regions += 1;
        // A frame that fills too slowly would keep the maps of all these regions waiting.
        if self.frame.regions >= REGIONS_PER_FRAME { self.flush() } else { Ok(()) }
    }

    /// Hands over the last frame. A worker that is dropped instead leaves its regions unresolved: the backup fails.
    pub fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

fn too_large() -> Error {
    Error::Invalid("a chunk is larger than a frame can say".to_owned())
}

/// A region of a file that is no relation, in the making.
pub struct ByteRegion {
    chunks: Vec<PendingChunk>,
    pending: Vec<u8>,
    length: u64,
}

impl ByteRegion {
    /// Appends bytes in the order of the file.
    pub fn push(&mut self, worker: &mut IngestWorker, bytes: &[u8]) -> Result<()> {
        self.pending.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        self.cut(worker, worker.content_chunker.maximum())
    }

    /// Cuts while at least `at_least` bytes are pending.
    fn cut(&mut self, worker: &mut IngestWorker, at_least: usize) -> Result<()> {
        let mut start = 0;
        while self.pending.len() - start >= at_least.max(1) {
            let length = worker.content_chunker.cut(&self.pending[start..]);
            self.chunks.push(worker.store(&self.pending[start..start + length])?);
            start += length;
        }
        self.pending.drain(..start);
        Ok(())
    }

    /// Hands the region over. `place` is the file's number and the region's number in it.
    pub fn finish(mut self, worker: &mut IngestWorker, place: (u64, u32), crc32c: u32) -> Result<()> {
        self.cut(worker, 1)?;
        worker.send_region(place, self.length, crc32c, RegionContent::Bytes(self.chunks))
    }
}
