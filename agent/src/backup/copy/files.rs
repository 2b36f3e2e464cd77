//! Files of this machine: opened in order of path, read by the workers, the control file last of all.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use walkeep_chunkstore::ingest::{FileHead, FileKind, FileOrder, IngestWorker};
use walkeep_chunkstore::node::{Body, REGION};

use super::region::{Content, Task};
use super::{Feeder, Lane, region_of};
use crate::backup::local_source::{LocalSource, read_control_bytes};
use crate::backup::parent::ParentFiles;
use crate::backup::scan::{self, CONTROL_FILE, Planned, PlannedKind};

/// Feeds a copy from a data directory.
pub struct FileFeeder<'a> {
    source: &'a LocalSource,
    planned: Vec<Planned>,
    parents: ParentFiles,
    control: Option<u64>,
}

impl<'a> FileFeeder<'a> {
    /// Walks the data directory: what is there now is what will be copied.
    pub fn plan(source: &'a LocalSource, parents: ParentFiles) -> Result<Self> {
        Ok(Self { source, planned: scan::plan(source)?, parents, control: None })
    }

    /// Opens a file, announces it, and hands out its regions.
    fn file(&mut self, entry: &Planned, body: Body, lane: &mut Lane<'_, '_, '_>) -> Result<()> {
        let Some((file, metadata)) = scan::open(&self.source.pgdata, entry)? else { return Ok(()) };
        let length = metadata.len();
        let regions = u32::try_from(length.div_ceil(REGION)).context("a file of over 64 PiB")?;
        let head = FileHead { modified: metadata.mtime(), ..head(entry, FileKind::File { body }) };
        let number = lane.file(head, regions)?;
        let earlier = self.parents.find(&entry.path).map(|entry| entry.content);
        let (file, path) = (Arc::new(file), Arc::<[u8]>::from(&*entry.path));
        for region in 0..regions {
            lane.region(Task {
                path: Arc::clone(&path),
                kind: entry.kind.clone(),
                place: (number, region),
                // By the length that the file had when it was opened.
                length: (length - u64::from(region) * REGION).min(REGION),
                content: Content::File(Arc::clone(&file)),
                parent: earlier.as_ref().and_then(|content| region_of(content, body, region)),
            })?;
        }
        Ok(())
    }
}

impl Feeder for FileFeeder<'_> {
    const ORDER: FileOrder = FileOrder::ByPath;

    fn total(&self) -> u64 {
        self.planned.iter().map(|planned| planned.size).sum()
    }

    fn feed(&mut self, lane: &mut Lane<'_, '_, '_>) -> Result<()> {
        for entry in std::mem::take(&mut self.planned) {
            let kind = match &entry.kind {
                PlannedKind::Directory => FileKind::Directory,
                PlannedKind::Symlink(target) => FileKind::Symlink { target: target.clone() },
                PlannedKind::Relation(_) | PlannedKind::Pages => {
                    self.file(&entry, Body::Pages, lane)?;
                    continue;
                }
                PlannedKind::Bytes if &*entry.path == CONTROL_FILE => {
                    self.control = Some(lane.last_file(head(&entry, FileKind::File { body: Body::Bytes }), 1)?);
                    continue;
                }
                PlannedKind::Bytes => {
                    self.file(&entry, Body::Bytes, lane)?;
                    continue;
                }
            };
            lane.file(head(&entry, kind), 0)?;
        }
        Ok(())
    }

    /// Reads the control file after everything else, whole and with a checksum that fits.
    fn feed_last(&mut self, mut worker: IngestWorker) -> Result<()> {
        let directory = &self.source.pgdata;
        let missing = || format!("'{}' has no {}", directory.display(), String::from_utf8_lossy(CONTROL_FILE));
        let number = self.control.with_context(missing)?;
        let bytes = read_control_bytes(directory)?;
        let mut region = worker.byte_region();
        region.push(&mut worker, &bytes)?;
        region.finish(&mut worker, (number, 0), crc32c::crc32c(&bytes))?;
        Ok(worker.finish()?)
    }
}

fn head(entry: &Planned, kind: FileKind) -> FileHead {
    FileHead { path: entry.path.to_vec(), mode: entry.mode, modified: entry.modified, kind }
}
