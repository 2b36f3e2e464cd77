//! A copy from what a server sends: archives one behind the other, their files in the server's order.
//!
//! The bytes pass once, so that a region is gathered in memory before a worker takes it. There are as many buffers as
//! workers and one more: the server is as fast as they are.

use std::collections::HashSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use walkeep_chunkstore::ingest::{FileHead, FileKind, FileOrder, FileSum, IngestWorker};
use walkeep_chunkstore::node::{Body, REGION};
use walkeep_proto::backup_manifest::BackupManifest;
use walkeep_proto::data_directory::{Treatment, exclusion};
use walkeep_proto::identity::Oid;
use walkeep_proto::replication::base_backup::ArchiveCompression;

use super::entry::{EntryHead, EntryKind, PartReader, WINDOW};
use super::merge::{self, PartialFile};
use super::region::{Buffer, Content, Task};
use super::{Feeder, Lane, manifest, region_of};
use crate::backup::LOOK;
use crate::backup::incoming::{Begun, Event, Incoming};
use crate::backup::incremental::{Merger, partial_of};
use crate::backup::parent::ParentIndex;
use crate::backup::scan::{CONTROL_FILE, PlannedKind, kind_of};
use crate::postgres::connection::BackupEnd;

/// The server's own description of the backup, which comes with the data directory.
const LABEL: &[u8] = b"backup_label";
const TABLESPACE_MAP: &[u8] = b"tablespace_map";
/// Most bytes of a file that is kept in memory whole: a map of ten thousand tablespaces has a few.
const LARGEST_TEXT: u64 = 16 << 20;
/// Most bytes of a manifest: two million files.
const LARGEST_MANIFEST: usize = 512 << 20;

/// Feeds a copy from a base backup that is being received.
pub struct ArchiveFeeder<'a> {
    incoming: Incoming<'a>,
    begun: Begun,
    unpacked: Unpacked<'a>,
    end: Option<(BackupManifest, BackupEnd)>,
}

/// What was received, beside the files that were stored.
pub struct Streamed {
    /// How it ended.
    pub end: BackupEnd,
    /// `backup_label`, byte for byte.
    pub backup_label: String,
    /// `tablespace_map`, byte for byte; empty without tablespaces.
    pub tablespace_map: String,
    /// `pg_control`, as it was stored.
    pub control: Vec<u8>,
}

/// Files that come out of the archives.
struct Unpacked<'a> {
    parents: &'a ParentIndex,
    /// Where the server sends only what has changed.
    merger: Option<Merger>,
    /// Files that are not stored as they came.
    completed: HashSet<Vec<u8>>,
    buffers: Buffers,
    /// Of the files that are not stored as such.
    sums: Vec<FileSum>,
    backup_label: Option<Vec<u8>>,
    tablespace_map: Vec<u8>,
    control: Option<Vec<u8>>,
}

impl<'a> ArchiveFeeder<'a> {
    /// A feeder for `jobs` workers. `merger` completes what comes in part.
    pub fn new(
        incoming: Incoming<'a>,
        begun: Begun,
        parents: &'a ParentIndex,
        merger: Option<Merger>,
        jobs: usize,
    ) -> Self {
        let unpacked = Unpacked {
            parents,
            merger,
            completed: HashSet::new(),
            buffers: Buffers::new(jobs + 1),
            sums: Vec::new(),
            backup_label: None,
            tablespace_map: Vec::new(),
            control: None,
        };
        Self { incoming, begun, unpacked, end: None }
    }

    /// Compares what was received with the server's manifest, and gives what the backup's root needs. `stored` are the
    /// files that the copy has stored.
    pub fn finish(self, stored: Vec<FileSum>) -> Result<Streamed> {
        let (manifest, end) = self.end.context("the base backup was not received to its end")?;
        let Unpacked { mut sums, completed, backup_label, tablespace_map, control, .. } = self.unpacked;
        // The manifest has what came of these, not what was made of it.
        sums.extend(stored.into_iter().filter(|sum| !completed.contains(&sum.path)));
        manifest::compare(&manifest, sums, self.begun.start, end.position)
            .context("unable to accept what the server has sent")?;
        let text = |bytes| String::from_utf8(bytes).context("the server's backup_label or tablespace_map is no UTF-8");
        Ok(Streamed {
            end,
            backup_label: text(backup_label.context("the server has sent no backup_label")?)?,
            tablespace_map: text(tablespace_map)?,
            control: control.context("the server has sent no global/pg_control")?,
        })
    }

