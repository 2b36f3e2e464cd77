//! One archived WAL file as an object: chunks, what the segment says, and the recipe that puts it together again.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use walkeep_proto::page::is_zero_page;
use walkeep_proto::wal::SegmentScan;

use crate::chunker::ContentChunker;
use crate::codec;
use crate::container::{
    Compressor, Container, ContainerKind, ContainerWriter, Decompressor, EncodedFrame, Finished, FramePosition,
};
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::repository::Repository;
use crate::storage::ObjectKey;

/// Longest file the archive takes: the largest legal WAL segment.
pub const MAXIMUM_WAL_FILE: u64 = 1 << 30;

const TABLE_VERSION: u8 = 1;
const SUMMARY_VERSION: u8 = 1;

/// A part of the file, in order.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Part {
    /// Zero bytes.
    Zeros { length: u32 },
    /// A frame of this object.
    Here { id: ChunkId, length: u32, frame: FramePosition },
    /// A frame of another WAL object of this cluster: a tail that was stored before.
    Elsewhere { id: ChunkId, length: u32, object: String, frame: FramePosition },
}

impl Part {
    const fn length(&self) -> u32 {
        match self {
            Self::Zeros { length } | Self::Here { length, .. } | Self::Elsewhere { length, .. } => *length,
        }
    }
}

/// The object's table.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct WalTable {
    /// Length of the file.
    length: u64,
    /// Keyed hash of the whole file; its first 16 digits stand in the key.
    content: ChunkId,
    /// The segment's summary, for complete segments.
    summary: Option<FramePosition>,
    parts: Vec<Part>,
}

/// A chunk's name, its length and its frame.
type EncodedChunk = (ChunkId, u32, EncodedFrame);

/// A file cut, named, compressed and on its way to disk: all that takes time before it can be published.
pub struct PreparedFile {
    content: ChunkId,
    length: usize,
    level: i32,
    parts: Vec<Part>,
    writer: ContainerWriter,
}

impl PreparedFile {
    /// Keyed hash of the whole file.
    pub fn content(&self) -> ChunkId {
        self.content
    }

    /// Publishes the file as an object of this key.
    pub(super) fn publish(mut self, key: &ObjectKey, summary: Option<&SegmentScan>) -> Result<Finished> {
        let mut compressor = Compressor::new(self.level)?;
        let summary = summary
            .map(|scan| self.writer.append(&compressor.encode(&codec::encode(SUMMARY_VERSION, scan))?))
            .transpose()?;
        let table = WalTable { length: self.length as u64, content: self.content, summary, parts: self.parts };
        let table = compressor.encode(&codec::encode(TABLE_VERSION, &table))?;
        self.writer.finish(&table, |_| Ok(key.clone()))
    }
}

/// Cuts, names and compresses a file into an object that has no key yet. Dropped, it leaves nothing behind.
pub(super) fn prepare(repository: &Repository, kind: ContainerKind, bytes: &[u8], level: i32) -> Result<PreparedFile> {
    let zeros = bytes.len() - end_of_content(bytes);
    let writer = ContainerWriter::start(repository.storage(), kind, repository.id())?;
    let (content, assembled) = std::thread::scope(|scope| {
        let content = scope.spawn(|| repository.keys().chunk_id(bytes));
        let assembled = assemble(repository, writer, &bytes[..bytes.len() - zeros], level);
        (content.join().map_err(|_| died()), assembled)
    });
    let Assembly { writer, mut parts, .. } = assembled?;
    if zeros > 0 {
        parts.push(Part::Zeros { length: u32::try_from(zeros).map_err(|_| too_long())? });
    }
    Ok(PreparedFile { content: content?, length: bytes.len(), level, parts, writer })
}

/// Chunks come from several threads in any order and go into the object in the file's.
struct Assembly {
    writer: ContainerWriter,
    parts: Vec<Part>,
    early: BTreeMap<usize, EncodedChunk>,
}

impl Assembly {
    fn add(&mut self, index: usize, chunk: EncodedChunk) -> Result<()> {
        self.early.insert(index, chunk);
        while let Some((id, length, frame)) = self.early.remove(&self.parts.len()) {
            let frame = self.writer.append(&frame)?;
            self.parts.push(Part::Here { id, length, frame });
        }
        Ok(())
    }
}

