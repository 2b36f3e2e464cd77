//! A region of which only the changed pages came: the others are the parent's, and are not read.
//!
//! The file's CRC-32C follows from the parent's. A checksum of several pieces is the XOR of each one's, shifted by the bytes
//! behind it, so that a page replaced by another changes it by the shifted XOR of both pages' checksums. What the regions
//! of a file give as theirs are shares of that sum: put together like any regions' checksums, they are the file's.

use super::pages::PageRegion;
use super::worker::IngestWorker;
use crate::error::{Error, Result};
use crate::extract::{JobReader, ReadPlan};
use crate::index::Suspects;
use crate::node::{PageMap, PageSource, StoredPageMap};

/// Unneeded bytes between two frames of the parent that are read along: about what a request costs.
const READ_ALONG: u64 = 256 << 10;
/// Pages of a region that are rewritten at a time: some MiB.
const REWRITTEN_AT_ONCE: usize = 256;

/// The pages of a region that came, in ascending order.
#[derive(Clone, Copy, Debug)]
pub struct ChangedPages<'a> {
    /// Which pages of the region they are.
    pub pages: &'a [u32],
    /// Their content, one behind the other.
    pub bytes: &'a [u8],
}

/// What is known of a region beside the pages that came.
#[derive(Clone, Debug)]
pub struct KnownRegion {
    /// The same region in the parent; none behind the parent's end of the file.
    pub parent: Option<StoredPageMap>,
    /// Bytes of that region by the parent's length of the file: its map must say the same.
    pub parent_length: u64,
    /// So many pages from the beginning are the parent's, as far as it has them, where nothing else came. All others that
    /// did not come are zero.
    pub kept: u32,
    /// Bytes of the region, whole pages.
    pub length: u64,
    /// How the file's checksum is found.
    pub sum: RegionSum,
}

/// How a region's share of its file's checksum is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionSum {
    /// By what differs from the parent's, whose earlier content is read. `carried` is the checksum of the parent's file,
    /// [extended](extended_sum) to the new length, in the last region; 0 in the others.
    Difference {
        /// What the difference is added to.
        carried: u32,
    },
    /// By all pages: the parent's are read. For a file that became shorter.
    Whole,
}

impl IngestWorker {
    /// Puts a region together, and hands it over. `place` is the file's number and the region's number in it.
    ///
    /// # Errors
    /// [`Error::UnusableParent`] where the parent's pages cannot be had: whoever has them all should send them all.
    pub fn merge(&mut self, place: (u64, u32), known: KnownRegion, changed: ChangedPages<'_>) -> Result<()> {
        let KnownRegion { parent, parent_length, kept, length, sum } = known;
        check_parent(parent.as_ref(), parent_length, self.shared.options.page_size)?;
        let mut region = PageRegion::start(self, parent.clone());
        let mut merge = Merge::new(self.shared.options.page_size, length, sum, parent.as_ref())?;
        let size = merge.page_size as usize;
        if changed.bytes.len() != changed.pages.len() * size {
            let (bytes, pages) = (changed.bytes.len(), changed.pages.len());
            return Err(Error::Invalid(format!("{bytes} bytes are not {pages} pages of {size}")));
        }
        let zeros = vec![0; size];
        let mut came = changed.pages.iter().copied().zip(changed.bytes.chunks_exact(size)).peekable();
        let kept = kept.min(merge.parent_pages());
        for page in 0..merge.pages {
            let content = match came.next_if(|(next, _)| *next == page) {
                Some((_, content)) => content,
                None if page < kept => {
                    region.keep()?;
                    merge.keep(page);
                    continue;
                }
                None => &zeros,
            };
            merge.replace(page, content, region.has_in_base(self, page, content));
            region.push(self, content)?;
        }
        if let Some((page, _)) = came.next() {
            return Err(Error::Invalid(format!(
                "page {page} came for a region of {} pages, or out of order",
                merge.pages
            )));
        }
        let wanted = std::mem::take(&mut merge.wanted);
        self.read_parent(parent.as_ref(), &wanted, |page, content| merge.add(page, crc32c::crc32c(content)))?;
        self.rewrite_crumbs(&mut region, parent.as_ref(), changed)?;
        region.finish(self, place, length, merge.sum)
    }

    /// Stores pages anew that lie scattered, so that restores stay cheap.
    fn rewrite_crumbs(
        &mut self,
        region: &mut PageRegion,
        parent: Option<&StoredPageMap>,
        changed: ChangedPages<'_>,
    ) -> Result<()> {
        let again = region.pages_to_rewrite(self)?;
        let size = self.shared.options.page_size as usize;
        let mut contents = Vec::new();
        for portion in again.chunks(REWRITTEN_AT_ONCE) {
            contents.resize(portion.len() * size, 0);
            let mut missing = Vec::new();
            for (page, content) in portion.iter().zip(contents.chunks_exact_mut(size)) {
                match changed.pages.binary_search(page) {
                    Ok(at) => content.copy_from_slice(&changed.bytes[at * size..][..size]),
                    Err(_) => missing.push(*page),
                }
            }
            self.read_parent(parent, &missing, |page, content| {
                if let Ok(at) = portion.binary_search(&page) {
                    contents[at * size..][..size].copy_from_slice(content);
                }
            })?;
            for (page, content) in portion.iter().zip(contents.chunks_exact(size)) {
                region.rewrite(self, *page, content)?;
            }
        }
        Ok(())
    }

