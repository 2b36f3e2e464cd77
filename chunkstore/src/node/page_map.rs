//! Page maps: 16 MiB of a relation segment, page by page.
//!
//! A map says for every page where its bytes are (a run of pages inside a chunk, or a hole for zero pages) and what its
//! fingerprint was. A new backup's map points at the new chunks for changed pages and at the old ones for the rest, so it
//! is complete by itself and costs what changed. It is stored whole, or as what differs from the previous map.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::EncodedNode;
use super::reference::{ChunkRef, NodeRef, PackDictionary, PackedRef};
use crate::id::{PackId, PageFingerprint};

/// How many deltas may stand between a stored map and a whole one.
pub const MAXIMUM_DEPTH: u8 = 8;

/// More pages than any region has: 16 MiB of the smallest page.
const MAXIMUM_PAGES: u32 = (super::REGION / 1024) as u32;

/// Where one page's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSource {
    /// All zero, stored nowhere.
    Hole,
    /// In a chunk.
    Chunk {
        /// Number in the map's chunk table.
        chunk: u32,
        /// Page inside the chunk.
        page: u32,
    },
}

/// A run of pages with consecutive sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First page of the run, counted in the region.
    pub at: u32,
    /// Pages in the run.
    pub pages: u32,
    /// Source of its first page.
    pub source: PageSource,
}

/// One region of a relation segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageMap {
    page_size: u32,
    length: u64,
    chunks: Vec<ChunkRef>,
    pages: Vec<PageSource>,
    fingerprints: Vec<PageFingerprint>,
}

impl PageMap {
    /// Puts a map together. `length` may end inside the last page; that page's chunk holds it padded with zeros.
    pub fn new(
        page_size: u32,
        length: u64,
        chunks: Vec<ChunkRef>,
        pages: Vec<PageSource>,
        fingerprints: Vec<PageFingerprint>,
    ) -> Result<Self, String> {
        let map = Self { page_size, length, chunks, pages, fingerprints };
        map.check()?;
        Ok(map)
    }

    fn check(&self) -> Result<(), String> {
        if !self.page_size.is_power_of_two() || !(1024..=32_768).contains(&self.page_size) {
            return Err(format!("page size {} is impossible", self.page_size));
        }
        let pages = self.length.div_ceil(u64::from(self.page_size));
        if self.length > super::REGION {
            return Err(format!("{} bytes in one region", self.length));
        }
        if self.pages.len() as u64 != pages || self.fingerprints.len() as u64 != pages {
            let (sources, prints) = (self.pages.len(), self.fingerprints.len());
            return Err(format!("{sources} sources and {prints} fingerprints for {pages} pages"));
        }
        for source in &self.pages {
            if let PageSource::Chunk { chunk, page } = *source {
                let chunk = self.chunks.get(chunk as usize).ok_or("refers to a chunk it does not list")?;
                let end = (u64::from(page) + 1) * u64::from(self.page_size);
                if end > u64::from(chunk.location.length) {
                    return Err(format!("page {page} lies outside its chunk of {} bytes", chunk.location.length));
                }
            }
        }
        Ok(())
    }

    /// Bytes per page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Bytes of the file that the map describes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The chunk table.
    pub fn chunks(&self) -> &[ChunkRef] {
        &self.chunks
    }

    /// The source of every page.
    pub fn pages(&self) -> &[PageSource] {
        &self.pages
    }

    /// The fingerprint of every page.
    pub fn fingerprints(&self) -> &[PageFingerprint] {
        &self.fingerprints
    }

    /// The pages as runs, in order.
    pub fn extents(&self) -> Vec<Extent> {
        extents_of(&self.pages)
    }

    /// The packs that its pages need.
    pub fn packs(&self) -> impl Iterator<Item = PackId> + '_ {
        used_chunks(&self.pages)
            .into_keys()
            .filter_map(|chunk| self.chunks.get(chunk as usize))
            .map(|c| c.location.pack)
    }

    /// The pages that should be stored anew so that a restore reads little more than it needs: see [`pages_to_rewrite`].
    pub fn pages_to_rewrite(&self) -> Vec<u32> {
        pages_to_rewrite(self.page_size, &self.pages, |chunk| {
            self.chunks.get(chunk as usize).map_or(0, |c| c.location.length)
        })
    }

    /// Without the chunks that no page uses.
    fn compacted(&self) -> Self {
        let mut numbers = HashMap::new();
        let mut chunks = Vec::new();
        let pages = self
            .pages
            .iter()
            .map(|&source| match source {
                PageSource::Chunk { chunk, page } => {
                    let number = *numbers.entry(chunk).or_insert_with(|| {
                        chunks.push(self.chunks[chunk as usize]);
                        u32::try_from(chunks.len() - 1).unwrap_or(u32::MAX)
                    });
                    PageSource::Chunk { chunk: number, page }
                }
                PageSource::Hole => PageSource::Hole,
            })
            .collect();
        Self { chunks, pages, fingerprints: self.fingerprints.clone(), ..*self }
    }
}

