//! Packs of one kind, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{FrameSlot, PACK_CHUNKS, PACK_TARGET, Shared};
use crate::container::{Compressor, ContainerWriter, EncodedFrame, FramePosition};
use crate::error::Result;
use crate::index::{FrameChunk, IndexedPack, PackKind, PackTable};
use crate::storage::Put;

/// A pack in the making.
struct OpenPack {
    container: ContainerWriter,
    table: PackTable,
    chunks: usize,
    slots: Vec<(Arc<FrameSlot>, FramePosition)>,
}

/// Appends frames; seals a pack when it is large enough.
pub(super) struct PackStream {
    shared: Arc<Shared>,
    kind: PackKind,
    open: Option<OpenPack>,
    compressor: Compressor,
}

impl PackStream {
    pub(super) fn new(shared: Arc<Shared>, kind: PackKind) -> Result<Self> {
        let compressor = Compressor::new(shared.options.compression_level)?;
        Ok(Self { shared, kind, open: None, compressor })
    }

    /// Appends a frame. `Some` when that completed a pack, which is durable and in the index now.
    pub(super) fn append(
        &mut self,
        frame: &EncodedFrame,
        chunks: Vec<FrameChunk>,
        slot: Arc<FrameSlot>,
    ) -> Result<Option<IndexedPack>> {
        let full = self.open.as_ref().is_some_and(|open| {
            open.container.length() + frame.length() > PACK_TARGET || open.chunks + chunks.len() > PACK_CHUNKS
        });
        let sealed = if full { self.seal()? } else { None };
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let repository = &self.shared.repository;
                let kind = self.kind.container();
                let container = ContainerWriter::start(repository.storage(), kind, repository.id())?;
                self.open.insert(OpenPack { container, table: PackTable::default(), chunks: 0, slots: Vec::new() })
            }
        };
        let position = open.container.append(frame)?;
        open.chunks += chunks.len();
        open.table.frames.push((position, chunks));
        open.slots.push((slot, position));
        Ok(sealed)
    }

    /// Publishes the open pack, enters it into the index, and tells everybody who waits where its frames are.
    pub(super) fn seal(&mut self) -> Result<Option<IndexedPack>> {
        let Some(OpenPack { container, table, slots, .. }) = self.open.take() else { return Ok(None) };
        let encoded = self.compressor.encode(&table.to_bytes())?;
        let kind = self.kind;
        let finished = container.finish(&encoded, |id| kind.key(id))?;
        let pack = IndexedPack { id: finished.hash, kind, length: finished.length, table };
        self.shared.index.insert(&pack, false)?;
        if finished.put == Put::Created {
            self.shared.stored_bytes.fetch_add(finished.length, Ordering::Relaxed);
        }
        for (slot, position) in slots {
            // A slot belongs to one frame, and a frame to one pack: it is set once.
            let _ = slot.set((pack.id, position));
        }
        if kind == PackKind::Data {
            let mut in_flight = self.shared.in_flight.lock();
            for (id, _) in pack.chunks() {
                in_flight.remove(&id);
            }
        }
        Ok(Some(pack))
    }
}
