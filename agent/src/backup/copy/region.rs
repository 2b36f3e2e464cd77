//! One region of a file on a worker's hands: read, checked, compared with the parent's, stored.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use crossbeam_channel::Sender;
use walkeep_chunkstore::index::Suspects;
use walkeep_chunkstore::ingest::{IngestWorker, PageRegion};
use walkeep_chunkstore::node::{NodeRef, REGION};

use walkeep_proto::identity::BlockNumber;

use super::{BLOCK, Shared};
use crate::backup::page_check::{CheckedFile, PageChecker};
use crate::backup::parent::is_damage;
use crate::backup::scan::PlannedKind;

/// A region for a worker.
pub struct Task {
    /// Path of its file.
    pub path: Arc<[u8]>,
    /// What its file is.
    pub kind: PlannedKind,
    /// The file's number, and the region's in it.
    pub place: (u64, u32),
    /// Bytes of the region.
    pub length: u64,
    /// Where they are.
    pub content: Content,
    /// The parent's map of the same region.
    pub parent: Option<NodeRef>,
}

/// Where a region's bytes are.
///
/// What is in memory is worked on in its place.
pub enum Content {
    /// In a file of this machine, which can be read again.
    File(Arc<File>),
    /// In memory: they came from a server.
    Memory(Buffer),
}

/// A buffer that goes back to where it came from.
pub struct Buffer {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Who fills it again.
    pub home: Sender<Vec<u8>>,
}

impl Buffer {
    /// Room for this many bytes, at the beginning, and behind it for the rest of a [`BLOCK`]. Their content is whatever it
    /// was.
    pub fn room(&mut self, length: usize) -> &mut [u8] {
        let blocks = length.next_multiple_of(BLOCK);
        if self.bytes.len() < blocks {
            self.bytes.resize(blocks, 0);
        }
        &mut self.bytes[..length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // Nobody is there to take it when the copy is over.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

impl Task {
    /// Copies the region.
    pub(super) fn copy(
        mut self,
        worker: &mut IngestWorker,
        checker: &mut PageChecker,
        buffer: &mut [u8],
        shared: &Shared<'_>,
    ) -> Result<()> {
        let copied = match self.kind {
            PlannedKind::Bytes => self.copy_bytes(worker, buffer, shared),
            _ => self.copy_pages(worker, checker, buffer, shared),
        };
        copied.with_context(|| format!("unable to copy '{}'", String::from_utf8_lossy(&self.path)))
    }

    fn display_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    /// Where the region begins in its file.
    fn start(&self) -> u64 {
        u64::from(self.place.1) * REGION
    }

    /// The region block by block. What the file has lost since it was opened reads as zeros: replay cuts it off again.
    fn blocks(
        &mut self,
        buffer: &mut [u8],
        shared: &Shared<'_>,
        mut visit: impl FnMut(u64, &mut [u8], usize) -> Result<()>,
    ) -> Result<()> {
        let (page_size, start) = (shared.options.page_size as usize, self.start());
        let mut done = 0;
        while done < self.length {
            let wanted = usize::try_from(self.length - done).unwrap_or(usize::MAX).min(BLOCK);
            let padded = wanted.next_multiple_of(page_size).min(BLOCK);
            let (block, read) = match &mut self.content {
                Content::File(file) => {
                    let read = read_at_most(file, &mut buffer[..wanted], start + done)?;
                    shared.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
                    shared.rates.read(read);
                    (&mut buffer[..padded], read)
                }
                Content::Memory(memory) => {
                    let from = usize::try_from(done).context("a region larger than memory")?;
                    let bytes = memory.bytes.get_mut(from..from + padded).context("a region shorter than announced")?;
                    (bytes, wanted)
                }
            };
            block[read..].fill(0);
            visit(start + done, block, wanted)?;
            done += wanted as u64;
        }
        Ok(())
    }

    fn copy_bytes(&mut self, worker: &mut IngestWorker, buffer: &mut [u8], shared: &Shared<'_>) -> Result<()> {
        let mut region = worker.byte_region();
        let mut crc = 0;
        self.blocks(buffer, shared, |_, block, length| {
            crc = crc32c::crc32c_append(crc, &block[..length]);
            Ok(region.push(worker, &block[..length])?)
        })?;
        Ok(region.finish(worker, self.place, crc)?)
    }

    fn copy_pages(
        &mut self,
        worker: &mut IngestWorker,
        checker: &mut PageChecker,
        buffer: &mut [u8],
        shared: &Shared<'_>,
    ) -> Result<()> {
        let page_size = shared.options.page_size as usize;
        let checked = self.first_checked_block(shared);
        // The file itself can be read again; what came from a server cannot.
        let path = Arc::clone(&self.path);
        let file = match &self.content {
            Content::File(file) => Some(Arc::clone(file)),
            Content::Memory(_) => None,
        };
        let checked = checked.map(|first_block| CheckedFile { file: file.as_deref(), path: &path, first_block });
        let parent = self.parent.and_then(|node| match shared.nodes.page_map(&node) {
            Ok(map) => Some(map),
            Err(error) => {
                tracing::warn!("the parent's map of '{}' is passed over: {error}", self.display_path());
                if is_damage(error) {
                    shared.index.distrust(Suspects::Nodes);
                }
                None
            }
        });
        let mut region = PageRegion::start(worker, parent);
        let mut crc = 0;
        self.blocks(buffer, shared, |offset, block, length| {
            if let Some(checked) = &checked {
                // A page that the file ends in has no checksum to fit.
                let whole = length - length % page_size;
                let first = u32::try_from(offset / page_size as u64).context("a file of too many pages")?;
                checker.check(checked, first, &mut block[..whole]).context("unable to read again")?;
            }
            crc = crc32c::crc32c_append(crc, &block[..length]);
            Ok(region.push(worker, block)?)
        })?;
        let again = region.pages_to_rewrite(worker)?;
        if !again.is_empty() {
            crc = self.rewrite(worker, &mut region, &again, buffer, shared)?;
        }
        Ok(region.finish(worker, self.place, self.length, crc)?)
    }

    /// Reads the region once more and stores the pages that are wanted anew. All of it is read, so that content,
    /// fingerprints and checksum stay those of one reading.
    fn rewrite(
        &mut self,
        worker: &mut IngestWorker,
        region: &mut PageRegion,
        again: &[u32],
        buffer: &mut [u8],
        shared: &Shared<'_>,
    ) -> Result<u32> {
        let page_size = shared.options.page_size as usize;
        let again: HashSet<u32> = again.iter().copied().collect();
        let start = self.start();
        let mut crc = 0;
        self.blocks(buffer, shared, |offset, block, length| {
            crc = crc32c::crc32c_append(crc, &block[..length]);
            let first = (offset - start) / page_size as u64;
            for (index, page) in (first..).zip(block.chunks_exact(page_size)) {
                let index = u32::try_from(index).context("a region of too many pages")?;
                if again.contains(&index) || !region.has(worker, index, page) {
                    region.rewrite(worker, index, page)?;
                }
            }
            Ok(())
        })?;
        Ok(crc)
    }

    /// Number of the file's first page in its fork, as a checksum wants it; `None` for files without page checksums.
    fn first_checked_block(&self, shared: &Shared<'_>) -> Option<BlockNumber> {
        let PlannedKind::Relation(relation) = &self.kind else { return None };
        let first_block = relation.first_block(shared.options.blocks_per_segment)?;
        shared.options.page_checksums.then_some(first_block)
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(bytes) => read += bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e).context("unable to read"),
        }
    }
    Ok(read)
}
