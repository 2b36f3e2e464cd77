//! `backup_manifest`: the list of a base backup's files, written and read as PostgreSQL does (`backup/backup_manifest.c`).
//!
//! Version 1 is that of 13 to 16; version 2, since 17, adds the system identifier. The text is JSON with one line per
//! file, and ends with the SHA-256 of everything before its last line. A CRC-32C is printed as the bytes that a
//! little-endian machine has in memory: 0x364B3FB7 is `b73f4b36`.

mod read;
mod write;

pub use read::{BackupManifest, FileChecksum, ManifestError, ManifestFile};
pub use write::ManifestWriter;

use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

/// WAL that a backup needs to become consistent, on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first position needed.
    pub start: Lsn,
    /// The position behind the last one needed.
    pub end: Lsn,
}

/// How `Last-Modified` is written, always in UTC.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S GMT";
/// The manifest version that came with PostgreSQL 17.
const FIRST_WITH_SYSTEM_IDENTIFIER: u64 = 2;

const fn manifest_version(version: MajorVersion) -> u64 {
    match version {
        MajorVersion::V13 | MajorVersion::V14 | MajorVersion::V15 | MajorVersion::V16 => 1,
        MajorVersion::V17 | MajorVersion::V18 => FIRST_WITH_SYSTEM_IDENTIFIER,
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| u8::try_from(nibble(high)? << 4 | nibble(low)?).ok()).collect()
}
