//! Which chunks the repository holds, and where.
//!
//! The truth is in the repository: every pack lists its chunks in its table, and index objects repeat those tables so that
//! they can be read in few requests. [`ChunkIndex`] is a RocksDB copy for fast look-ups. It may only *under*-state what
//! exists: an entry is inserted after its pack is durable, and trusted only while the pack is listed. Deleting the copy
//! loses nothing; the next [`ChunkIndex::open`] rebuilds it.

mod database;
mod object;

pub use database::{ChunkIndex, RebuildReport, Suspects};
pub(crate) use object::{FrameChunk, PackTable, find_in_objects};
pub use object::{IndexedPack, PackKind, read_index_object, read_pack_table, write_index_object};
