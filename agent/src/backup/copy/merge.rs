//! A file of which the server has sent only what has changed: completed with what the earlier backup has.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, ensure};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::index::Suspects;
use walkeep_chunkstore::ingest::{ChangedPages, FileHead, FileSum, IngestWorker, KnownRegion, RegionSum, extended_sum};
use walkeep_chunkstore::node::{NodeRef, REGION};
use walkeep_proto::identity::BlockNumber;
use walkeep_proto::incremental_file::IncrementalHeader;

use super::archives::Buffers;
use super::region::Buffer;
use super::{Lane, Shared};
use crate::backup::incremental::{Merger, NotIncremental, OldFile};
use crate::backup::page_check::{CheckedFile, PageChecker};

/// A region for a worker.
pub struct MergeTask {
    path: Arc<[u8]>,
    /// Number of the file's first page in its fork.
    first_block: BlockNumber,
    /// The file's number, and the region's in it.
    place: (u64, u32),
    /// Bytes of the region.
    length: u64,
    /// The pages that came, counted in the region, ascending.
    pages: Vec<u32>,
    /// Their content; none where there are none.
    content: Option<Buffer>,
    /// Pages from the beginning that are the parent's if they did not come.
    kept: u32,
    sum: RegionSum,
    /// The parent's map of the same region, and how long that region is.
    parent: Option<NodeRef>,
    parent_length: u64,
}

/// A file that came in part: its head is that of the file it stands for, its length that of what came.
pub(super) struct PartialFile<'a> {
    /// What the server calls it.
    pub(super) sent_as: &'a [u8],
    pub(super) head: FileHead,
    pub(super) length: u64,
    pub(super) old: OldFile<'a>,
}

/// Announces the file and hands out its regions as they come. Gives the sum of what came, for the server's manifest.
pub(super) fn feed(
    file: PartialFile<'_>,
    content: &mut impl Read,
    merger: &Merger,
    buffers: &mut Buffers,
    lane: &mut Lane<'_, '_, '_>,
) -> Result<FileSum> {
    let PartialFile { sent_as, head, length, old } = file;
    let (page_size, most) = (merger.page_size(), merger.blocks_per_segment());
    let header = IncrementalHeader::read(&mut *content, page_size, most).map_err(NotIncremental::of)?;
    let (blocks, whole) = (header.blocks.len(), header.file_length(page_size));
    let wrong = || anyhow!("the server sends {length} bytes, {blocks} blocks and their header have {whole}");
    ensure!(whole == length, NotIncremental::of(wrong()));
    let mut crc32c = crc32c::crc32c(&header.bytes);

    let blocks = header.length_in_blocks(most);
    let pages_per_region = u32::try_from(REGION / u64::from(page_size)).context("pages are larger than regions")?;
    let regions = blocks.div_ceil(pages_per_region);
    let path = Arc::<[u8]>::from(&*head.path);
    let number = lane.file(head, regions)?;
    let first_block = old.relation.first_block(most).context("no fork has so many files")?;
    let kept = merger.kept(&old.relation);
    let mut coming = header.blocks.as_slice();
    for region in 0..regions {
        let first = region * pages_per_region;
        let pages = (blocks - first).min(pages_per_region);
        let (here, behind) = coming.split_at(coming.partition_point(|block| *block < first + pages));
        coming = behind;
        let buffer = match here.len() * page_size as usize {
            0 => None,
            bytes => {
                let mut buffer = buffers.take(lane)?;
                let room = buffer.room(bytes);
                content.read_exact(room)?;
                crc32c = crc32c::crc32c_append(crc32c, room);
                Some(buffer)
            }
        };
        lane.merge(MergeTask {
            path: Arc::clone(&path),
            first_block,
            place: (number, region),
            length: u64::from(pages) * u64::from(page_size),
            pages: here.iter().map(|block| block - first).collect(),
            content: buffer,
            kept: kept.saturating_sub(first),
            sum: region_sum(&old, blocks, page_size, region + 1 == regions),
            parent: old.regions.get(region as usize).copied(),
            parent_length: old.length.saturating_sub(u64::from(region) * REGION).min(REGION),
        })?;
    }
    lane.shared.read_bytes.fetch_add(length, Ordering::Relaxed);
    Ok(FileSum { path: sent_as.to_vec(), length, crc32c })
}

/// A file that became shorter is summed from all its pages, any other by what changed.
fn region_sum(old: &OldFile<'_>, blocks: u32, page_size: u32, is_last: bool) -> RegionSum {
    let old_pages = old.length / u64::from(page_size);
    match u64::from(blocks).checked_sub(old_pages) {
        None => RegionSum::Whole,
        Some(more) if is_last => RegionSum::Difference { carried: extended_sum(old.crc32c, more, page_size) },
        Some(_) => RegionSum::Difference { carried: 0 },
    }
}

impl MergeTask {
    /// Checks the pages that came, and puts the region together.
    pub(super) fn merge(
        mut self,
        worker: &mut IngestWorker,
        checker: &mut PageChecker,
        shared: &Shared<'_>,
    ) -> Result<()> {
        let merged = self.check(checker, shared).and_then(|()| self.store(worker, shared));
        merged.with_context(|| format!("unable to complete '{}'", String::from_utf8_lossy(&self.path)))
    }

    fn check(&mut self, checker: &mut PageChecker, shared: &Shared<'_>) -> Result<()> {
        let Some(buffer) = self.content.as_mut().filter(|_| shared.options.page_checksums) else { return Ok(()) };
        let page_size = shared.options.page_size as usize;
        let checked = CheckedFile { file: None, path: &self.path, first_block: self.first_block };
        let region =
            u32::try_from(u64::from(self.place.1) * REGION / page_size as u64).context("a file of too many pages")?;
        for (page, content) in self.pages.iter().zip(buffer.bytes.chunks_exact_mut(page_size)) {
            checker.check(&checked, region + page, content).context("unable to check a page")?;
        }
        Ok(())
    }

    fn store(&self, worker: &mut IngestWorker, shared: &Shared<'_>) -> Result<()> {
        let parent = self.parent.map(|node| shared.nodes.page_map(&node)).transpose();
        let parent = parent.map_err(Error::of_parent).inspect_err(|error| {
            if matches!(error, Error::UnusableParent { .. }) {
                shared.index.distrust(Suspects::Nodes);
            }
        })?;
        let Self { parent_length, kept, length, sum, .. } = *self;
        let known = KnownRegion { parent, parent_length, kept, length, sum };
        let bytes = self.content.as_ref().map_or(&[][..], |buffer| &buffer.bytes);
        let bytes =
            bytes.get(..self.pages.len() * shared.options.page_size as usize).context("fewer pages than came")?;
        Ok(worker.merge(self.place, known, ChangedPages { pages: &self.pages, bytes })?)
    }
}
