//! Packs of one kind, one after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use super::{FrameSlot, PACK_CHUNKS, PACK_TARGET, Shared};
use crate::container::{Compressor, ContainerWriter, EncodedFrame, Finished, FramePosition};
use crate::error::{Error, Result};
use crate::index::{FrameChunk, IndexedPack, PackKind, PackTable};
use crate::storage::Put;

/// A pack in the making.
struct OpenPack {
    container: ContainerWriter,
    table: PackTable,
    chunks: usize,
    slots: Vec<(Arc<FrameSlot>, FramePosition)>,
}

/// A pack that a thread of its own is making durable.
struct SealingPack {
    thread: JoinHandle<Result<Finished>>,
    table: PackTable,
    slots: Vec<(Arc<FrameSlot>, FramePosition)>,
}

/// Appends frames; seals a pack when it is large enough, while the next one is being filled.
pub(super) struct PackStream {
    shared: Arc<Shared>,
    kind: PackKind,
    open: Option<OpenPack>,
    sealing: Option<SealingPack>,
    compressor: Compressor,
}

impl PackStream {
    pub(super) fn new(shared: Arc<Shared>, kind: PackKind) -> Result<Self> {
        let compressor = Compressor::new(shared.options.compression_level)?;
        Ok(Self { shared, kind, open: None, sealing: None, compressor })
    }

    /// Appends a frame. Gives a pack that has become durable meanwhile; it is in the index then.
    pub(super) fn append(
        &mut self,
        frame: &EncodedFrame,
        chunks: Vec<FrameChunk>,
        slot: Arc<FrameSlot>,
    ) -> Result<Option<IndexedPack>> {
        let full = self.open.as_ref().is_some_and(|open| {
            open.container.length() + frame.length() > PACK_TARGET || open.chunks + chunks.len() > PACK_CHUNKS
        });
        let ready = self.sealing.as_ref().is_some_and(|sealing| full || sealing.thread.is_finished());
        let sealed = if ready { self.sealed()? } else { None };
        if full {
            self.start_sealing()?;
        }
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

    /// Makes durable what there is: at most two packs, both in the index on return.
    pub(super) fn seal(&mut self) -> Result<Vec<IndexedPack>> {
        let mut packs = Vec::new();
        packs.extend(self.sealed()?);
        self.start_sealing()?;
        packs.extend(self.sealed()?);
        Ok(packs)
    }

    /// Hands the open pack to a thread. None is being sealed at the moment.
    fn start_sealing(&mut self) -> Result<()> {
        let Some(OpenPack { container, table, slots, .. }) = self.open.take() else { return Ok(()) };
        let encoded = self.compressor.encode(&table.to_bytes())?;
        let kind = self.kind;
        let thread = std::thread::Builder::new()
            .name("seal".to_owned())
            .spawn(move || container.finish(&encoded, |id| kind.key(id)))
            .map_err(|e| Error::storage("start", "the sealing thread", e))?;
        self.sealing = Some(SealingPack { thread, table, slots });
        Ok(())
    }

    /// Waits for the pack being sealed, enters it into the index, and tells everybody who waits where its frames are.
    fn sealed(&mut self) -> Result<Option<IndexedPack>> {
        let Some(SealingPack { thread, table, slots }) = self.sealing.take() else { return Ok(None) };
        let died = || Err(Error::Invalid("the sealing thread died".to_owned()));
        let finished = thread.join().unwrap_or_else(|_| died())?;
        if finished.put == Put::AlreadyExists && self.shared.index.is_distrusted(&finished.hash) {
            let problem = "it cannot be read, and has the name of what is to be stored: move it away, and run again";
            return Err(Error::damaged(self.kind.key(finished.hash)?, problem));
        }
        let pack = IndexedPack { id: finished.hash, kind: self.kind, length: finished.length, table };
        self.shared.index.insert(&pack, false)?;
        if finished.put == Put::Created {
            self.shared.stored_bytes.fetch_add(finished.length, Ordering::Relaxed);
        }
        for (slot, position) in slots {
            // A slot belongs to one frame, and a frame to one pack: it is set once.
            let _ = slot.set((pack.id, position));
        }
        if self.kind == PackKind::Data {
            let mut in_flight = self.shared.in_flight.lock();
            for (id, _) in pack.chunks() {
                in_flight.remove(&id);
            }
        }
        Ok(Some(pack))
    }
}
