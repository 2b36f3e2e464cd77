//! A region of relation pages, compared with the parent's map while it is read.

use super::worker::IngestWorker;
use super::{PendingChunk, RegionContent};
use crate::error::{Error, Result};
use crate::id::PageFingerprint;
use crate::node::{PageMap, PageSource, StoredPageMap, pages_to_rewrite};

/// A page map whose new chunks may still be on their way into a pack.
#[derive(Clone, Debug)]
pub(crate) struct PendingPageMap {
    base: Option<StoredPageMap>,
    page_size: u32,
    length: u64,
    chunks: Vec<PendingChunk>,
    pages: Vec<PageSource>,
    fingerprints: Vec<PageFingerprint>,
    /// Pages whose content differs from the base's.
    pub(crate) changed_pages: u64,
}

impl PendingPageMap {
    /// The map and what it is relative to, once all its chunks are in sealed packs.
    pub(crate) fn resolve(&self) -> Option<Result<PageMap>> {
        let chunks: Option<Vec<_>> = self.chunks.iter().map(PendingChunk::resolve).collect();
        let map = PageMap::new(self.page_size, self.length, chunks?, self.pages.clone(), self.fingerprints.clone());
        Some(map.map_err(|problem| Error::Invalid(format!("a page map would be wrong: {problem}"))))
    }

    pub(crate) fn base(&self) -> Option<&StoredPageMap> {
        self.base.as_ref()
    }

    pub(crate) fn page_count(&self) -> u64 {
        self.pages.len() as u64
    }
}

/// A region in the making: pages go in, in order; unchanged ones cost a fingerprint, changed ones are stored.
pub struct PageRegion {
    map: PendingPageMap,
    /// Chunks of the base whose pack is still there.
    usable: Vec<bool>,
    /// New pages that are not cut yet, and which pages they are.
    pending: Vec<u8>,
    pending_pages: Vec<u32>,
    fresh_chunks: bool,
}

impl PageRegion {
    /// Starts a region. `parent` is the same region in an earlier backup.
    pub fn start(worker: &IngestWorker, parent: Option<StoredPageMap>) -> Self {
        let page_size = worker.shared.options.page_size;
        let base = parent.filter(|parent| {
            parent.map.page_size() == page_size && worker.shared.index.has_pack(&parent.node.location.pack)
        });
        let old_chunks = base.as_ref().map(|base| base.map.chunks()).unwrap_or_default();
        let usable = old_chunks.iter().map(|chunk| worker.shared.index.has_pack(&chunk.location.pack)).collect();
        let chunks = old_chunks.iter().copied().map(PendingChunk::Stored).collect();
        let map = PendingPageMap {
            page_size,
            length: 0,
            chunks,
            pages: Vec::new(),
            fingerprints: Vec::new(),
            changed_pages: 0,
            base,
        };
        Self { map, usable, pending: Vec::new(), pending_pages: Vec::new(), fresh_chunks: false }
    }

    /// Takes the next whole pages of the file. The last page of a file that ends inside it is padded with zeros.
    pub fn push(&mut self, worker: &mut IngestWorker, pages: &[u8]) -> Result<()> {
        for page in pages.chunks_exact(self.map.page_size as usize) {
            let fingerprint = fingerprint(worker, page);
            let zero = fingerprint == PageFingerprint::ZERO_PAGE;
            let index = self.map.pages.len();
            let kept = self.kept_source(index, fingerprint);
            self.map.fingerprints.push(fingerprint);
            if kept.is_none() {
                self.map.changed_pages += 1;
            }
            match kept {
                Some(source) => self.map.pages.push(source),
                None if zero => self.map.pages.push(PageSource::Hole),
                None => {
                    self.map.pages.push(PageSource::Hole);
                    self.append(worker, index, page)?;
                }
            }
        }
        Ok(())
    }

    /// The next page is the parent's, unseen.
    ///
    /// # Errors
    /// [`Error::UnusableParent`] where the parent has no such page, or its chunk's pack is gone.
    pub(super) fn keep(&mut self) -> Result<()> {
        let index = self.map.pages.len();
        let base = self.map.base.as_ref().map(|base| &base.map);
        let fingerprint = base.and_then(|base| base.fingerprints().get(index).copied());
        let source = self.base_source(index);
        let (Some(fingerprint), Some(source)) = (fingerprint, source) else {
            let problem = match base {
                None => "the pack of its map is gone".to_owned(),
                Some(_) => format!("page {index} of a region is not there, or its pack is gone"),
            };
            return Err(Error::UnusableParent { problem });
        };
        self.map.fingerprints.push(fingerprint);
        self.map.pages.push(source);
        Ok(())
    }

    /// Whether the base has this page with exactly this content.
    pub(super) fn has_in_base(&self, worker: &IngestWorker, index: u32, page: &[u8]) -> bool {
        let fingerprints = self.map.base.as_ref().map(|base| base.map.fingerprints());
        fingerprints.and_then(|all| all.get(index as usize)).is_some_and(|base| *base == fingerprint(worker, page))
    }