    fn archive(
        &mut self,
        tablespace: Option<Oid>,
        compression: ArchiveCompression,
        lane: &mut Lane<'_, '_, '_>,
    ) -> Result<()> {
        let mut reader = PartReader::new(&mut self.incoming);
        let outcome = match compression {
            ArchiveCompression::None => self.unpacked.entries(&mut reader, tablespace, lane),
            ArchiveCompression::Zstd => {
                decoder(&mut reader).and_then(|mut decoder| self.unpacked.entries(&mut decoder, tablespace, lane))
            }
        };
        reader.settle(outcome)
    }

    fn manifest(&mut self) -> Result<BackupManifest> {
        let mut bytes = Vec::new();
        let mut reader = PartReader::new(&mut self.incoming);
        let read = (&mut reader).take(LARGEST_MANIFEST as u64 + 1).read_to_end(&mut bytes);
        reader.settle(read.map(drop).context("unable to receive the manifest"))?;
        ensure!(bytes.len() <= LARGEST_MANIFEST, "the server's manifest has more than {LARGEST_MANIFEST} bytes");
        BackupManifest::parse(&bytes).context("unable to understand what the server has sent")
    }
}

impl Feeder for ArchiveFeeder<'_> {
    const ORDER: FileOrder = FileOrder::Any;

    fn total(&self) -> u64 {
        self.begun.tablespaces.iter().map(|tablespace| tablespace.kilobytes.saturating_mul(1024)).sum()
    }

    fn feed(&mut self, lane: &mut Lane<'_, '_, '_>) -> Result<()> {
        let mut manifest = None;
        loop {
            match self.incoming.next()? {
                Event::Archive(tablespace, compression) => self.archive(tablespace, compression, lane)?,
                Event::Manifest => manifest = Some(self.manifest()?),
                Event::End(end) => {
                    let manifest = manifest.context("the server has sent no manifest")?;
                    self.end = Some((manifest, end));
                    return Ok(());
                }
                // The last batch may have nothing in it.
                Event::Data(data) if data.is_empty() => {}
                Event::Begun(_) | Event::Data(_) => bail!("the server's data has no place"),
            }
        }
    }

    /// A server sends its control file last.
    fn feed_last(&mut self, worker: IngestWorker) -> Result<()> {
        Ok(worker.finish()?)
    }
}

fn decoder<R: Read>(reader: R) -> Result<zstd::Decoder<'static, io::BufReader<R>>> {
    let started = zstd::Decoder::new(reader).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW)?;
        Ok(decoder)
    });
    started.context("unable to start decompressing")
}

