//! Data pages: their header, their checksum, and the verdict on a batch of them.
//!
//! The checksum is PostgreSQL's `storage/checksum_impl.h`: 32 parallel FNV-like lanes of 32 bits, folded into 16. It is
//! written here as plain loops over arrays which the compiler vectorises; [`PageVerifier`] has them compiled for the
//! instruction sets that the machine may have and picks one per batch.

use crate::identity::BlockNumber;
use crate::lsn::Lsn;

/// Bytes of `PageHeaderData` before the line pointers (`storage/bufpage.h`).
pub const PAGE_HEADER_BYTES: usize = 24;

/// The smallest page that PostgreSQL can be built with, in bytes.
pub const MIN_PAGE_BYTES: usize = 1 << 10;

/// The largest page that PostgreSQL can be built with, in bytes.
pub const MAX_PAGE_BYTES: usize = 32 << 10;

/// One 32-bit word for each lane: what one step of the checksum takes in.
const ROW_BYTES: usize = 4 * LANES;
const LANES: usize = 32;
const FNV_PRIME: u32 = 16_777_619;

/// Where the lanes begin (`checksumBaseOffsets`).
#[rustfmt::skip]
const SEEDS: [u32; LANES] = [
    0x5B1F_36E9, 0xB852_5960, 0x02AB_50AA, 0x1DE6_6D2A, 0x79FF_467A, 0x9BB9_F8A3, 0x217E_7CD2, 0x83E1_3D2C,
    0xF8D4_474F, 0xE39E_B970, 0x42C6_AE16, 0x9932_16FA, 0x7B09_3B5D, 0x98DA_FF3C, 0xF718_902A, 0x0B1C_9CDB,
    0xE58F_764B, 0x1876_36BC, 0x5D7B_3BB1, 0xE73D_E7DE, 0x92BE_C979, 0xCCA6_C0B2, 0x304A_0979, 0x85AA_43D4,
    0x7831_25BB, 0x6CA8_EAA2, 0xE407_EAC6, 0x4B5C_FC3E, 0x9FBF_8C76, 0x15CA_20BE, 0xF2CA_9FD3, 0x959B_D756,
];

/// The fixed part at the head of every page (`PageHeaderData`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    /// End of the last WAL record that changed the page; fake or 0/0 for pages that WAL does not cover.
    pub lsn: Lsn,
    /// The stored checksum; 0 where the cluster keeps none, for a computed one is never 0.
    pub checksum: u16,
    /// `PD_*` flag bits.
    pub flags: u16,
    /// Byte offset where free space begins.
    pub lower: u16,
    /// Byte offset where free space ends; 0 on a page that was allocated but never initialised.
    pub upper: u16,
    /// Byte offset of the special space.
    pub special: u16,
    /// Page size in bytes as the page itself states it.
    pub page_size: u16,
    /// Layout version: 4 since PostgreSQL 8.3.
    pub layout_version: u8,
    /// Oldest transaction that may have left something to prune; 0 if none.
    pub prune_xid: u32,
}

impl PageHeader {
    /// Reads the header; `None` if fewer than [`PAGE_HEADER_BYTES`] are there.
    pub fn parse(page: &[u8]) -> Option<Self> {
        let header: &[u8; PAGE_HEADER_BYTES] = page.first_chunk()?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let size_and_version = u16_at(18);
        Some(Self {
            // pd_lsn is two words, the high one first: not a little-endian u64.
            lsn: Lsn::new((u64::from(u32_at(0)) << 32) | u64::from(u32_at(4))),
            checksum: u16_at(8),
            flags: u16_at(10),
            lower: u16_at(12),
            upper: u16_at(14),
            special: u16_at(16),
            page_size: size_and_version & 0xFF00,
            layout_version: size_and_version.to_le_bytes()[0],
            prune_xid: u32_at(20),
        })
    }