/// More runs than this in one region cost a restore more than rewriting it costs.
pub const MAXIMUM_EXTENTS: usize = 1536;

/// Pages as runs, in order.
fn extents_of(pages: &[PageSource]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for (at, &source) in (0..).zip(pages) {
        if let Some(last) = extents.last_mut()
            && continues(last.source, last.pages, source)
        {
            last.pages += 1;
        } else {
            extents.push(Extent { at, pages: 1, source });
        }
    }
    extents
}

/// How many pages use each chunk; unused chunks are absent.
fn used_chunks(pages: &[PageSource]) -> HashMap<u32, u32> {
    let mut used = HashMap::new();
    for source in pages {
        if let PageSource::Chunk { chunk, .. } = source {
            *used.entry(*chunk).or_insert(0) += 1;
        }
    }
    used
}

/// The pages that should be stored anew so that a restore reads little more than it needs.
///
/// When the chunks in use hold more than 1.5 times the pages in use, the emptiest chunks are given up until they hold at
/// most 1.25 times; likewise when the runs grow past [`MAXIMUM_EXTENTS`]. `chunk_length` gives a chunk's bytes.
pub fn pages_to_rewrite(page_size: u32, pages: &[PageSource], chunk_length: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut used: Vec<(u32, u32, u32)> = used_chunks(pages)
        .into_iter()
        .map(|(chunk, pages)| (chunk, pages, chunk_length(chunk).div_ceil(page_size)))
        .collect();
    let mut held: u64 = used.iter().map(|(_, _, held)| u64::from(*held)).sum();
    let mut needed: u64 = used.iter().map(|(_, pages, _)| u64::from(*pages)).sum();
    let crumbled = extents_of(pages).len() > MAXIMUM_EXTENTS;
    if held * 2 <= needed * 3 && !crumbled {
        return Vec::new();
    }
    // Emptiest first; the chunk number makes the order the same everywhere.
    used.sort_by(|a, b| (u64::from(a.1) * u64::from(b.2), a.0).cmp(&(u64::from(b.1) * u64::from(a.2), b.0)));
    let mut given_up = std::collections::HashSet::new();
    for (chunk, pages, length) in used {
        if held * 4 <= needed * 5 && !crumbled {
            break;
        }
        given_up.insert(chunk);
        held -= u64::from(length);
        needed -= u64::from(pages);
    }
    let rewritten = |source: &PageSource| matches!(source, PageSource::Chunk { chunk, .. } if given_up.contains(chunk));
    (0..).zip(pages).filter(|(_, source)| rewritten(source)).map(|(page, _)| page).collect()
}

/// Whether `next` is the source that follows a run of `pages` pages from `first`.
fn continues(first: PageSource, pages: u32, next: PageSource) -> bool {
    match (first, next) {
        (PageSource::Hole, PageSource::Hole) => true,
        (PageSource::Chunk { chunk, page }, PageSource::Chunk { chunk: next_chunk, page: next_page }) => {
            chunk == next_chunk && page.checked_add(pages) == Some(next_page)
        }
        _ => false,
    }
}

/// A run as stored: `chunk` 0 is a hole, `n` is chunk `n - 1`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct EncodedExtent {
    pages: u32,
    chunk: u32,
    page: u32,
}

impl From<Extent> for EncodedExtent {
    fn from(extent: Extent) -> Self {
        match extent.source {
            PageSource::Hole => Self { pages: extent.pages, chunk: 0, page: 0 },
            PageSource::Chunk { chunk, page } => Self { pages: extent.pages, chunk: chunk.saturating_add(1), page },
        }
    }
}

impl EncodedExtent {
    fn source(self, index: u32) -> PageSource {
        match self.chunk.checked_sub(1) {
            None => PageSource::Hole,
            Some(chunk) => PageSource::Chunk { chunk, page: self.page.saturating_add(index) },
        }
    }
}

/// A whole map as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EncodedPageMap {
    page_size: u32,
    length: u64,
    packs: PackDictionary,
    chunks: Vec<PackedRef>,
    extents: Vec<EncodedExtent>,
    #[serde(with = "serde_bytes")]
    fingerprints: Vec<u8>,
}