impl Unpacked<'_> {
    fn entries(&mut self, reader: impl Read, tablespace: Option<Oid>, lane: &mut Lane<'_, '_, '_>) -> Result<()> {
        let mut archive = tar::Archive::new(reader);
        let broken = "unable to understand the server's archive";
        for entry in archive.entries().context(broken)? {
            self.entry(entry.context(broken)?, tablespace, lane)?;
        }
        Ok(())
    }

    fn entry<R: Read>(
        &mut self,
        mut entry: tar::Entry<'_, R>,
        tablespace: Option<Oid>,
        lane: &mut Lane<'_, '_, '_>,
    ) -> Result<()> {
        let head = EntryHead::of(&entry, tablespace)?;
        let relative = str::from_utf8(&head.path).ok();
        let treatment = relative.map_or(Treatment::Copy, |path| exclusion(path, head.kind == EntryKind::Directory));
        match (head.kind, treatment) {
            (EntryKind::Link, _) | (EntryKind::Directory, Treatment::SkipFile) => Ok(()),
            (EntryKind::Directory, _) => lane.file(head.of_kind(FileKind::Directory), 0).map(drop),
            (EntryKind::File, _) if head.path == LABEL => {
                self.backup_label = Some(self.text(&mut entry, &head)?);
                Ok(())
            }
            (EntryKind::File, _) if head.path == TABLESPACE_MAP => {
                self.tablespace_map = self.text(&mut entry, &head)?;
                Ok(())
            }
            (EntryKind::File, Treatment::Copy) => match self.merger.as_ref().and_then(|_| partial_of(&head.path)) {
                Some(path) => self.partial_file(&mut entry, head, path, lane),
                None => self.file(&mut entry, &head, relative, lane),
            },
            // Its sum is in the manifest like that of any other.
            (EntryKind::File, _) => self.skip(&mut entry, &head),
        }
        .map_err(|error| error.context("unable to unpack the server's archive"))
    }

    /// Announces a file and hands out its regions as they come.
    fn file(
        &mut self,
        entry: &mut impl Read,
        head: &EntryHead,
        relative: Option<&str>,
        lane: &mut Lane<'_, '_, '_>,
    ) -> Result<()> {
        let kind = relative.map_or(PlannedKind::Bytes, kind_of);
        let body = if kind == PlannedKind::Bytes { Body::Bytes } else { Body::Pages };
        let regions = u32::try_from(head.size.div_ceil(REGION)).context("a file of over 64 PiB")?;
        let number = lane.file(head.of_kind(FileKind::File { body }), regions)?;
        let path = Arc::<[u8]>::from(&*head.path);
        for region in 0..regions {
            let length = (head.size - u64::from(region) * REGION).min(REGION);
            let mut buffer = self.buffers.take(lane)?;
            let bytes = buffer.room(usize::try_from(length).context("a region larger than memory")?);
            entry.read_exact(bytes).with_context(|| head.unreadable())?;
            if head.path == CONTROL_FILE {
                self.control = Some(bytes.to_vec());
            }
            lane.shared.read_bytes.fetch_add(length, Ordering::Relaxed);
            lane.region(Task {
                path: Arc::clone(&path),
                kind: kind.clone(),
                place: (number, region),
                length,
                content: Content::Memory(buffer),
                parent: self.parents.find(&head.path).and_then(|content| region_of(content, body, region)),
            })?;
        }
        Ok(())
    }

    /// The same for a file that came in part.
    fn partial_file(
        &mut self,
        entry: &mut impl Read,
        head: EntryHead,
        path: Vec<u8>,
        lane: &mut Lane<'_, '_, '_>,
    ) -> Result<()> {
        let Some(merger) = &self.merger else { return Ok(()) };
        let old = merger.old_file(&path, self.parents)?;
        self.completed.insert(path.clone());
        let kind = FileKind::File { body: Body::Pages };
        let file =
            PartialFile { sent_as: &head.path, head: FileHead { path, ..head.of_kind(kind) }, length: head.size, old };
        let sum = merge::feed(file, entry, merger, &mut self.buffers, lane).with_context(|| head.unreadable())?;
        self.sums.push(sum);
        Ok(())
    }

    fn text(&mut self, entry: &mut impl Read, head: &EntryHead) -> Result<Vec<u8>> {
        ensure!(head.size <= LARGEST_TEXT, "{} has {} bytes", head.display_path(), head.size);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).with_context(|| head.unreadable())?;
        let (length, crc32c) = (bytes.len() as u64, crc32c::crc32c(&bytes));
        self.sums.push(FileSum { path: head.path.clone(), length, crc32c });
        Ok(bytes)
    }

    fn skip(&mut self, entry: &mut impl Read, head: &EntryHead) -> Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut sum = FileSum { path: head.path.clone(), length: 0, crc32c: 0 };
        loop {
            match entry.read(&mut buffer).with_context(|| head.unreadable())? {
                0 => break,
                count => {
                    sum.length += count as u64;
                    sum.crc32c = crc32c::crc32c_append(sum.crc32c, &buffer[..count]);
                }
            }
        }
        self.sums.push(sum);
        Ok(())
    }
}

impl EntryHead {
    fn of_kind(&self, kind: FileKind) -> FileHead {
        FileHead { path: self.path.clone(), mode: self.mode, modified: self.modified, kind }
    }

    fn display_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }

    fn unreadable(&self) -> String {
        format!("unable to receive '{}'", self.display_path())
    }
}

/// A fixed number of buffers, each made when it is first needed.
pub(super) struct Buffers {
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
    unmade: usize,
}

impl Buffers {
    fn new(count: usize) -> Self {
        let (home, free) = unbounded();
        Self { free, home, unmade: count }
    }

    /// Waits until a worker has given one back.
    pub(super) fn take(&mut self, lane: &mut Lane<'_, '_, '_>) -> Result<Buffer> {
        let bytes = loop {
            match self.free.try_recv() {
                Ok(bytes) => break bytes,
                Err(_) if self.unmade > 0 => {
                    self.unmade -= 1;
                    break Vec::new();
                }
                Err(_) => {}
            }
            match self.free.recv_timeout(LOOK) {
                Ok(bytes) => break bytes,
                Err(RecvTimeoutError::Timeout) => lane.check()?,
                Err(RecvTimeoutError::Disconnected) => bail!("no buffer comes back"),
            }
        };
        Ok(Buffer { bytes, home: self.home.clone() })
    }
}
