//! Page checksums while copying: a torn read is not damage, damage is not a torn read.
//!
//! A page that fails is read again. If it fits then, or keeps changing, the server was writing it. If it stays wrong, its
//! LSN decides: a page last changed after the backup's start, and not beyond its stop, is restored by replay anyway;
//! any other is damaged in the cluster and is named.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use walkeep_chunkstore::repository::PageError;
use walkeep_proto::identity::BlockNumber;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::page::{PageFault, PageHeader, PageVerifier};

/// How often a page that fails is read again.
const ATTEMPTS: u32 = 5;
/// Pause between two readings: longer than the server needs to write a page.
const PAUSE: Duration = Duration::from_millis(3);
/// How many damaged pages are listed by name; all are counted.
const LISTED: usize = 1000;

/// A page that stayed wrong. Whether it is damage is known once the stop position is.
#[derive(Clone, Debug)]
struct Suspect {
    path: String,
    block: u32,
    fault: PageFault,
    lsn: Lsn,
}

/// Pages that stayed wrong.
#[derive(Clone, Debug, Default)]
pub struct Suspects {
    pages: Vec<Suspect>,
    /// Suspects beyond the listed ones, by position.
    more: Vec<Lsn>,
}

/// The damaged pages of a backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageErrors {
    /// The first of them.
    pub listed: Vec<PageError>,
    /// How many there are.
    pub total: u64,
}

impl Suspects {
    /// Adds what another thread found.
    pub fn merge(&mut self, other: Self) {
        self.more.extend(other.more);
        for page in other.pages {
            self.add(page);
        }
    }

    /// Keeps the pages with the oldest LSNs by name: those that were torn while the backup ran are the newest.
    fn add(&mut self, mut page: Suspect) {
        if self.pages.len() >= LISTED {
            if let Some(newest) =
                self.pages.iter_mut().max_by_key(|known| known.lsn).filter(|known| known.lsn > page.lsn)
            {
                std::mem::swap(newest, &mut page);
            }
            self.more.push(page.lsn);
            return;
        }
        self.pages.push(page);
    }

    /// Which suspects are damage, now that start and stop of the backup are known.
    pub fn verdict(mut self, start: Lsn, stop: Lsn) -> PageErrors {
        let repaired_by_replay = |lsn: Lsn| start <= lsn && lsn <= stop;
        self.pages.retain(|page| !repaired_by_replay(page.lsn));
        self.more.retain(|lsn| !repaired_by_replay(*lsn));
        self.pages.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
        let total = (self.pages.len() + self.more.len()) as u64;
        let listed = self.pages.into_iter().map(|page| PageError {
            problem: page.fault.to_string(),
            path: page.path,
            block: page.block,
        });
        PageErrors { listed: listed.collect(), total }
    }
}

/// A relation file whose pages are checked.
#[derive(Clone, Copy)]
pub struct CheckedFile<'a> {
    /// The file, where it can be read again. A server has read again by itself before it sends a page.
    pub file: Option<&'a File>,
    /// Its path below the data directory.
    pub path: &'a [u8],
    /// Number of its first page in the relation fork: it takes part in the checksum.
    pub first_block: BlockNumber,
}

/// Checks pages of one thread's reads.
pub struct PageChecker {
    verifier: PageVerifier,
    page_size: usize,
    suspects: Suspects,
    failed: Vec<(usize, PageFault)>,
}

impl PageChecker {
    /// A checker for pages of this size.
    pub fn new(page_size: usize) -> Self {
        Self { verifier: PageVerifier::new(), page_size, suspects: Suspects::default(), failed: Vec::new() }
    }