/// Works on a file's chunks on as many threads as there are cores, four at most.
fn assemble(repository: &Repository, writer: ContainerWriter, bytes: &[u8], level: i32) -> Result<Assembly> {
    let chunker = ContentChunker::new(repository.keys().gear_table(), repository.config().chunker.wal);
    // Whoever is free cuts the next chunk: the first is compressed while the last is not found yet.
    let chunks = Mutex::new(chunker.chunks(bytes).enumerate());
    let assembly = Mutex::new(Assembly { writer, parts: Vec::new(), early: BTreeMap::new() });
    let work = || -> Result<()> {
        let mut compressor = Compressor::new(level)?;
        loop {
            let Some((index, chunk)) = chunks.lock().next() else { return Ok(()) };
            let length = u32::try_from(chunk.len()).map_err(|_| too_long())?;
            let encoded = (repository.keys().chunk_id(chunk), length, compressor.encode(chunk)?);
            assembly.lock().add(index, encoded)?;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        helpers.into_iter().map(|helper| helper.join().unwrap_or_else(|_| Err(died()))).fold(mine, Result::and)
    })?;
    Ok(assembly.into_inner())
}

fn died() -> Error {
    Error::Invalid("a compressor thread died".to_owned())
}

fn too_long() -> Error {
    Error::Invalid("a WAL file over 4 GiB".to_owned())
}

/// Where the zeros at a file's end begin: a segment that was switched is mostly zeros.
fn end_of_content(bytes: &[u8]) -> usize {
    let blocks = bytes.rchunks(4096).take_while(|block| is_zero_page(block)).map(<[u8]>::len).sum::<usize>();
    let rest = &bytes[..bytes.len() - blocks];
    rest.len() - rest.iter().rev().take_while(|byte| **byte == 0).count()
}

/// An opened object.
pub(super) struct WalObject<'a> {
    repository: &'a Repository,
    container: Container,
    table: WalTable,
}

impl<'a> WalObject<'a> {
    /// Opens an object to look at its table and summary; `length` is what a listing says.
    pub(super) fn open(repository: &'a Repository, key: &ObjectKey, length: u64, kind: ContainerKind) -> Result<Self> {
        Self::of(repository, Container::open_sized(repository.storage(), key, length, kind, repository.id())?)
    }

    /// Opens an object to look at its summary, usually in one read: see [`Container::open_end`].
    pub(super) fn open_end(
        repository: &'a Repository,
        key: &ObjectKey,
        length: u64,
        kind: ContainerKind,
    ) -> Result<Self> {
        Self::of(repository, Container::open_end(repository.storage(), key, length, kind, repository.id())?)
    }

    /// Opens an object to read the file, usually in one read: see [`Container::open_whole`].
    pub(super) fn open_whole(
        repository: &'a Repository,
        key: &ObjectKey,
        length: u64,
        kind: ContainerKind,
    ) -> Result<Self> {
        Self::of(repository, Container::open_whole(repository.storage(), key, length, kind, repository.id())?)
    }

    fn of(repository: &'a Repository, container: Container) -> Result<Self> {
        let key = container.key();
        let table: WalTable =
            codec::decode(TABLE_VERSION, container.table()).map_err(|e| Error::undecodable(key, &e))?;
        let parts: u64 = table.parts.iter().map(|part| u64::from(part.length())).sum();
        if parts != table.length || table.length > MAXIMUM_WAL_FILE {
            return Err(Error::damaged(key, format_args!("{parts} bytes in parts of a file of {}", table.length)));
        }
        Ok(Self { repository, container, table })
    }

    /// Keyed hash of the whole file, as its writer computed it.
    pub(super) fn content(&self) -> ChunkId {
        self.table.content
    }

    /// What the segment says.
    pub(super) fn summary(&self) -> Result<SegmentScan> {
        let key = self.container.key();
        let position = self.table.summary.ok_or_else(|| Error::damaged(key, "it has no summary"))?;
        let mut plaintext = Vec::new();
        self.container.frame(self.repository.storage(), position, &mut Decompressor::new()?, &mut plaintext)?;
        codec::decode(SUMMARY_VERSION, &plaintext).map_err(|e| Error::undecodable(key, &e))
    }

    /// The whole file, every chunk verified.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let storage = self.repository.storage();
        let key = self.container.key();
        let mut decompressor = Decompressor::new()?;
        // Grows as chunks arrive: a lying length allocates nothing.
        let mut bytes = Vec::new();
        for part in &self.table.parts {
            let start = bytes.len();
            let (id, length) = match part {
                Part::Zeros { length } => {
                    bytes.resize(start + *length as usize, 0);
                    continue;
                }
                Part::Here { id, length, frame } => {
                    self.container.frame(storage, *frame, &mut decompressor, &mut bytes)?;
                    (id, length)
                }
                Part::Elsewhere { id, length, object, frame } => {
                    let object = ObjectKey::new(object.clone())?;
                    crate::container::read_frame(storage, &object, *frame, &mut decompressor, &mut bytes)?;
                    (id, length)
                }
            };
            let chunk = &bytes[start..];
            if chunk.len() != *length as usize || self.repository.keys().chunk_id(chunk) != *id {
                return Err(Error::damaged(key, format_args!("its chunk at {start} has another hash")));
            }
        }
        Ok(bytes)
    }
}
