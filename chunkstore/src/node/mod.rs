//! Nodes: the structures that describe files in terms of chunks. They are stored as chunks themselves, in `nodes/`.
//!
//! ```text
//! backup root ─→ file lists ─→ one page map or byte map per 16 MiB of a file ─→ chunks
//! ```
//!
//! Every reference carries the place where its target was stored, so a restore reads neither the index nor RocksDB.

mod byte_map;
mod file_list;
mod page_map;
mod reference;
mod store;

pub use byte_map::ByteMap;
pub use file_list::{Body, FileContent, FileEntry, FileList, FileListBuilder, is_below};
pub use page_map::{Extent, MAXIMUM_DEPTH, MAXIMUM_EXTENTS, PageMap, PageSource, StoredPageMap, pages_to_rewrite};
pub use reference::{ChunkRef, Location, NodeRef, PackDictionary, PackedRef};
pub use store::NodeStore;

use serde::{Deserialize, Serialize};

/// Bytes of a file that one map describes.
pub const REGION: u64 = 16 << 20;

/// Version of the structures below.
const NODE_VERSION: u8 = 1;

/// What a chunk in `nodes/` may be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum EncodedNode {
    /// A map that stands alone.
    PageMap(page_map::EncodedPageMap),
    /// What differs from another map.
    PageMapDelta(page_map::EncodedDelta),
    /// Chunks of a file that is no relation.
    ByteMap(byte_map::EncodedByteMap),
    /// Files of a data directory.
    FileList(file_list::EncodedFileList),
}

impl EncodedNode {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        crate::codec::encode(NODE_VERSION, self)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, crate::codec::DecodeError> {
        crate::codec::decode(NODE_VERSION, bytes)
    }

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::PageMap(_) => "page map",
            Self::PageMapDelta(_) => "page map delta",
            Self::ByteMap(_) => "byte map",
            Self::FileList(_) => "file list",
        }
    }
}
