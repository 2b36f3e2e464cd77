//! What is read and where it goes: file lists → maps → batches of pieces → jobs.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow};
use crossbeam_channel::Sender;
use walkeep_chunkstore::Error;
use walkeep_chunkstore::extract::{COALESCE_GAP, JobReader, ReadPlan};
use walkeep_chunkstore::node::{Body, FileContent, FileEntry, NodeRef, NodeStore, REGION};
use walkeep_chunkstore::repository::BackupManifest;

use super::files::{Kept, Written, as_damage};
use super::manifest::Manifest;
use super::maps::{Map, Maps};
use super::work::{Job, Shared};
use super::{Place, at};

/// A batch ends at this many pieces …
const BATCH_PIECES: usize = 64 << 10;
/// … or bytes: two of PostgreSQL's largest files, so that threads need not wait for each other's writes to the same one.
const BATCH_BYTES: u64 = 2 << 30;
/// Longest file that is kept in memory: `postgresql.auto.conf` is far shorter.
const MAXIMUM_KEPT: u64 = 16 << 20;

/// Files that this restore writes itself; a backup has them elsewhere or not at all.
const OURS: [&[u8]; 7] = [
    b"backup_label",
    b"tablespace_map",
    b"backup_manifest",
    b"recovery.signal",
    b"standby.signal",
    b"postmaster.pid",
    b"postmaster.opts",
];

/// Cuts a sequence into parts of equal length and takes from each in turn.
fn in_lanes<T>(items: Vec<T>, lanes: usize) -> impl Iterator<Item = T> {
    let length = items.len().div_ceil(lanes).max(1);
    let mut lanes: Vec<_> = Vec::with_capacity(lanes);
    let mut items = items.into_iter();
    while items.len() > 0 {
        lanes.push(items.by_ref().take(length).collect::<Vec<_>>().into_iter());
    }
    (0..length).flat_map(move |_| lanes.iter_mut().filter_map(Iterator::next).collect::<Vec<_>>())
}

/// What will be handed to the workers at once.
#[derive(Default)]
pub(super) struct Batch {
    plan: ReadPlan,
    bytes: u64,
}

/// Walks the file lists.
pub(super) struct Planner<'a, 'b> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) nodes: &'a NodeStore,
    pub(super) maps: Maps<'a>,
    pub(super) place: &'a Place,
    pub(super) jobs: &'a Sender<Job<'b>>,
    pub(super) manifest: &'a mut Manifest,
    pub(super) written: Written,
    pub(super) batch: Batch,
    /// Threads that do jobs.
    pub(super) lanes: usize,
}

impl Planner<'_, '_> {
    pub(super) fn run(&mut self, backup: &BackupManifest) -> Result<()> {
        let mut number = 0;
        for list in &backup.file_lists {
            let entries = self.nodes.file_list(list).map_err(as_damage)?.entries;
            self.maps.announce(&entries);
            for entry in entries {
                self.entry(&entry, number)?;
                number = u32::checked_add(number, 1).context("the backup has too many files")?;
            }
        }
        self.flush()
    }

    fn entry(&mut self, entry: &FileEntry, number: u32) -> Result<()> {
        let Some(path) = self.place.path_of(&entry.path) else { return Ok(()) };
        if OURS.contains(&entry.path.as_slice()) {
            return Ok(());
        }
        match &entry.content {
            FileContent::Directory => self.place.create_directory(&path, entry.mode & 0o777),
            // PostgreSQL's own directories are made as directories; a link would lead back to the old cluster.
            FileContent::Symlink { .. } if entry.path.starts_with(b"pg_") => Ok(()),
            FileContent::Symlink { target } => self.place.create_link(&path, target),
            FileContent::File { length, crc32c, body, regions } => {
                let file = StoredFile { entry, length: *length, body: *body, regions };
                match entry.path.as_slice() {
                    b"global/pg_control" => self.written.control = Some(self.keep(&file)?),
                    b"postgresql.auto.conf" => self.written.settings = Some(self.keep(&file)?),
                    _ => {
                        self.manifest.stored(&entry.path, *length, entry.modified, *crc32c)?;
                        self.file(&file, &path, number)?;
                    }
                }
                self.written.files += 1;
                self.written.bytes += length;
                Ok(())
            }
        }
    }

