//! References to chunks: the id, which is the truth, and the place, which is a hint.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::container::FramePosition;
use crate::id::{ChunkId, PackId};

/// Where a chunk was stored: correct when written; after packs are rewritten the index knows better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The frame inside the pack.
    pub frame: FramePosition,
    /// The chunk's first byte in the frame's plaintext.
    pub offset: u32,
    /// The chunk's plaintext length.
    pub length: u32,
}

/// A chunk of file data, in `packs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkRef {
    /// Hash of the plaintext.
    pub id: ChunkId,
    /// Where it was stored.
    pub location: Location,
}

/// A node, in `nodes/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NodeRef {
    /// Hash of the node's bytes.
    pub id: ChunkId,
    /// Where it was stored.
    pub location: Location,
}

/// A reference whose pack stands once, in the dictionary of the node that holds it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct PackedRef {
    id: ChunkId,
    pack: u32,
    frame: FramePosition,
    offset: u32,
    length: u32,
}

/// The packs that one node's references point into.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PackDictionary {
    packs: Vec<PackId>,
    #[serde(skip)]
    numbers: HashMap<PackId, u32>,
}

impl PackDictionary {
    /// The short form of a reference.
    pub fn pack(&mut self, id: ChunkId, location: &Location) -> PackedRef {
        let packs = &mut self.packs;
        let number = *self.numbers.entry(location.pack).or_insert_with(|| {
            packs.push(location.pack);
            // A node never refers to more packs than it has references, far below this.
            u32::try_from(packs.len() - 1).unwrap_or(u32::MAX)
        });
        PackedRef { id, pack: number, frame: location.frame, offset: location.offset, length: location.length }
    }

    /// The long form; `None` where the dictionary has no such pack.
    pub fn unpack(&self, packed: &PackedRef) -> Option<(ChunkId, Location)> {
        let pack = *self.packs.get(packed.pack as usize)?;
        Some((packed.id, Location { pack, frame: packed.frame, offset: packed.offset, length: packed.length }))
    }

    /// The short form of a chunk reference.
    pub fn pack_chunk(&mut self, chunk: &ChunkRef) -> PackedRef {
        self.pack(chunk.id, &chunk.location)
    }

    /// The long form as a chunk reference.
    pub fn unpack_chunk(&self, packed: &PackedRef) -> Option<ChunkRef> {
        self.unpack(packed).map(|(id, location)| ChunkRef { id, location })
    }

    /// The long form as a node reference.
    pub fn unpack_node(&self, packed: &PackedRef) -> Option<NodeRef> {
        self.unpack(packed).map(|(id, location)| NodeRef { id, location })
    }
}
