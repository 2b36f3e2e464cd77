//! Reading nodes, with a small cache of decoded frames: neighbours are usually wanted next. Where reads wait for a network,
//! there is a second one below it, of large blocks as they are stored.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::file_list::FileList;
use super::page_map::StoredPageMap;
use super::reference::{Location, NodeRef};
use super::{ByteMap, EncodedNode, MAXIMUM_DEPTH, PageMap};
use crate::container::{Decompressor, FramePosition, read_frame};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::repository::{Repository, layout};
use crate::storage::Storage;

/// Frames kept: a frame holds at most a few hundred KiB, so this stays below some 10 MiB.
const CACHED_FRAMES: usize = 32;

type FrameKey = (PackId, FramePosition);

#[derive(Default)]
struct Cache {
    frames: HashMap<FrameKey, Arc<Vec<u8>>>,
    order: VecDeque<FrameKey>,
}

/// Reads and resolves nodes of one repository. Shared by threads.
pub struct NodeStore {
    repository: Arc<Repository>,
    cache: Mutex<Cache>,
    /// Used only where reads wait for a network.
    blocks: Blocks,
}

impl NodeStore {
    /// A reader with an empty cache.
    pub fn new(repository: Arc<Repository>) -> Self {
        Self { repository, cache: Mutex::default(), blocks: Blocks::default() }
    }

    /// A page map, with its deltas applied.
    pub fn page_map(&self, node: &NodeRef) -> Result<StoredPageMap> {
        let mut deltas = Vec::new();
        let mut at = *node;
        let mut map = loop {
            match self.node(&at)? {
                EncodedNode::PageMap(encoded) => break PageMap::from_encoded(&encoded).map_err(|e| refuse(&at, e))?,
                EncodedNode::PageMapDelta(delta) if deltas.len() < usize::from(MAXIMUM_DEPTH) => {
                    at = delta.base().ok_or_else(|| refuse(&at, "has no base"))?;
                    deltas.push(delta);
                }
                EncodedNode::PageMapDelta(_) => return Err(refuse(node, "is a chain of too many deltas")),
                other => return Err(refuse(&at, format_args!("is a {}, expected a page map", other.name()))),
            }
        };
        let depth = u8::try_from(deltas.len()).unwrap_or(MAXIMUM_DEPTH);
        for delta in deltas.into_iter().rev() {
            map = map.apply(&delta).map_err(|e| refuse(node, e))?.0;
        }
        Ok(StoredPageMap { map: Arc::new(map), node: *node, depth })
    }

    /// A byte map.
    pub fn byte_map(&self, node: &NodeRef) -> Result<ByteMap> {
        match self.node(node)? {
            EncodedNode::ByteMap(encoded) => ByteMap::from_encoded(&encoded).map_err(|e| refuse(node, e)),
            other => Err(refuse(node, format_args!("is a {}, expected a byte map", other.name()))),
        }
    }

    /// A file list.
    pub fn file_list(&self, node: &NodeRef) -> Result<FileList> {
        match self.node(node)? {
            EncodedNode::FileList(encoded) => FileList::from_encoded(encoded).map_err(|e| refuse(node, e)),
            other => Err(refuse(node, format_args!("is a {}, expected a file list", other.name()))),
        }
    }

    fn node(&self, node: &NodeRef) -> Result<EncodedNode> {
        let bytes = match self.chunk_at(&node.location, node.id) {
            Ok(bytes) => bytes,
            // The hint is old: packs have been rewritten since.
            Err(error) if error.is_not_found() => {
                let moved = self.repository.locate(node.id)?.ok_or(error)?;
                self.chunk_at(&moved, node.id)?
            }
            Err(error) => return Err(error),
        };
        EncodedNode::from_bytes(&bytes).map_err(|e| refuse(node, e))
    }

    fn chunk_at(&self, location: &Location, id: ChunkId) -> Result<Vec<u8>> {
        let frame = self.frame(location)?;
        let start = location.offset as usize;
        let bytes = start.checked_add(location.length as usize).and_then(|end| frame.get(start..end));
        let bytes = bytes.filter(|bytes| self.repository.keys().chunk_id(bytes) == id);
        let damaged = || {
            let at = location.frame.offset;
            Error::damaged(layout::pack_name(location.pack), format_args!("node {id} is not in its frame at {at}"))
        };
        bytes.map(<[u8]>::to_vec).ok_or_else(damaged)
    }

    fn frame(&self, location: &Location) -> Result<Arc<Vec<u8>>> {
        let key = (location.pack, location.frame);
        if let Some(frame) = self.cache.lock().frames.get(&key) {
            return Ok(Arc::clone(frame));
        }
        let mut plaintext = Vec::new();
        let object = layout::nodes(location.pack)?;
        let storage = self.repository.storage();
        let mut decompressor = Decompressor::new()?;
        let far = storage.parallel_reads() > 1;
        let stored = if far { self.blocks.frame(storage, location.pack, location.frame)? } else { None };
        match stored {
            Some(stored) => decompressor.decode(&object, &stored, &mut plaintext)?,
            None => read_frame(storage, &object, location.frame, &mut decompressor, &mut plaintext)?,
        }
        let plaintext = Arc::new(plaintext);
        let mut cache = self.cache.lock();
        if cache.frames.insert(key, Arc::clone(&plaintext)).is_none() {
            cache.order.push_back(key);
        }
        while cache.order.len() > CACHED_FRAMES
            && let Some(oldest) = cache.order.pop_front()
        {
            cache.frames.remove(&oldest);
        }
        Ok(plaintext)
    }
}