    /// Reads pages of the parent, in whatever order is cheapest.
    fn read_parent(
        &mut self,
        parent: Option<&StoredPageMap>,
        pages: &[u32],
        mut visit: impl FnMut(u32, &[u8]),
    ) -> Result<()> {
        let Some(parent) = parent.filter(|_| !pages.is_empty()) else { return Ok(()) };
        let mut plan = ReadPlan::default();
        for &page in pages {
            plan.add_page(page, &parent.map, page);
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => JobReader::new()?,
        };
        let mut visited = 0;
        for job in plan.into_jobs(READ_ALONG) {
            let read = reader.run(&self.shared.repository, &job, &mut |piece, content| {
                visited += 1;
                visit(piece.file, content);
                Ok(())
            });
            if let Err(error) = read {
                let error = error.of_parent();
                if matches!(error, Error::UnusableParent { .. }) {
                    self.shared.index.distrust(Suspects::Pack(job.pack()));
                }
                return Err(error);
            }
        }
        self.reader = Some(reader);
        if visited != pages.len() {
            let problem = format!("{visited} of {} pages are in its chunks", pages.len());
            return Err(Error::UnusableParent { problem });
        }
        Ok(())
    }
}

/// A map that does not describe what the parent's file list says would be taken for zeros.
fn check_parent(parent: Option<&StoredPageMap>, length: u64, page_size: u32) -> Result<()> {
    let found = parent.map_or((0, page_size), |parent| (parent.map.length(), parent.map.page_size()));
    if found == (length, page_size) {
        return Ok(());
    }
    let (bytes, size) = found;
    let problem = format!("a map has {bytes} bytes in pages of {size}, its file {length} in pages of {page_size}");
    Err(Error::UnusableParent { problem })
}

/// The checksum of a file that is as it was, and then has so many zero pages.
pub fn extended_sum(sum: u32, pages: u64, page_size: u32) -> u32 {
    let (mut left, mut length) = (pages, page_size as usize);
    let mut zeros = sum_of_zeros(page_size);
    let mut extended = sum;
    while left > 0 {
        if left & 1 == 1 {
            extended = crc32c::crc32c_combine(extended, zeros, length);
        }
        zeros = crc32c::crc32c_combine(zeros, zeros, length);
        (left, length) = (left >> 1, length * 2);
    }
    extended
}

fn sum_of_zeros(page_size: u32) -> u32 {
    crc32c::crc32c(&vec![0; page_size as usize])
}

/// The sum in the making.
struct Merge<'a> {
    page_size: u32,
    pages: u32,
    parent: Option<&'a PageMap>,
    is_whole: bool,
    sum: u32,
    /// Pages of the parent whose content the sum needs.
    wanted: Vec<u32>,
    sum_of_zeros: u32,
}

impl<'a> Merge<'a> {
    fn new(page_size: u32, length: u64, sum: RegionSum, parent: Option<&'a StoredPageMap>) -> Result<Self> {
        let pages = u32::try_from(length / u64::from(page_size)).unwrap_or(u32::MAX);
        if u64::from(pages) * u64::from(page_size) != length {
            return Err(Error::Invalid(format!("{length} bytes are no whole pages of {page_size}")));
        }
        let (is_whole, sum) = match sum {
            RegionSum::Difference { carried } => (false, carried),
            RegionSum::Whole => (true, 0),
        };
        let parent = parent.map(|parent| &*parent.map);
        let sum_of_zeros = sum_of_zeros(page_size);
        Ok(Self { page_size, pages, parent, is_whole, sum, wanted: Vec::new(), sum_of_zeros })
    }

    fn parent_pages(&self) -> u32 {
        self.parent.map_or(0, |map| u32::try_from(map.pages().len()).unwrap_or(u32::MAX))
    }

    /// A page that stays the parent's.
    fn keep(&mut self, page: u32) {
        if self.is_whole {
            self.add_parents(page);
        }
    }

    /// A page with content of its own; `is_same` where the parent has the same.
    fn replace(&mut self, page: u32, content: &[u8], is_same: bool) {
        if self.is_whole {
            self.add(page, crc32c::crc32c(content));
        } else if !is_same {
            self.add(page, crc32c::crc32c(content));
            self.add_parents(page);
        }
    }

    /// What the parent has there; behind its end, zeros.
    fn add_parents(&mut self, page: u32) {
        match self.parent.and_then(|map| map.pages().get(page as usize)) {
            Some(PageSource::Chunk { .. }) => self.wanted.push(page),
            Some(PageSource::Hole) | None => self.add(page, self.sum_of_zeros),
        }
    }

    fn add(&mut self, page: u32, crc32c: u32) {
        let behind = (self.pages - 1 - page) as usize * self.page_size as usize;
        self.sum ^= crc32c::crc32c_combine(crc32c, 0, behind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_at_the_end_are_summed_without_being_read() {
        let file = b"some content".repeat(700);
        for pages in [0_usize, 1, 2, 3, 7, 100] {
            let whole = [file.clone(), vec![0; pages * 1024]].concat();
            assert_eq!(extended_sum(crc32c::crc32c(&file), pages as u64, 1024), crc32c::crc32c(&whole), "{pages}");
        }
    }
}
