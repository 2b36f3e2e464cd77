//! Pack tables, and index objects that gather them.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::codec;
use crate::container::{Compressor, Container, ContainerKind, ContainerWriter, Decompressor, FramePosition};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::node::Location;
use crate::repository::{Repository, layout};
use crate::storage::ObjectKey;

const PACK_TABLE_VERSION: u8 = 1;
const INDEX_VERSION: u8 = 1;

/// Which of the two kinds of pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PackKind {
    /// File data, below `packs/`.
    Data,
    /// Maps and lists, below `nodes/`.
    Nodes,
}

impl PackKind {
    /// The container kind of such packs.
    pub const fn container(self) -> ContainerKind {
        match self {
            Self::Data => ContainerKind::Pack,
            Self::Nodes => ContainerKind::Nodes,
        }
    }

    /// The key of a pack of this kind.
    pub fn key(self, id: PackId) -> Result<ObjectKey> {
        match self {
            Self::Data => layout::pack(id),
            Self::Nodes => layout::nodes(id),
        }
    }

    /// The prefix of all packs of this kind.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Data => layout::PACKS,
            Self::Nodes => layout::NODES,
        }
    }
}

/// A chunk inside a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FrameChunk {
    pub(crate) id: ChunkId,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// A pack's table: its frames, and the chunks in each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PackTable {
    pub(crate) frames: Vec<(FramePosition, Vec<FrameChunk>)>,
}

impl PackTable {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        codec::encode(PACK_TABLE_VERSION, self)
    }

    /// Every chunk with its place in the pack.
    pub(crate) fn chunks(&self, pack: PackId) -> impl Iterator<Item = (ChunkId, Location)> + '_ {
        self.frames.iter().flat_map(move |(frame, chunks)| {
            chunks.iter().map(move |chunk| {
                (chunk.id, Location { pack, frame: *frame, offset: chunk.offset, length: chunk.length })
            })
        })
    }
}

/// A pack and what is in it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexedPack {
    /// Its name.
    pub id: PackId,
    /// Its kind.
    pub kind: PackKind,
    /// Its size in bytes.
    pub length: u64,
    pub(crate) table: PackTable,
}

impl IndexedPack {
    /// Every chunk with its place.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkId, Location)> + '_ {
        self.table.chunks(self.id)
    }

    /// How many chunks there are.
    pub fn chunk_count(&self) -> usize {
        self.table.frames.iter().map(|(_, chunks)| chunks.len()).sum()
    }
}

/// Reads a pack's own table.
pub fn read_pack_table(repository: &Repository, kind: PackKind, id: PackId, length: u64) -> Result<IndexedPack> {
    let key = kind.key(id)?;
    let container = Container::open_sized(repository.storage(), &key, length, kind.container(), repository.id())?;
    let table = codec::decode(PACK_TABLE_VERSION, container.table()).map_err(|e| Error::undecodable(&key, &e))?;
    Ok(IndexedPack { id, kind, length, table })
}

/// Publishes an index object for these packs. Its key is free by construction; durable on return.
pub fn write_index_object(repository: &Repository, packs: &[IndexedPack], at: Ulid) -> Result<(ObjectKey, u64)> {
    let mut compressor = Compressor::new(3)?;
    let mut writer = ContainerWriter::start(repository.storage(), ContainerKind::Index, repository.id())?;
    let mut frames = Vec::with_capacity(packs.len());
    for pack in packs {
        frames.push(writer.append(&compressor.encode(&codec::encode(INDEX_VERSION, pack))?)?);
    }
    let table = compressor.encode(&codec::encode(INDEX_VERSION, &frames))?;
    let finished = writer.finish(&table, |hash| layout::index(at, hash))?;
    Ok((finished.key, finished.length))
}

/// Hands every pack of an index object to `visit`, one at a time.
pub fn read_index_object(
    repository: &Repository,
    key: &ObjectKey,
    mut visit: impl FnMut(IndexedPack) -> Result<()>,
) -> Result<()> {
    let container = Container::open(repository.storage(), key, ContainerKind::Index, repository.id())?;
    let frames: Vec<FramePosition> =
        codec::decode(INDEX_VERSION, container.table()).map_err(|e| Error::undecodable(key, &e))?;
    let mut decompressor = Decompressor::new()?;
    for frame in frames {
        let mut plaintext = Vec::new();
        container.frame(repository.storage(), frame, &mut decompressor, &mut plaintext)?;
        visit(codec::decode(INDEX_VERSION, &plaintext).map_err(|e| Error::undecodable(key, &e))?)?;
    }
    Ok(())
}

/// Looks for a chunk in all index objects, then in the tables of packs that no index object names. Damaged ones are passed
/// over: the chunk may be named elsewhere.
pub(crate) fn find_in_objects(repository: &Repository, id: ChunkId) -> Result<Option<Location>> {
    let mut indexed = std::collections::HashSet::new();
    for object in repository.storage().list(layout::INDEX)? {
        let mut found = None;
        let outcome = read_index_object(repository, &object.key, |pack| {
            indexed.insert(pack.id);
            if found.is_none()
                && let Some((_, location)) = pack.chunks().find(|(chunk, _)| *chunk == id)
                && repository.storage().size(&pack.kind.key(pack.id)?)? == Some(pack.length)
            {
                found = Some(location);
            }
            Ok(())
        });
        if found.is_some() {
            return Ok(found);
        }
        pass_over_damage(outcome)?;
    }
    for kind in [PackKind::Data, PackKind::Nodes] {
        for info in repository.storage().list(kind.prefix())? {
            let Some(pack) = layout::pack_of(&info.key).filter(|pack| !indexed.contains(pack)) else { continue };
            match read_pack_table(repository, kind, pack, info.size) {
                Ok(table) => {
                    if let Some((_, location)) = table.chunks().find(|(chunk, _)| *chunk == id) {
                        return Ok(Some(location));
                    }
                }
                Err(error) => pass_over_damage(Err(error))?,
            }
        }
    }
    Ok(None)
}

fn pass_over_damage(outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(error @ (Error::Damaged { .. } | Error::NotFound { .. } | Error::Unsupported { .. })) => {
            tracing::warn!("passed over in the search for a chunk: {error}");
            Ok(())
        }
        other => other,
    }
}
