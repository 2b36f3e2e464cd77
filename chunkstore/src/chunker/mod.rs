//! Where chunks begin and end: FastCDC, over page tails for relation data and over bytes for everything else.
//!
//! Cuts depend on content and on the repository's secret gear table only: the same bytes give the same chunks in any
//! order, on any number of threads.

mod content;
mod page;

pub use content::{ContentChunker, ContentSizes};
pub use page::{PageChunker, PageSizes};

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// Gear numbers and masks for one average size, ready for `cut_gear`.
#[derive(Clone)]
struct Gear {
    table: [u64; 256],
    /// The table shifted left by one: the algorithm steps two bytes at a time.
    shifted: [u64; 256],
    masks: (u64, u64),
}

impl Gear {
    fn new(table: [u64; 256], average: usize) -> Self {
        Self { table, shifted: table.map(|n| n << 1), masks: select_masks(average, Normalization::Level2) }
    }

    /// Length of the first chunk of `source`.
    fn cut(&self, source: &[u8], minimum: usize, average: usize, maximum: usize) -> usize {
        let (small, large) = self.masks;
        let (_, length) = cut_gear(
            source,
            minimum,
            average,
            maximum,
            small,
            large,
            small << 1,
            large << 1,
            &self.table,
            &self.shifted,
        );
        length
    }
}
