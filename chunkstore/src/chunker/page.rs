//! FastCDC in page space: cuts fall on page ends only.

use super::Gear;

/// Bytes at the end of a page that take part in deciding cuts. A page's head holds LSN and checksum, which change with
/// every update; its tail holds the tuples inserted first (heap) or the special area (indexes), which rarely change.
const TAIL: usize = 128;

/// Chunk lengths in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PageSizes {
    /// Shortest chunk, but for the last of a region.
    pub minimum: u32,
    /// Aimed at.
    pub average: u32,
    /// Longest chunk.
    pub maximum: u32,
}

impl PageSizes {
    /// What a new repository uses.
    pub const DEFAULT: Self = Self { minimum: 8, average: 16, maximum: 32 };

    /// Whether the lengths make sense, whoever wrote them down.
    pub fn is_valid(self) -> bool {
        self.minimum >= 2 && self.minimum < self.average && self.average < self.maximum && self.maximum <= 256
    }
}

/// Cuts a stream of pages.
#[derive(Clone)]
pub struct PageChunker {
    gear: Gear,
    sizes: PageSizes,
    page_size: usize,
    tails: Vec<u8>,
}

impl PageChunker {
    /// A chunker for pages of `page_size` bytes, at least 1 KiB.
    pub fn new(gear_table: [u64; 256], sizes: PageSizes, page_size: usize) -> Self {
        let gear = Gear::new(gear_table, sizes.average as usize * TAIL);
        Self { gear, sizes, page_size, tails: Vec::new() }
    }

    /// Most pages in a chunk: with as many at hand, [`PageChunker::cut`] decides as it would with the whole stream.
    pub fn maximum_pages(&self) -> usize {
        self.sizes.maximum as usize
    }

    /// How many of the whole pages in `pages` form the first chunk; 0 only for no pages.
    ///
    /// The caller passes at least [`PageChunker::maximum_pages`] pages, or all that remain.
    pub fn cut(&mut self, pages: &[u8]) -> usize {
        self.tails.clear();
        let looked_at = pages.chunks_exact(self.page_size).take(self.maximum_pages());
        for page in looked_at {
            self.tails.extend_from_slice(&page[self.page_size - TAIL..]);
        }
        let [minimum, average, maximum] =
            [self.sizes.minimum - 1, self.sizes.average, self.sizes.maximum].map(|pages| pages as usize * TAIL);
        // The page in which the cut falls is the chunk's last.
        let cut = self.gear.cut(&self.tails, minimum, average, maximum);
        (cut / TAIL + 1).min(self.tails.len() / TAIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 1024;

    fn chunker() -> PageChunker {
        let gear = crate::id::RepositoryKeys::derive(&[3; 32]).gear_table();
        PageChunker::new(gear, PageSizes::DEFAULT, PAGE)
    }

    fn pages(seed: u64, count: usize) -> Vec<u8> {
        let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut bytes = vec![0; count * PAGE];
        stream.fill(&mut bytes);
        bytes
    }

    fn cut_all(bytes: &[u8]) -> Vec<usize> {
        let mut chunker = chunker();
        let (mut cuts, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            at += chunker.cut(&bytes[at..]) * PAGE;
            cuts.push(at / PAGE);
        }
        cuts
    }

    #[test]
    fn chunks_keep_their_bounds_and_average() {
        let cuts = cut_all(&pages(1, 20_000));
        let lengths: Vec<usize> = cuts.iter().scan(0, |last, at| Some(at - std::mem::replace(last, *at))).collect();
        let (last, others) = lengths.split_last().unwrap();
        assert!(others.iter().all(|pages| (8..=32).contains(pages)) && *last <= 32, "{lengths:?}");
        let mean = 20_000.0 / lengths.len() as f64;
        assert!((14.0..22.0).contains(&mean), "mean of {mean} pages");
    }

    #[test]
    fn a_page_whose_tail_stays_moves_no_cut() {
        let mut bytes = pages(2, 4000);
        let before = cut_all(&bytes);
        for page in (0..4000).step_by(7) {
            bytes[page * PAGE..page * PAGE + 800].fill(page as u8);
        }
        assert_eq!(cut_all(&bytes), before);
    }

    #[test]
    fn equal_pages_are_cut_at_the_maximum() {
        assert_eq!(cut_all(&vec![9; 100 * PAGE]), [32, 64, 96, 100]);
    }

    proptest! {
        #[test]
        fn every_page_is_in_exactly_one_chunk(seed: u64, count in 1usize..200) {
            let cuts = cut_all(&pages(seed, count));
            prop_assert_eq!(cuts.last(), Some(&count));
            prop_assert!(cuts.windows(2).all(|pair| pair[0] < pair[1]));
        }

        #[test]
        fn looking_ahead_further_changes_nothing(seed: u64) {
            let bytes = pages(seed, 90);
            let mut chunker = chunker();
            prop_assert_eq!(chunker.cut(&bytes), chunker.cut(&bytes[..32 * PAGE]));
        }
    }
}