    /// Whether the page was never initialised (`PageIsNew`): such a page carries no checksum and must be all zero.
    pub const fn is_new(&self) -> bool {
        self.upper == 0
    }
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageFault {
    /// The stored checksum is not that of the bytes: a torn read, or damage.
    #[error("checksum {stored:04X} is stored, but the bytes have {computed:04X} (page LSN {lsn})")]
    ChecksumMismatch {
        /// What the header says.
        stored: u16,
        /// What the bytes say.
        computed: u16,
        /// The page's LSN, as far as it can be trusted.
        lsn: Lsn,
    },
    /// The header says "never initialised", yet the page is not all zero.
    #[error("the page is marked as never initialised, but is not all zero")]
    NonZeroNewPage,
}

/// The checksum that PostgreSQL stores in the header of `page` when it is block `block` of its fork.
///
/// `page` is a whole page: 1 to 32 KiB in a power of two. Bytes behind the last multiple of 128 would not be covered.
pub fn page_checksum(page: &[u8], block: BlockNumber) -> u16 {
    struct One<'a>(&'a [u8], BlockNumber);
    impl pulp::WithSimd for One<'_> {
        type Output = u16;

        #[inline(always)]
        fn with_simd<S: pulp::Simd>(self, _: S) -> u16 {
            checksum(self.0, self.1)
        }
    }
    pulp::Arch::new().dispatch(One(page, block))
}

/// Whether every byte is zero. Stops at the first 256 bytes that are not.
#[inline]
pub fn is_zero_page(page: &[u8]) -> bool {
    let (blocks, rest) = page.as_chunks::<256>();
    // An OR over the whole block, not a search in it: that is what becomes vector code.
    blocks.iter().all(|block| block.iter().fold(0, |seen, byte| seen | byte) == 0) && rest.iter().all(|&byte| byte == 0)
}

/// Checks pages in batches with the best instructions that this machine has.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageVerifier {
    arch: pulp::Arch,
}

impl PageVerifier {
    /// Looks up what the processor can do.
    pub fn new() -> Self {
        Self { arch: pulp::Arch::new() }
    }

    /// Checks the whole pages in `pages`, the first of which is block `first_block` of its fork, and reports each bad one
    /// with its index in the batch.
    ///
    /// Only for relation forks of a cluster with data checksums. `page_size` comes from `pg_control`; anything under
    /// [`MIN_PAGE_BYTES`] counts as that. A part of a page at the end is not looked at.
    pub fn verify_pages(
        &self,
        pages: &[u8],
        page_size: usize,
        first_block: BlockNumber,
        on_bad: &mut dyn FnMut(usize, PageFault),
    ) {
        self.arch.dispatch(Batch { pages, page_size: page_size.max(MIN_PAGE_BYTES), first_block, on_bad });
    }
}

struct Batch<'a> {
    pages: &'a [u8],
    page_size: usize,
    first_block: BlockNumber,
    on_bad: &'a mut dyn FnMut(usize, PageFault),
}

impl pulp::WithSimd for Batch<'_> {
    type Output = ();

    // Inlined by force, and all that it calls: only what ends up inside the dispatched function is compiled for it.
    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let mut block = self.first_block;
        for (index, page) in self.pages.chunks_exact(self.page_size).enumerate() {
            if let Some(fault) = fault_of(page, block) {
                (self.on_bad)(index, fault);
            }
            block = block.wrapping_add(1);
        }
    }
}

#[inline(always)]
fn fault_of(page: &[u8], block: BlockNumber) -> Option<PageFault> {
    let header = PageHeader::parse(page)?;
    if header.is_new() {
        return (!is_zero_page(page)).then_some(PageFault::NonZeroNewPage);
    }
    let (stored, computed) = (header.checksum, checksum(page, block));
    (stored != computed).then_some(PageFault::ChecksumMismatch { stored, computed, lsn: header.lsn })
}