/// A map as stored relative to another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EncodedDelta {
    packs: PackDictionary,
    base: PackedRef,
    depth: u8,
    length: u64,
    /// Chunks behind those of the base.
    chunks: Vec<PackedRef>,
    /// Replaced runs: unchanged pages before it (since the previous run), then the run itself.
    runs: Vec<(u32, EncodedExtent)>,
    #[serde(with = "serde_bytes")]
    fingerprints: Vec<u8>,
}

impl EncodedDelta {
    /// The map this one differs from.
    pub(crate) fn base(&self) -> Option<NodeRef> {
        self.packs.unpack_node(&self.base)
    }
}

/// A map together with where and how it is stored: what the next backup builds on.
#[derive(Clone, Debug)]
pub struct StoredPageMap {
    /// The resolved map.
    pub map: Arc<PageMap>,
    /// Its node.
    pub node: NodeRef,
    /// Deltas between it and a whole map.
    pub depth: u8,
}

impl PageMap {
    /// The whole map's node.
    pub(crate) fn to_encoded(&self) -> EncodedPageMap {
        let map = self.compacted();
        let mut packs = PackDictionary::default();
        EncodedPageMap {
            page_size: map.page_size,
            length: map.length,
            chunks: map.chunks.iter().map(|chunk| packs.pack_chunk(chunk)).collect(),
            packs,
            extents: map.extents().into_iter().map(EncodedExtent::from).collect(),
            fingerprints: map.fingerprints.iter().flat_map(|print| print.0).collect(),
        }
    }

    /// The node that stores this map in fewest bytes: relative to `base` where that pays, else whole.
    ///
    /// The chunk table of a map that was built on `base` starts with the table of `base`.
    pub(crate) fn to_node(&self, base: Option<&StoredPageMap>) -> EncodedNode {
        let delta = base.filter(|base| base.depth < MAXIMUM_DEPTH).and_then(|base| self.delta_from(base));
        delta.map_or_else(|| EncodedNode::PageMap(self.to_encoded()), EncodedNode::PageMapDelta)
    }

    fn delta_from(&self, base: &StoredPageMap) -> Option<EncodedDelta> {
        let old = &base.map;
        let shared = old.chunks.len();
        if self.page_size != old.page_size || self.chunks.get(..shared)? != old.chunks {
            return None;
        }
        let changed = |page: usize| {
            old.pages.get(page) != self.pages.get(page) || old.fingerprints.get(page) != self.fingerprints.get(page)
        };
        let (mut runs, mut fingerprints, mut unchanged) = (Vec::new(), Vec::new(), 0);
        let mut run: Option<(u32, Extent)> = None;
        for (page, &source) in self.pages.iter().enumerate() {
            if !changed(page) {
                runs.extend(run.take());
                unchanged += 1;
                continue;
            }
            fingerprints.extend_from_slice(&self.fingerprints[page].0);
            match &mut run {
                Some((_, extent)) if continues(extent.source, extent.pages, source) => extent.pages += 1,
                _ => {
                    runs.extend(run.take());
                    let at = u32::try_from(page).ok()?;
                    run = Some((std::mem::take(&mut unchanged), Extent { at, pages: 1, source }));
                }
            }
        }
        runs.extend(run);
        if fingerprints.len() * 2 > self.pages.len() * 8 {
            return None;
        }
        let mut packs = PackDictionary::default();
        Some(EncodedDelta {
            base: packs.pack(base.node.id, &base.node.location),
            depth: base.depth + 1,
            length: self.length,
            chunks: self.chunks[shared..].iter().map(|chunk| packs.pack_chunk(chunk)).collect(),
            packs,
            runs: runs.into_iter().map(|(skip, extent)| (skip, extent.into())).collect(),
            fingerprints,
        })
    }

    pub(crate) fn from_encoded(encoded: &EncodedPageMap) -> Result<Self, String> {
        let chunks = unpack_chunks(&encoded.packs, &encoded.chunks)?;
        let mut pages = Vec::new();
        for extent in &encoded.extents {
            append_run(&mut pages, *extent)?;
        }
        let (fingerprints, rest) = encoded.fingerprints.as_chunks::<8>();
        if !rest.is_empty() {
            return Err("fingerprints end inside one".to_owned());
        }
        let fingerprints = fingerprints.iter().copied().map(PageFingerprint).collect();
        Self::new(encoded.page_size, encoded.length, chunks, pages, fingerprints)
    }

