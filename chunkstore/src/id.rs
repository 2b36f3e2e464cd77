//! Names of chunks, packs and repositories, and the keys that chunk names are made with.

use std::fmt;
use std::io;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use highway::{HighwayHash, HighwayHasher, Key};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Makes a 32-byte newtype: lower-case hexadecimal as text and in JSON, plain bytes in binary structures.
macro_rules! hash_name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }

        impl $name {
            /// Wraps the bytes of the hash.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes of the hash.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), HEXLOWER.encode(&self.0[..8]))
            }
        }

        impl FromStr for $name {
            type Err = data_encoding::DecodeError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; 32];
                if HEXLOWER.decode_len(text.len())? != bytes.len() {
                    let kind = data_encoding::DecodeKind::Length;
                    return Err(data_encoding::DecodeError { position: text.len(), kind });
                }
                HEXLOWER.decode_mut(text.as_bytes(), &mut bytes).map_err(|partial| partial.error)?;
                Ok(Self(bytes))
            }
        }
    };
}

hash_name! {
    /// Name of a chunk: keyed BLAKE3-256 of its plaintext.
    ChunkId
}

hash_name! {
    /// Name of a pack: BLAKE3-256 of the object's stored bytes, so that anyone can check it without a key.
    PackId
}

/// Hashes that only this repository makes: all derived from one 32-byte master key.
///
/// Without encryption the master is a random value that stands in `walkeep.json`: ids then say nothing to people who see
/// only the packs, and two repositories never agree on an id by accident.
#[derive(Clone)]
pub struct RepositoryKeys {
    chunk_id: [u8; 32],
    fingerprint: Key,
    gear: [u8; 32],
}

impl fmt::Debug for RepositoryKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RepositoryKeys")
    }
}

impl RepositoryKeys {
    /// Derives the keys (BLAKE3 key derivation; the contexts are part of the format).
    pub fn derive(master: &[u8; 32]) -> Self {
        let words = blake3::derive_key("walkeep 2026 page fingerprint v1", master);
        let (words, _) = words.as_chunks::<8>();
        Self {
            chunk_id: blake3::derive_key("walkeep 2026 chunk id v1", master),
            fingerprint: Key(std::array::from_fn(|at| u64::from_le_bytes(words[at]))),
            gear: blake3::derive_key("walkeep 2026 gear table v1", master),
        }
    }

    /// The id of a chunk with this plaintext.
    pub fn chunk_id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.chunk_id, plaintext).as_bytes())
    }

    /// [`RepositoryKeys::chunk_id`] of everything that can be read.
    pub fn chunk_id_of(&self, plaintext: impl io::Read) -> io::Result<ChunkId> {
        let mut hasher = blake3::Hasher::new_keyed(&self.chunk_id);
        hasher.update_reader(plaintext)?;
        Ok(ChunkId(*hasher.finalize().as_bytes()))
    }

    /// The fingerprint of a page that is not all zero.
    ///
    /// HighwayHash is a keyed function made for this: three times as fast on pages as BLAKE3, and a scan does little else.
    pub fn fingerprint(&self, page: &[u8]) -> PageFingerprint {
        let fingerprint = PageFingerprint(HighwayHasher::new(self.fingerprint).hash64(page).to_le_bytes());
        // Zero is the mark of an all-zero page; no other page may have it.
        if fingerprint == PageFingerprint::ZERO_PAGE { PageFingerprint([1, 0, 0, 0, 0, 0, 0, 0]) } else { fingerprint }
    }

    /// The 256 random numbers that decide where content-defined cuts fall.
    pub fn gear_table(&self) -> [u64; 256] {
        let mut stream = blake3::Hasher::new_keyed(&self.gear).finalize_xof();
        std::array::from_fn(|_| {
            let mut number = [0; 8];
            stream.fill(&mut number);
            u64::from_le_bytes(number)
        })
    }
}

/// Eight bytes that tell whether a page is still the same: HighwayHash-64 of the page under a key of the repository.
///
/// Two different pages at the same place share one with probability 2⁻⁶⁴.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageFingerprint(pub [u8; 8]);

impl PageFingerprint {
    /// The mark of an all-zero page, which is never stored.
    pub const ZERO_PAGE: Self = Self([0; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_else_does() {
        let id = RepositoryKeys::derive(&[7; 32]).chunk_id(b"x");
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert_eq!(RepositoryKeys::derive(&[7; 32]).chunk_id_of(&b"x"[..]).unwrap(), id);
        for text in ["", "00", &"g".repeat(64), &"A".repeat(64), &"0".repeat(66)] {
            assert!(text.parse::<ChunkId>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_format_pins_how_names_are_made() {
        let keys = RepositoryKeys::derive(&[7; 32]);
        assert_ne!(keys.chunk_id(b"page").as_bytes()[..8], keys.fingerprint(b"page").0);
        assert_ne!(keys.gear_table(), RepositoryKeys::derive(&[8; 32]).gear_table());
        assert_eq!(keys.gear_table(), RepositoryKeys::derive(&[7; 32]).gear_table());
    }
}
