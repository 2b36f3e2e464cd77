//! `INCREMENTAL.<name>`: a relation file of which only the changed blocks are there (17 and later).
//!
//! `sendFile` of `backup/basebackup.c` writes it, `reconstruct_from_incremental_file` of `pg_combinebackup` reads it. Little
//! endian in practice: the server writes the numbers of its own machine.
//!
//! ```text
//! magic, number of blocks, truncation block length: u32 each
//! numbers of the blocks: u32 each, ascending, counted in this file
//! zeros up to a multiple of the page size, where there are blocks
//! the blocks
//! ```

use std::io::{self, Read};

use crate::identity::BlockNumber;

/// What the name of such a file has in front.
pub const PREFIX: &str = "INCREMENTAL.";

/// `INCREMENTAL_MAGIC` of `backup/basebackup_incremental.h`.
const MAGIC: u32 = 0xD3AE_1F0D;
/// Bytes of the three numbers that it begins with.
const FIXED: usize = 12;

/// What stands before the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IncrementalHeader {
    /// The blocks that follow, ascending, counted in the file.
    pub blocks: Vec<BlockNumber>,
    /// The file has at least so many blocks.
    pub truncation_block_length: u32,
    /// Bytes of the header with its padding, as they were.
    pub bytes: Vec<u8>,
}

/// Why the bytes are no such header.
#[derive(Debug, thiserror::Error)]
pub enum IncrementalFileError {
    /// They end too early, or cannot be read.
    #[error("unable to read an incremental file")]
    Read(#[from] io::Error),
    /// It begins with something else.
    #[error("an incremental file begins with {found:#010x}, expected {MAGIC:#010x}")]
    Magic {
        /// What it begins with.
        found: u32,
    },
    /// More blocks than a file has room for.
    #[error("an incremental file has {found} blocks, expected at most {most}")]
    TooManyBlocks {
        /// What it says.
        found: u32,
        /// Blocks of the longest file.
        most: u32,
    },
    /// A block that no file has, or that comes before its predecessor.
    #[error("block {block} of an incremental file is out of order, or behind the last of {most}")]
    Block {
        /// The block.
        block: BlockNumber,
        /// Blocks of the longest file.
        most: u32,
    },
}

impl IncrementalHeader {
    /// Reads the header and its padding; what follows in `file` are the blocks. Takes no more memory than a file of
    /// `blocks_per_segment` blocks needs.
    pub fn read(mut file: impl Read, page_size: u32, blocks_per_segment: u32) -> Result<Self, IncrementalFileError> {
        let mut bytes = vec![0; FIXED];
        file.read_exact(&mut bytes)?;
        let [magic, count, truncation_block_length] = [0, 4, 8].map(|at| number(&bytes, at));
        if magic != MAGIC {
            return Err(IncrementalFileError::Magic { found: magic });
        }
        if count > blocks_per_segment {
            return Err(IncrementalFileError::TooManyBlocks { found: count, most: blocks_per_segment });
        }
        let numbers = FIXED + count as usize * size_of::<BlockNumber>();
        let whole = if count > 0 { numbers.next_multiple_of(page_size as usize) } else { numbers };
        bytes.resize(whole, 0);
        file.read_exact(&mut bytes[FIXED..])?;
        let blocks: Vec<BlockNumber> =
            (FIXED..numbers).step_by(size_of::<BlockNumber>()).map(|at| number(&bytes, at)).collect();
        let mut least = 0;
        for &block in &blocks {
            if block < least || block >= blocks_per_segment {
                return Err(IncrementalFileError::Block { block, most: blocks_per_segment });
            }
            least = block + 1;
        }
        Ok(Self { blocks, truncation_block_length, bytes })
    }

    /// Bytes of the whole file.
    pub fn file_length(&self, page_size: u32) -> u64 {
        self.bytes.len() as u64 + self.blocks.len() as u64 * u64::from(page_size)
    }

