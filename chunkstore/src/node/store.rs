//! Reading nodes, with a small cache of decoded frames: neighbours are usually wanted next.

use std::collections::{HashMap, VecDeque};
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
}

impl NodeStore {
    /// A reader with an empty cache.
    pub fn new(repository: Arc<Repository>) -> Self {
        Self { repository, cache: Mutex::new(Cache::default()) }
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
        read_frame(storage, &object, location.frame, &mut Decompressor::new()?, &mut plaintext)?;
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
