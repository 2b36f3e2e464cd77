//! Byte maps: 16 MiB of a file that is no relation.

use serde::{Deserialize, Serialize};

use super::reference::{ChunkRef, PackDictionary, PackedRef};

/// The chunks of one region of a file, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ByteMap {
    /// Chunks whose plaintexts, one behind the other, are the region.
    pub chunks: Vec<ChunkRef>,
}

/// As stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EncodedByteMap {
    packs: PackDictionary,
    chunks: Vec<PackedRef>,
}

impl ByteMap {
    /// Bytes of the region.
    pub fn length(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.location.length)).sum()
    }

    pub(crate) fn to_encoded(&self) -> EncodedByteMap {
        let mut packs = PackDictionary::default();
        let chunks = self.chunks.iter().map(|chunk| packs.pack_chunk(chunk)).collect();
        EncodedByteMap { packs, chunks }
    }

    pub(crate) fn from_encoded(encoded: &EncodedByteMap) -> Result<Self, String> {
        let chunks: Option<Vec<ChunkRef>> =
            encoded.chunks.iter().map(|packed| encoded.packs.unpack_chunk(packed)).collect();
        let map = Self { chunks: chunks.ok_or("refers to a pack it does not name")? };
        if map.length() <= super::REGION { Ok(map) } else { Err(format!("{} bytes in one region", map.length())) }
    }
}
