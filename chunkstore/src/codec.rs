//! How structures become bytes inside frames: [postcard](https://postcard.jamesmunns.com/wire-format), fields in the
//! order of their declaration, behind one byte of structure version.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The bytes do not hold the structure.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer version.
    #[error("structure version {found} is newer than {known}, the newest this build reads")]
    Newer {
        /// Version in the bytes.
        found: u8,
        /// Newest version known here.
        known: u8,
    },
    /// Not the structure.
    #[error("malformed: {0}")]
    Malformed(#[from] postcard::Error),
    /// Bytes follow the structure.
    #[error("{0} bytes follow the structure")]
    Trailing(usize),
    /// No byte at all.
    #[error("empty")]
    Empty,
}

/// The structure's bytes behind its version.
pub fn encode<T: Serialize>(version: u8, value: &T) -> Vec<u8> {
    let start = vec![version];
    postcard::to_extend(value, start).expect("plain structures always serialise into memory")
}

/// Reads a structure of exactly `version` that fills `bytes`. Memory stays within a small multiple of the input: postcard
/// reserves no more for a sequence than the input can hold.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Result<T, DecodeError> {
    let (&found, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if found != version {
        return Err(DecodeError::Newer { found, known: version });
    }
    let (value, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}
