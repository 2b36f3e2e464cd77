//! FastCDC over bytes, for files that are no relations and for WAL.

use super::Gear;

/// Chunk lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContentSizes {
    /// Shortest chunk, but for the last of its input.
    pub minimum: u32,
    /// Aimed at.
    pub average: u32,
    /// Longest chunk.
    pub maximum: u32,
}

impl ContentSizes {
    /// For files that are no relations.
    pub const FILES: Self = Self { minimum: 16 << 10, average: 64 << 10, maximum: 256 << 10 };
    /// For WAL segments.
    pub const WAL: Self = Self { minimum: 512 << 10, average: 1 << 20, maximum: 4 << 20 };

    /// Whether the lengths make sense, whoever wrote them down.
    pub fn is_valid(self) -> bool {
        let even = [self.minimum, self.average, self.maximum].iter().all(|size| size.is_multiple_of(2));
        even && self.minimum >= 1024
            && self.minimum < self.average
            && self.average < self.maximum
            && self.maximum <= 16 << 20
    }
}

/// Cuts a stream of bytes.
#[derive(Clone)]
pub struct ContentChunker {
    gear: Gear,
    sizes: ContentSizes,
}

impl ContentChunker {
    /// A chunker of these lengths.
    pub fn new(gear_table: [u64; 256], sizes: ContentSizes) -> Self {
        Self { gear: Gear::new(gear_table, sizes.average as usize), sizes }
    }

    /// Longest chunk in bytes: with as many at hand, [`ContentChunker::cut`] decides as it would with the whole stream.
    pub fn maximum(&self) -> usize {
        self.sizes.maximum as usize
    }

    /// Length of the first chunk; 0 only for no bytes.
    pub fn cut(&self, bytes: &[u8]) -> usize {
        let [minimum, average, maximum] =
            [self.sizes.minimum, self.sizes.average, self.sizes.maximum].map(|size| size as usize);
        self.gear.cut(bytes, minimum, average, maximum)
    }

    /// All chunks of a whole input.
    pub fn chunks<'a>(&'a self, mut bytes: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        std::iter::from_fn(move || {
            let (chunk, rest) = bytes.split_at(self.cut(bytes));
            bytes = rest;
            (!chunk.is_empty()).then_some(chunk)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(b"content").finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunker() -> ContentChunker {
        let gear = crate::id::RepositoryKeys::derive(&[3; 32]).gear_table();
        ContentChunker::new(gear, ContentSizes::FILES)
    }

    #[test]
    fn chunks_put_together_are_the_input() {
        for length in [0, 1, 1023, 16 << 10, 3_000_001] {
            let bytes = noise(length);
            let chunker = chunker();
            let chunks: Vec<&[u8]> = chunker.chunks(&bytes).collect();
            assert_eq!(chunks.concat(), bytes);
            assert!(chunks.iter().all(|chunk| chunk.len() <= 256 << 10));
        }
    }

    #[test]
    fn an_insertion_leaves_most_chunks_alone() {
        let bytes = noise(4 << 20);
        let mut shifted = bytes.clone();
        shifted.splice(1_000_000..1_000_000, *b"seven b");
        let chunker = chunker();
        let before: std::collections::HashSet<&[u8]> = chunker.chunks(&bytes).collect();
        let new = chunker.chunks(&shifted).filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 3, "{new} chunks changed");
    }
}