    /// Checks whole pages that were read from page number `first` of the file on. Pages that were torn are replaced by
    /// what a later reading gave.
    pub fn check(&mut self, file: &CheckedFile<'_>, first: u32, pages: &mut [u8]) -> std::io::Result<()> {
        let (failed, verifier) = (&mut self.failed, &self.verifier);
        failed.clear();
        let block = file.first_block.saturating_add(first);
        verifier.verify_pages(pages, self.page_size, block, &mut |index, fault| failed.push((index, fault)));
        let failed = std::mem::take(&mut self.failed);
        if !failed.is_empty() && file.file.is_some() {
            std::thread::sleep(PAUSE);
        }
        for (index, fault) in failed {
            let Some(page) = pages.get_mut(index * self.page_size..(index + 1) * self.page_size) else { continue };
            let number = first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
            if let Some(fault) = self.read_again(file, number, page, fault)? {
                let lsn = PageHeader::parse(page).map_or(Lsn::INVALID, |header| header.lsn);
                let path = String::from_utf8_lossy(file.path).into_owned();
                self.suspects.add(Suspect { path, block: number, fault, lsn });
            }
        }
        Ok(())
    }

    /// Reads a page until it fits or is the same twice; gives the fault that stays.
    fn read_again(
        &self,
        file: &CheckedFile<'_>,
        number: u32,
        page: &mut [u8],
        mut fault: PageFault,
    ) -> std::io::Result<Option<PageFault>> {
        let Some(readable) = file.file else { return Ok(Some(fault)) };
        let mut again = vec![0; self.page_size];
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match readable.read_exact_at(&mut again, u64::from(number) * self.page_size as u64) {
                // Cut off meanwhile: then replay cuts it off too.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                other => other?,
            }
            let unchanged = again == page;
            page.copy_from_slice(&again);
            let mut found = None;
            let block = file.first_block.saturating_add(number);
            self.verifier.verify_pages(page, self.page_size, block, &mut |_, fault| found = Some(fault));
            let Some(found) = found else { return Ok(None) };
            fault = found;
            if unchanged {
                return Ok(Some(fault));
            }
        }
        Ok(Some(fault))
    }

    /// What stayed wrong.
    pub fn finish(self) -> Suspects {
        self.suspects
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PAGE: usize = 8192;

    fn page(lsn: u64, block: u32, good: bool) -> Vec<u8> {
        let mut page = vec![7; PAGE];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        page[14..16].copy_from_slice(&8000u16.to_le_bytes());
        let checksum = walkeep_proto::page::page_checksum(&page, block) ^ u16::from(!good);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    fn check(pages: &[Vec<u8>]) -> Suspects {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&pages.concat()).unwrap();
        let mut checker = PageChecker::new(PAGE);
        let mut bytes = pages.concat();
        checker.check(&CheckedFile { file: Some(&file), path: b"base/1/2", first_block: 100 }, 0, &mut bytes).unwrap();
        checker.finish()
    }

    #[test]
    fn damage_is_named_and_what_replay_restores_is_not() {
        let pages = [page(50, 100, true), page(50, 101, false), page(150, 102, false), page(900, 103, false)];
        let errors = check(&pages).verdict(Lsn::new(100), Lsn::new(200));
        let blocks: Vec<u32> = errors.listed.iter().map(|error| error.block).collect();
        assert_eq!((blocks, errors.total), (vec![1, 3], 2), "before the start, and beyond the stop");
        assert_eq!(errors.listed[0].path, "base/1/2");
    }

    #[test]
    fn what_cannot_be_read_again_is_judged_as_it_came() {
        let mut pages = [page(50, 100, false), page(150, 101, false)].concat();
        let mut checker = PageChecker::new(PAGE);
        checker.check(&CheckedFile { file: None, path: b"base/1/2", first_block: 100 }, 0, &mut pages).unwrap();
        let errors = checker.finish().verdict(Lsn::new(100), Lsn::new(200));
        assert_eq!((errors.listed[0].block, errors.total), (0, 1));
    }

    #[test]
    fn a_torn_page_is_replaced_by_what_is_read_later() {
        let good = page(50, 100, true);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&good).unwrap();
        let mut torn = good.clone();
        torn[5000..].fill(1);
        let mut checker = PageChecker::new(PAGE);
        checker.check(&CheckedFile { file: Some(&file), path: b"x", first_block: 100 }, 0, &mut torn).unwrap();
        assert_eq!(torn, good);
        assert_eq!(checker.finish().verdict(Lsn::new(100), Lsn::new(200)).total, 0);
    }
}