    /// This map with a delta applied: gives the next map and its depth.
    pub(crate) fn apply(&self, delta: &EncodedDelta) -> Result<(Self, u8), String> {
        let pages = usize::try_from(delta.length.div_ceil(u64::from(self.page_size)))
            .ok()
            .filter(|pages| *pages <= MAXIMUM_PAGES as usize)
            .ok_or_else(|| format!("delta of {} bytes", delta.length))?;
        let mut chunks = self.chunks.clone();
        chunks.extend(unpack_chunks(&delta.packs, &delta.chunks)?);
        let mut sources = Vec::new();
        let mut fingerprints = Vec::new();
        let (changed, rest) = delta.fingerprints.as_chunks::<8>();
        let mut changed = changed.iter().copied().map(PageFingerprint);
        if !rest.is_empty() {
            return Err("fingerprints end inside one".to_owned());
        }
        let keep = |sources: &mut Vec<PageSource>, prints: &mut Vec<PageFingerprint>, end: usize| {
            let start = sources.len();
            if start == end {
                return Ok(());
            }
            let (Some(kept), Some(kept_prints)) = (self.pages.get(start..end), self.fingerprints.get(start..end))
            else {
                return Err(format!("keeps pages {start}..{end} of a map of {}", self.pages.len()));
            };
            sources.extend_from_slice(kept);
            prints.extend_from_slice(kept_prints);
            Ok(())
        };
        for (skip, extent) in &delta.runs {
            let end = sources.len() + *skip as usize;
            keep(&mut sources, &mut fingerprints, end)?;
            append_run(&mut sources, *extent)?;
            fingerprints.extend(changed.by_ref().take(extent.pages as usize));
        }
        let end = pages.max(sources.len());
        keep(&mut sources, &mut fingerprints, end)?;
        if changed.next().is_some() {
            return Err("more fingerprints than changed pages".to_owned());
        }
        let map = Self::new(self.page_size, delta.length, chunks, sources, fingerprints)?;
        Ok((map, delta.depth))
    }
}

fn unpack_chunks(packs: &PackDictionary, chunks: &[PackedRef]) -> Result<Vec<ChunkRef>, String> {
    let unpacked: Option<Vec<ChunkRef>> = chunks.iter().map(|packed| packs.unpack_chunk(packed)).collect();
    unpacked.ok_or_else(|| "refers to a pack it does not name".to_owned())
}