fn refuse(node: &NodeRef, problem: impl std::fmt::Display) -> Error {
    Error::damaged(layout::pack_name(node.location.pack), format_args!("node {}: {problem}", node.id))
}

/// Bytes of one read: what a good line brings in the time that an answer takes to begin.
const BLOCK: u64 = 1 << 20;
/// Blocks kept: 32 MiB.
const KEPT: usize = 32;

type BlockKey = (PackId, u64);
/// A block, or nothing yet. Whoever finds nothing reads it while it holds the lock, so nobody reads it twice.
type Cell = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

#[derive(Default)]
struct Cells {
    blocks: HashMap<BlockKey, Cell>,
    /// The one that was used last is last.
    order: VecDeque<BlockKey>,
}

/// Node packs in large blocks: where each read waits for a network, neighbours come along and stay for a while.
#[derive(Default)]
struct Blocks {
    /// Lengths of the packs that were listed at the first use.
    lengths: Mutex<Option<Arc<HashMap<PackId, u64>>>>,
    cells: Mutex<Cells>,
}

impl Blocks {
    /// The stored bytes of one frame; `None` where that is better read by itself: of a pack that the listing did not name
    /// or that ends sooner, or longer than a block.
    fn frame(&self, storage: &dyn Storage, pack: PackId, frame: FramePosition) -> Result<Option<Vec<u8>>> {
        let length = self.lengths(storage)?.get(&pack).copied().unwrap_or_default();
        let Some(end) = frame.offset.checked_add(u64::from(frame.length)).filter(|end| *end <= length) else {
            return Ok(None);
        };
        if u64::from(frame.length) > BLOCK {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(frame.length as usize);
        for number in frame.offset / BLOCK..end.div_ceil(BLOCK) {
            let start = number * BLOCK;
            let block = self.block(storage, pack, number, start..length.min(start + BLOCK))?;
            let from = frame.offset.saturating_sub(start) as usize;
            let to = (end - start).min(BLOCK) as usize;
            bytes.extend_from_slice(block.get(from..to).unwrap_or_default());
        }
        Ok(Some(bytes))
    }

    fn lengths(&self, storage: &dyn Storage) -> Result<Arc<HashMap<PackId, u64>>> {
        let mut lengths = self.lengths.lock();
        if let Some(lengths) = &*lengths {
            return Ok(Arc::clone(lengths));
        }
        let listed = storage.list(layout::NODES)?;
        let found = listed.iter().filter_map(|info| Some((layout::pack_of(&info.key)?, info.size)));
        let found: Arc<HashMap<PackId, u64>> = Arc::new(found.collect());
        Ok(Arc::clone(lengths.insert(found)))
    }

    fn block(&self, storage: &dyn Storage, pack: PackId, number: u64, range: Range<u64>) -> Result<Arc<Vec<u8>>> {
        let cell = self.cells.lock().touch((pack, number));
        let mut block = cell.lock();
        if let Some(block) = &*block {
            return Ok(Arc::clone(block));
        }
        let bytes = Arc::new(storage.get_range(&layout::nodes(pack)?, range)?);
        *block = Some(Arc::clone(&bytes));
        Ok(bytes)
    }
}

impl Cells {
    fn touch(&mut self, key: BlockKey) -> Cell {
        let cell = Arc::clone(self.blocks.entry(key).or_default());
        self.order.retain(|other| *other != key);
        self.order.push_back(key);
        while self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.blocks.remove(&oldest);
        }
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// Frames anywhere in a pack are what the pack holds there, also across blocks and when blocks were given up meanwhile.
    #[test]
    fn frames_are_cut_out_of_blocks() {
        let (storage, blocks) = (MemoryStorage::new(), Blocks::default());
        let content: Vec<u8> = (0..(KEPT as u64 + 3) * BLOCK + 77).map(|at| (at * 31 / 7) as u8).collect();
        let pack = PackId::new([7; 32]);
        storage.put_if_absent(&layout::nodes(pack).unwrap(), &content).unwrap();
        let read = |offset: u64, length: u32| blocks.frame(&storage, pack, FramePosition { offset, length }).unwrap();
        let last = content.len() as u64 - 20;
        for _ in 0..2 {
            for offset in (0..KEPT as u64 + 3).flat_map(|block| [block * BLOCK, (block + 1) * BLOCK - 10]).chain([last])
            {
                let (from, to) = (offset as usize, offset as usize + 20);
                assert!(read(offset, 20).as_deref() == Some(&content[from..to]), "at {offset}");
            }
        }
        assert_eq!(read(1, BLOCK as u32), Some(content[1..=BLOCK as usize].to_vec()));
        for (offset, length) in [(last, 21), (u64::MAX, 1), (0, BLOCK as u32 + 1), (content.len() as u64, 1)] {
            assert_eq!(read(offset, length), None, "{length} at {offset}");
        }
        let unknown = FramePosition { offset: 0, length: 1 };
        assert_eq!(blocks.frame(&storage, PackId::new([8; 32]), unknown).unwrap(), None);
        assert!(blocks.cells.lock().blocks.len() <= KEPT);
    }
}