#[inline(always)]
fn checksum(page: &[u8], block: BlockNumber) -> u16 {
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    let mut lanes = SEEDS;
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        // The checksum is taken as if its own field were 0.
        first[8..10].fill(0);
        lanes = mix(lanes, &first);
        for row in rest {
            lanes = mix(lanes, row);
        }
    }
    for _ in 0..2 {
        lanes = mix(lanes, &[0; ROW_BYTES]);
    }
    let folded = lanes.iter().fold(block, |folded, lane| folded ^ lane);
    // A remainder of a division by 65535, plus one, fits 16 bits.
    (folded % 65_535 + 1) as u16
}

// A loop over a constant range, not over iterators: the lanes then stay in registers from row to row (five times as fast).
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn mix(mut lanes: [u32; LANES], row: &[u8; ROW_BYTES]) -> [u32; LANES] {
    let (words, _) = row.as_chunks::<4>();
    for lane in 0..LANES {
        let mixed = lanes[lane] ^ u32::from_le_bytes(words[lane]);
        lanes[lane] = mixed.wrapping_mul(FNV_PRIME) ^ (mixed >> 17);
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn faults(pages: &[u8], page_size: usize, first_block: BlockNumber) -> Vec<(usize, PageFault)> {
        let mut found = Vec::new();
        PageVerifier::new().verify_pages(pages, page_size, first_block, &mut |index, fault| found.push((index, fault)));
        found
    }

    fn sealed(mut page: Vec<u8>, block: BlockNumber) -> Vec<u8> {
        page[14] |= 1;
        let checksum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    #[test]
    fn the_high_word_of_a_page_lsn_comes_first() {
        let mut page = vec![0; 8192];
        page[0] = 0x1A;
        page[4] = 0x2B;
        page[18..20].copy_from_slice(&0x2004_u16.to_le_bytes());
        let header = PageHeader::parse(&page).unwrap();
        assert_eq!(header.lsn, Lsn::new(0x1A_0000_002B));
        assert_eq!((header.page_size, header.layout_version), (8192, 4));
        assert!(header.is_new());
        assert_eq!(PageHeader::parse(&page[..23]), None);
    }

    #[test]
    fn a_new_page_must_be_zero() {
        let mut pages = vec![0; 3 * 8192];
        assert_eq!(faults(&pages, 8192, 7), []);
        pages[2 * 8192 - 1] = 1;
        assert_eq!(faults(&pages, 8192, 7), [(1, PageFault::NonZeroNewPage)]);
    }

    #[test]
    fn odd_sizes_are_never_passed_in_silence() {
        assert_eq!(faults(&[1; 1024], 0, 0).len(), 1);
        assert_eq!(faults(&[1; 1023], 0, 0).len(), 0);
        assert_eq!(faults(&[1; 4096], 8192, 0).len(), 0);
    }

    fn any_page() -> impl Strategy<Value = Vec<u8>> {
        (10u32..=15).prop_flat_map(|bits| prop::collection::vec(any::<u8>(), 1 << bits))
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(page in any_page(), block: u32, at: usize) {
            let page = sealed(page, block);
            prop_assert_eq!(faults(&page, page.len(), block), []);
            // One flip in 65535 goes unseen; two in the same byte would be a bug.
            let unseen = |bit: &u8| {
                let mut damaged = page.clone();
                damaged[at % page.len()] ^= 1 << bit;
                faults(&damaged, page.len(), block).is_empty()
            };
            prop_assert!((0..8).filter(unseen).count() <= 1);
        }
        #[test]
        fn a_page_in_the_wrong_place_is_found(page in any_page(), block: u32) {
            let page = sealed(page, block);
            prop_assert_eq!(faults(&page, page.len(), block ^ 1).len(), 1);
        }
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>, page_size in 0usize..70_000, block: u32) {
            let _ = faults(&bytes, page_size, block);
            let _ = page_checksum(&bytes, block);
            prop_assert_eq!(is_zero_page(&bytes), bytes.iter().all(|&byte| byte == 0));
        }
    }
}
