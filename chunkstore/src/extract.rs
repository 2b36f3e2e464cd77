//! From chunks back to bytes: reads grouped by pack, in few requests, every chunk verified by its id.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::container::{Decompressor, FramePosition, read_frame};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::node::{ByteMap, ChunkRef, Location, PageMap, PageSource};
use crate::repository::{Repository, layout};

/// For restores: unneeded bytes between two frames that are fetched along rather than asked for separately.
pub const COALESCE_GAP: u64 = 1 << 20;
/// Most bytes of one request.
const MAXIMUM_RANGE: u64 = 8 << 20;

/// A run of bytes of some file and the place in a chunk where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The caller's number of the file.
    pub file: u32,
    /// Where the run goes in the file.
    pub file_offset: u64,
    /// Where it begins in the chunk's plaintext.
    pub chunk_offset: u32,
    /// Bytes in the run.
    pub length: u32,
}

/// Pieces still to be read, by chunk.
#[derive(Default)]
pub struct ReadPlan {
    chunks: HashMap<ChunkId, (Location, Vec<Piece>)>,
    pieces: usize,
}

impl ReadPlan {
    /// Adds the pages of one region of a file that begins at `start`. Holes are not read: the file is sparse there.
    pub fn add_pages(&mut self, file: u32, start: u64, map: &PageMap) {
        let page_size = u64::from(map.page_size());
        for extent in map.extents() {
            let PageSource::Chunk { chunk, page } = extent.source else { continue };
            let Some(chunk) = map.chunks().get(chunk as usize) else { continue };
            let offset = u64::from(extent.at) * page_size;
            let length = (u64::from(extent.pages) * page_size).min(map.length().saturating_sub(offset));
            // Both fit: a chunk is no longer than a frame.
            let (Ok(chunk_offset), Ok(length)) = (u32::try_from(u64::from(page) * page_size), u32::try_from(length))
            else {
                continue;
            };
            self.add(chunk, Piece { file, file_offset: start + offset, chunk_offset, length });
        }
    }

    /// Adds one page of a region. Nothing is read for a hole.
    pub fn add_page(&mut self, file: u32, map: &PageMap, page: u32) {
        let Some(&PageSource::Chunk { chunk, page }) = map.pages().get(page as usize) else { return };
        let Some(chunk) = map.chunks().get(chunk as usize) else { return };
        // It fits: a chunk is no longer than a frame.
        let Ok(chunk_offset) = u32::try_from(u64::from(page) * u64::from(map.page_size())) else { return };
        self.add(chunk, Piece { file, file_offset: 0, chunk_offset, length: map.page_size() });
    }

    /// Adds the bytes of one region of a file that begins at `start`.
    pub fn add_bytes(&mut self, file: u32, start: u64, map: &ByteMap) {
        let mut file_offset = start;
        for chunk in &map.chunks {
            let length = chunk.location.length;
            self.add(chunk, Piece { file, file_offset, chunk_offset: 0, length });
            file_offset += u64::from(length);
        }
    }

    fn add(&mut self, chunk: &ChunkRef, piece: Piece) {
        self.pieces += 1;
        self.chunks.entry(chunk.id).or_insert_with(|| (chunk.location, Vec::new())).1.push(piece);
    }

    /// How many pieces there are: a measure of the plan's memory.
    pub fn len(&self) -> usize {
        self.pieces
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// The requests, pack by pack in order of position. Up to `gap` unneeded bytes between two frames are fetched along.
    pub fn into_jobs(self, gap: u64) -> Vec<ReadJob> {
        let mut packs: BTreeMap<PackId, BTreeMap<FramePosition, Vec<WantedChunk>>> = BTreeMap::new();
        for (id, (location, pieces)) in self.chunks {
            let frames = packs.entry(location.pack).or_default();
            frames.entry(location.frame).or_default().push(WantedChunk { id, location, pieces });
        }
        let mut jobs = Vec::new();
        for (pack, frames) in packs {
            let mut job: Option<ReadJob> = None;
            for (frame, wanted) in frames {
                let end = frame.offset.saturating_add(u64::from(frame.length));
                match &mut job {
                    Some(open)
                        if frame.offset <= open.range.end.saturating_add(gap)
                            && end - open.range.start <= MAXIMUM_RANGE =>
                    {
                        open.range.end = open.range.end.max(end);
                        open.frames.push((frame, wanted));
                    }
                    _ => {
                        jobs.extend(job.take());
                        job = Some(ReadJob { pack, range: frame.offset..end, frames: vec![(frame, wanted)] });
                    }
                }
            }
            jobs.extend(job);
        }
        jobs
    }
}

struct WantedChunk {
    id: ChunkId,
    location: Location,
    pieces: Vec<Piece>,
}

/// One request to one pack and what to do with its answer.
pub struct ReadJob {
    pack: PackId,
    range: Range<u64>,
    frames: Vec<(FramePosition, Vec<WantedChunk>)>,
}

impl ReadJob {
    /// The pack that is read.
    pub const fn pack(&self) -> PackId {
        self.pack
    }