/// Spreads a run over pages; a run that would pass the end of any region is damage.
fn append_run(pages: &mut Vec<PageSource>, extent: EncodedExtent) -> Result<(), String> {
    if pages.len() + extent.pages as usize > MAXIMUM_PAGES as usize {
        return Err(format!("{} pages in one run", extent.pages));
    }
    pages.extend((0..extent.pages).map(|index| extent.source(index)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::FramePosition;
    use crate::id::ChunkId;
    use crate::node::Location;
    use proptest::prelude::*;

    fn chunk(seed: u8, pages: u32) -> ChunkRef {
        let frame = FramePosition { offset: 64, length: 1000 };
        let location = Location { pack: PackId::new([seed; 32]), frame, offset: 0, length: pages * 8192 };
        ChunkRef { id: ChunkId::new([seed; 32]), location }
    }

    fn prints(seed: u8, pages: usize) -> Vec<PageFingerprint> {
        (0..pages).map(|page| PageFingerprint([seed, page as u8, (page >> 8) as u8, 1, 1, 1, 1, 1])).collect()
    }

    fn whole(pages: u32) -> PageMap {
        let chunks = (0..pages.div_ceil(16)).map(|n| chunk(n as u8, 16)).collect();
        let sources = (0..pages).map(|page| PageSource::Chunk { chunk: page / 16, page: page % 16 }).collect();
        PageMap::new(8192, u64::from(pages) * 8192, chunks, sources, prints(1, pages as usize)).unwrap()
    }

    fn stored(map: PageMap, depth: u8) -> StoredPageMap {
        let ChunkRef { id, location } = chunk(200, 1);
        StoredPageMap { map: Arc::new(map), node: NodeRef { id, location }, depth }
    }

    /// `base` with these pages replaced by pages of one new chunk, or by holes, and another length.
    fn changed(base: &PageMap, replaced: &[(usize, bool)], pages: usize) -> PageMap {
        let mut map = base.clone();
        map.chunks.push(chunk(99, replaced.len().max(1) as u32));
        map.pages.resize(pages, PageSource::Hole);
        map.fingerprints.resize(pages, PageFingerprint::ZERO_PAGE);
        for (index, (page, hole)) in replaced.iter().enumerate().filter(|(_, (page, _))| *page < pages) {
            let new = PageSource::Chunk { chunk: base.chunks.len() as u32, page: index as u32 };
            map.pages[*page] = if *hole { PageSource::Hole } else { new };
            map.fingerprints[*page] = PageFingerprint([index as u8, 7, 7, 7, 7, 7, 7, 7]);
        }
        map.length = pages as u64 * 8192;
        map.check().unwrap();
        map
    }

    fn resolve(node: &EncodedNode, base: &PageMap) -> PageMap {
        match EncodedNode::from_bytes(&node.to_bytes()).unwrap() {
            EncodedNode::PageMap(encoded) => PageMap::from_encoded(&encoded).unwrap(),
            EncodedNode::PageMapDelta(delta) => base.apply(&delta).unwrap().0,
            other => panic!("{}", other.name()),
        }
    }

    #[test]
    fn a_map_reads_back() {
        let map = whole(2048);
        assert_eq!(map.extents().len(), 128);
        assert_eq!(resolve(&map.to_node(None), &map), map);
    }

    #[test]
    fn a_delta_costs_what_changed() {
        let base = whole(2048);
        let next = changed(&base, &[(5, false), (6, false), (1000, true)], 2048);
        let node = next.to_node(Some(&stored(base.clone(), 0)));
        assert!(matches!(node, EncodedNode::PageMapDelta(_)));
        assert!(node.to_bytes().len() < 300, "{} bytes", node.to_bytes().len());
        assert_eq!(resolve(&node, &base), next);
    }

    #[test]
    fn deltas_do_not_pile_up() {
        let base = whole(64);
        let next = changed(&base, &[(5, false)], 64);
        let node = next.to_node(Some(&stored(base, MAXIMUM_DEPTH)));
        assert!(matches!(node, EncodedNode::PageMap(_)));
    }

    #[test]
    fn a_restore_never_reads_much_more_than_it_needs() {
        let base = whole(2048);
        assert!(base.pages_to_rewrite().is_empty());
        // Three quarters of every chunk are superseded.
        let replaced: Vec<(usize, bool)> = (0..2048).filter(|page| page % 4 != 0).map(|page| (page, true)).collect();
        let worn = changed(&base, &replaced, 2048);
        let rewritten = worn.pages_to_rewrite();
        assert!(!rewritten.is_empty());
        let mut mended = worn;
        mended.chunks.push(chunk(98, rewritten.len() as u32));
        for (index, page) in rewritten.iter().enumerate() {
            let number = mended.chunks.len() as u32 - 1;
            mended.pages[*page as usize] = PageSource::Chunk { chunk: number, page: index as u32 };
        }
        assert!(mended.pages_to_rewrite().is_empty());
    }

    #[test]
    fn impossible_maps_are_refused() {
        let good = whole(64);
        let mut far = good.clone();
        far.pages[3] = PageSource::Chunk { chunk: 0, page: 16 };
        assert!(far.check().is_err());
        let mut unlisted = good.clone();
        unlisted.pages[3] = PageSource::Chunk { chunk: 4, page: 0 };
        assert!(unlisted.check().is_err());
        let mut short = good;
        short.fingerprints.pop();
        assert!(short.check().is_err());
    }

    proptest! {
        #[test]
        fn deltas_and_whole_maps_agree(
            pages in 1u32..300, next_pages in 0usize..400,
            replaced in proptest::collection::btree_map(0usize..400, any::<bool>(), 0..200),
        ) {
            let base = whole(pages);
            let replaced: Vec<(usize, bool)> = replaced.into_iter().collect();
            let next = changed(&base, &replaced, next_pages);
            let resolved = resolve(&next.to_node(Some(&stored(base.clone(), 0))), &base);
            prop_assert_eq!(resolved.compacted(), next.compacted());
            prop_assert_eq!(resolve(&next.to_node(None), &base), next.compacted());
        }

        #[test]
        fn any_bytes_are_a_node_or_an_error(bytes: Vec<u8>) {
            if let Ok(EncodedNode::PageMap(encoded)) = EncodedNode::from_bytes(&bytes) {
                let _ = PageMap::from_encoded(&encoded);
            }
        }

        #[test]
        fn damaged_nodes_are_nodes_or_errors(at in 0usize..2000, value: u8) {
            let base = whole(100);
            for node in [base.to_node(None), changed(&base, &[(5, false), (70, true)], 110).to_node(Some(&stored(base.clone(), 0)))] {
                let mut bytes = node.to_bytes();
                let at = at % bytes.len();
                bytes[at] = value;
                match EncodedNode::from_bytes(&bytes) {
                    Ok(EncodedNode::PageMap(encoded)) => drop(PageMap::from_encoded(&encoded)),
                    Ok(EncodedNode::PageMapDelta(delta)) => drop(base.apply(&delta)),
                    _ => {}
                }
            }
        }
    }
}