    /// Blocks of the file that it stands for.
    ///
    /// A server without a limit in `GetFileBackupMethod` names more than a file can have, where the relation was truncated in
    /// one of its later files.
    pub fn length_in_blocks(&self, blocks_per_segment: u32) -> u32 {
        let behind_last = self.blocks.last().map_or(0, |block| block + 1);
        self.truncation_block_length.max(behind_last).min(blocks_per_segment)
    }
}

/// The path of the relation file that the incremental file of this path stands for; `None` for any other path.
pub fn relation_path(path: &[u8]) -> Option<Vec<u8>> {
    let name = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let relation = path[name..].strip_prefix(PREFIX.as_bytes())?;
    Some([&path[..name], relation].concat())
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(magic: u32, count: u32, truncation: u32, blocks: &[u32], padding: usize) -> Vec<u8> {
        let numbers = [magic, count, truncation];
        let mut bytes: Vec<u8> = numbers.iter().chain(blocks).flat_map(|number| number.to_le_bytes()).collect();
        bytes.resize(bytes.len() + padding, 0);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<IncrementalHeader, IncrementalFileError> {
        IncrementalHeader::read(bytes, 8192, 131_072)
    }

    #[test]
    fn the_header_ends_at_a_page_only_where_blocks_follow() {
        let none = read(&file(MAGIC, 0, 7, &[], 0)).unwrap();
        assert_eq!((none.file_length(8192), none.length_in_blocks(131_072)), (12, 7));
        let mut bytes = file(MAGIC, 3, 5, &[0, 4, 9], 8192 - 24);
        bytes.extend_from_slice(b"block");
        let some = read(&bytes).unwrap();
        assert_eq!((some.blocks.as_slice(), some.bytes.len()), (&[0, 4, 9][..], 8192));
        assert_eq!((some.file_length(8192), some.length_in_blocks(131_072)), (4 * 8192, 10));
        // As many numbers as fill a page with the rest.
        let numbers: Vec<u32> = (0..2045).collect();
        assert_eq!(read(&file(MAGIC, 2045, 0, &numbers, 0)).unwrap().bytes.len(), 8192);
    }

    #[test]
    fn no_file_is_longer_than_a_segment() {
        let header = read(&file(MAGIC, 0, 200_000, &[], 0)).unwrap();
        assert_eq!(header.length_in_blocks(131_072), 131_072);
    }

    #[test]
    fn what_no_server_writes_is_refused() {
        for (bytes, says) in [
            (file(MAGIC + 1, 0, 0, &[], 0), "begins with 0xd3ae1f0e"),
            (file(MAGIC, 131_073, 0, &[], 0), "131073 blocks, expected at most 131072"),
            (file(MAGIC, 2, 0, &[4, 4], 8192 - 20), "block 4 of an incremental file is out of order"),
            (file(MAGIC, 2, 0, &[4, 3], 8192 - 20), "block 3 "),
            (file(MAGIC, 1, 0, &[131_072], 8192 - 16), "behind the last of 131072"),
            (file(MAGIC, 1, 0, &[1], 8192 - 17), "unable to read"),
            (file(MAGIC, 0, 0, &[], 0)[..11].to_vec(), "unable to read"),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn only_the_last_part_of_a_path_has_the_prefix() {
        assert_eq!(relation_path(b"base/5/INCREMENTAL.16385.1"), Some(b"base/5/16385.1".to_vec()));
        assert_eq!(relation_path(b"INCREMENTAL.x"), Some(b"x".to_vec()));
        assert_eq!(relation_path(b"base/5/16385"), None);
        assert_eq!(relation_path(b"INCREMENTAL.5/16385"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(rest: Vec<u8>, count in 0_u32..40) {
            let _ = read(&rest);
            let bytes = [file(MAGIC, count, 3, &[], 0), rest].concat();
            let _ = IncrementalHeader::read(bytes.as_slice(), 64, 32);
        }
    }
}
