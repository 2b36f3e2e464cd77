//! The one shape that every binary object has: a header, frames, a table, a trailer.
//!
//! ```text
//! header 64 B   "walkeep\0" | u16 format | u8 kind | u8 cipher suite | u32 0 | repository id 16 | salt 32
//! frame         24 B: "WKFR" | u32 sequence | u32 stored | u32 raw | u8 codec | 3 × 0 | u32 crc32c, then the stored bytes
//! …
//! table frame   the last frame: what the other frames hold
//! trailer 40 B  u64 table offset | u32 frames | u32 table length | u64 object length | u32 0 | u32 crc32c | "walkeepE"
//! ```
//!
//! All numbers are little-endian. The cipher suite and the salt are zero in a repository without encryption; with one,
//! `stored` bytes are ciphertext and tag. A frame's checksum covers its header and its stored bytes, so damage is found
//! and undamaged frames can be recovered by scanning, without a key. Chunk ids above prove the plaintext.

mod format;
mod reader;
mod writer;

pub use format::{Codec, ContainerKind, FRAME_HEADER, FramePosition, HEADER, MAX_RAW_FRAME, TRAILER, Trailer};
pub(crate) use reader::read_frame;
pub use reader::{Container, Decompressor};
pub use writer::{Compressor, ContainerWriter, EncodedFrame, Finished};