    /// The base's source of a page, if the page is the same and its chunk still exists.
    fn kept_source(&self, index: usize, fingerprint: PageFingerprint) -> Option<PageSource> {
        let base = &self.map.base.as_ref()?.map;
        (base.fingerprints().get(index) == Some(&fingerprint)).then(|| self.base_source(index))?
    }

    /// The base's source of a page, if its chunk still exists.
    fn base_source(&self, index: usize) -> Option<PageSource> {
        match *self.map.base.as_ref()?.map.pages().get(index)? {
            PageSource::Chunk { chunk, .. } if !*self.usable.get(chunk as usize)? => None,
            source => Some(source),
        }
    }

    fn append(&mut self, worker: &mut IngestWorker, index: usize, page: &[u8]) -> Result<()> {
        let index = u32::try_from(index).map_err(|_| Error::Invalid("a region of too many pages".to_owned()))?;
        self.pending.extend_from_slice(page);
        self.pending_pages.push(index);
        self.cut(worker, worker.page_chunker.maximum_pages())
    }

    fn cut(&mut self, worker: &mut IngestWorker, at_least: usize) -> Result<()> {
        let page_size = self.map.page_size as usize;
        while self.pending_pages.len() >= at_least.max(1) {
            let pages = worker.page_chunker.cut(&self.pending);
            let chunk = worker.store(&self.pending[..pages * page_size])?;
            let number = u32::try_from(self.map.chunks.len())
                .map_err(|_| Error::Invalid("a region of too many chunks".to_owned()))?;
            self.map.chunks.push(chunk);
            self.fresh_chunks = true;
            for (place, page) in (0..).zip(self.pending_pages.drain(..pages)) {
                self.map.pages[page as usize] = PageSource::Chunk { chunk: number, page: place };
            }
            self.pending.drain(..pages * page_size);
        }
        Ok(())
    }

    /// Pages that the caller should read once more and give to [`PageRegion::rewrite`], so that restores stay cheap.
    /// Empty for a region in which nothing changed.
    pub fn pages_to_rewrite(&mut self, worker: &mut IngestWorker) -> Result<Vec<u32>> {
        self.cut(worker, 1)?;
        if self.is_unchanged() {
            return Ok(Vec::new());
        }
        let chunks = &self.map.chunks;
        Ok(pages_to_rewrite(self.map.page_size, &self.map.pages, |chunk| {
            chunks.get(chunk as usize).map_or(0, PendingChunk::length)
        }))
    }

    /// Whether the region has this page with exactly this content.
    pub fn has(&self, worker: &IngestWorker, index: u32, page: &[u8]) -> bool {
        self.map.fingerprints.get(index as usize) == Some(&fingerprint(worker, page))
    }

    /// Stores a page anew, with the content it has now.
    pub fn rewrite(&mut self, worker: &mut IngestWorker, index: u32, page: &[u8]) -> Result<()> {
        let place = index as usize;
        if place >= self.map.pages.len() {
            return Err(Error::Invalid(format!("page {index} is none of the region's {}", self.map.pages.len())));
        }
        if walkeep_proto::page::is_zero_page(page) {
            self.map.fingerprints[place] = PageFingerprint::ZERO_PAGE;
            self.map.pages[place] = PageSource::Hole;
            return Ok(());
        }
        self.map.fingerprints[place] = worker.fingerprint(page);
        self.append(worker, place, page)
    }

    fn is_unchanged(&self) -> bool {
        self.map
            .base
            .as_ref()
            .is_some_and(|base| base.map.pages() == self.map.pages && base.map.fingerprints() == self.map.fingerprints)
            && !self.fresh_chunks
            && self.pending_pages.is_empty()
    }

    /// Hands the region over. `length` is where the file ends in it; `place` is the file's number and the region's.
    pub fn finish(mut self, worker: &mut IngestWorker, place: (u64, u32), length: u64, crc32c: u32) -> Result<()> {
        self.cut(worker, 1)?;
        self.map.length = length;
        // A map that was read is good; others in its pack may not be, and nothing new is to refer there.
        self.map.base.take_if(|base| worker.shared.index.is_distrusted(&base.node.location.pack));
        let content = match &self.map.base {
            Some(base) if base.map.length() == length && self.is_unchanged() => {
                let packs = base.map.packs().collect();
                RegionContent::Unchanged { node: base.node, packs }
            }
            _ => RegionContent::Pages(Box::new(self.map)),
        };
        worker.send_region(place, length, crc32c, content)
    }
}

/// The fingerprint that stands for a page in a map.
fn fingerprint(worker: &IngestWorker, page: &[u8]) -> PageFingerprint {
    if walkeep_proto::page::is_zero_page(page) { PageFingerprint::ZERO_PAGE } else { worker.fingerprint(page) }
}