    /// Bytes that [`ReadJob::fetch`] takes into memory: at most 8 MiB, or one frame.
    pub fn stored_bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Makes the request. Where each one waits for a network, many threads do this and few [`JobReader::deliver`].
    pub fn fetch(&self, repository: &Repository) -> Result<Fetched> {
        let key = layout::pack(self.pack)?;
        for (frame, _) in &self.frames {
            frame.check(&key)?;
        }
        match repository.storage().get_range(&key, self.range.clone()) {
            Err(missing) if missing.is_not_found() => Ok(Fetched(Err(missing))),
            other => other.map(|bytes| Fetched(Ok(bytes))),
        }
    }
}

/// The answer to a [`ReadJob`]: the range's bytes, or that there is no such pack.
pub struct Fetched(Result<Vec<u8>>);

/// Does [`ReadJob`]s, reusing its memory. One per thread.
pub struct JobReader {
    decompressor: Decompressor,
    plaintext: Vec<u8>,
}

impl JobReader {
    /// A reader.
    pub fn new() -> Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, plaintext: Vec::new() })
    }

    /// Fetches, verifies, and hands every piece with its bytes to `sink`. Returns how many stored bytes were fetched.
    pub fn run(
        &mut self,
        repository: &Repository,
        job: &ReadJob,
        sink: &mut dyn FnMut(&Piece, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        self.deliver(repository, job, &job.fetch(repository)?, sink)
    }

    /// Verifies what was fetched for `job` and hands every piece with its bytes to `sink`. Returns how many stored bytes
    /// were fetched in all.
    pub fn deliver(
        &mut self,
        repository: &Repository,
        job: &ReadJob,
        fetched: &Fetched,
        sink: &mut dyn FnMut(&Piece, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let bytes = match &fetched.0 {
            Ok(bytes) => bytes,
            Err(missing) => return self.run_moved(repository, job, missing, sink),
        };
        let key = layout::pack(job.pack)?;
        for (frame, wanted) in &job.frames {
            let start = usize::try_from(frame.offset - job.range.start).unwrap_or(usize::MAX);
            let stored = bytes.get(start..).and_then(|bytes| bytes.get(..frame.length as usize));
            let stored = stored.ok_or_else(|| Error::damaged(&key, format_args!("no frame at {}", frame.offset)))?;
            self.plaintext.clear();
            self.decompressor.decode(&key, stored, &mut self.plaintext)?;
            for chunk in wanted {
                deliver(repository, &key, chunk, &chunk.location, &self.plaintext, sink)?;
            }
        }
        Ok(bytes.len() as u64)
    }

    /// The pack is gone: its chunks may have been moved to others.
    fn run_moved(
        &mut self,
        repository: &Repository,
        job: &ReadJob,
        missing: &Error,
        sink: &mut dyn FnMut(&Piece, &[u8]) -> Result<()>,
    ) -> Result<u64> {
        let mut fetched = 0;
        for chunk in job.frames.iter().flat_map(|(_, wanted)| wanted) {
            let moved = repository.locate(chunk.id)?.ok_or_else(|| {
                Error::damaged(
                    layout::pack_name(job.pack),
                    format_args!("{missing}, and no other pack holds its chunks"),
                )
            })?;
            let key = layout::pack(moved.pack)?;
            self.plaintext.clear();
            read_frame(repository.storage(), &key, moved.frame, &mut self.decompressor, &mut self.plaintext)?;
            deliver(repository, &key, chunk, &moved, &self.plaintext, sink)?;
            fetched += u64::from(moved.frame.length);
        }
        Ok(fetched)
    }
}

fn deliver(
    repository: &Repository,
    key: &crate::storage::ObjectKey,
    chunk: &WantedChunk,
    location: &Location,
    frame: &[u8],
    sink: &mut dyn FnMut(&Piece, &[u8]) -> Result<()>,
) -> Result<()> {
    let refuse = |problem: &str| Error::damaged(key, format_args!("chunk {}: {problem}", chunk.id));
    let plaintext = frame
        .get(location.offset as usize..)
        .and_then(|bytes| bytes.get(..location.length as usize))
        .ok_or_else(|| refuse("lies outside its frame"))?;
    if repository.keys().chunk_id(plaintext) != chunk.id {
        return Err(refuse("its content has another hash"));
    }
    for piece in &chunk.pieces {
        let bytes = plaintext
            .get(piece.chunk_offset as usize..)
            .and_then(|bytes| bytes.get(..piece.length as usize))
            .ok_or_else(|| refuse("a map wants bytes behind its end"))?;
        sink(piece, bytes)?;
    }
    Ok(())
}