    fn file(&mut self, file: &StoredFile<'_>, path: &Path, number: u32) -> Result<()> {
        let handle = self.place.create_file(path, file.entry.mode & 0o777)?;
        handle.set_len(file.length).with_context(|| at(path, "extend"))?;
        self.shared.handles.add(number, path.to_owned(), handle);
        for (index, region) in file.regions.iter().enumerate() {
            let before = self.batch.plan.len();
            self.batch.bytes += file.add(&mut self.batch.plan, &mut self.maps, number, index as u64, region)?;
            self.shared.handles.expect(number, self.batch.plan.len() - before);
            if self.batch.plan.len() >= BATCH_PIECES || self.batch.bytes >= BATCH_BYTES {
                self.flush()?;
            }
        }
        self.shared.handles.planned(number);
        Ok(())
    }

    /// Hands the batch to the workers, each in a part of its own.
    fn flush(&mut self) -> Result<()> {
        let jobs = std::mem::take(&mut self.batch).plan.into_jobs(COALESCE_GAP);
        for job in in_lanes(jobs, self.lanes) {
            if self.shared.failed.load(Ordering::Relaxed) || self.jobs.send(job.into()).is_err() {
                return Err(anyhow!("the restore was stopped"));
            }
        }
        Ok(())
    }

    /// Reads a short file into memory.
    fn keep(&mut self, file: &StoredFile<'_>) -> Result<Kept> {
        let object = || format!("'{}' in the backup", file.entry.display_path());
        if file.length > MAXIMUM_KEPT {
            return Err(Error::damaged(object(), format_args!("it has {} bytes", file.length)).into());
        }
        let mut content = vec![0; file.length as usize];
        let mut plan = ReadPlan::default();
        for (index, region) in file.regions.iter().enumerate() {
            file.add(&mut plan, &mut self.maps, 0, index as u64, region)?;
        }
        let mut reader = JobReader::new()?;
        for job in plan.into_jobs(COALESCE_GAP) {
            let read = reader.run(self.shared.repository, &job, &mut |piece, bytes| {
                let start = usize::try_from(piece.file_offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(bytes.len());
                let place =
                    content.get_mut(start..end).ok_or_else(|| Error::damaged(object(), "bytes behind its end"))?;
                place.copy_from_slice(bytes);
                Ok(())
            });
            let fetched = read.map_err(as_damage)?;
            self.shared.fetched.fetch_add(fetched, Ordering::Relaxed);
        }
        Ok(Kept { content, modified: file.entry.modified })
    }
}

/// A regular file of the backup.
struct StoredFile<'a> {
    entry: &'a FileEntry,
    length: u64,
    body: Body,
    regions: &'a [NodeRef],
}

impl StoredFile<'_> {
    /// Adds a region's pieces and returns its length, which must be what the file's length says.
    fn add(&self, plan: &mut ReadPlan, maps: &mut Maps<'_>, number: u32, index: u64, region: &NodeRef) -> Result<u64> {
        let start = index * REGION;
        let expected = self.length.saturating_sub(start).min(REGION);
        let map = maps.get(self.body, region).map_err(as_damage)?;
        let found = match &map {
            Map::Pages(map) => map.length(),
            Map::Bytes(map) => map.length(),
        };
        match map {
            _ if found != expected => {}
            Map::Pages(map) => plan.add_pages(number, start, &map),
            Map::Bytes(map) => plan.add_bytes(number, start, &map),
        }
        if found == expected {
            Ok(expected)
        } else {
            let object = format!("'{}' in the backup", self.entry.display_path());
            Err(Error::damaged(object, format_args!("its map at {start} covers {found} bytes, expected {expected}"))
                .into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::in_lanes;

    #[test]
    fn lanes_hold_every_item_once() {
        let lanes = |items, lanes| in_lanes((0..items).collect(), lanes).collect::<Vec<_>>();
        assert_eq!(lanes(7, 3), [0, 3, 6, 1, 4, 2, 5]);
        assert_eq!(lanes(2, 8), [0, 1]);
        assert_eq!(lanes(0, 2), [0; 0]);
    }
}
