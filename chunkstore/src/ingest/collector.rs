//! The collector: the one thread that writes packs, and puts maps, lists and index objects together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam_channel::Receiver;
use ulid::Ulid;

use super::pack_stream::PackStream;
use super::{FRAME_TARGET, FileOrder, FrameSlot, Message, PendingChunk, RegionContent, Shared, WAITING_WEIGHT};
use crate::container::Compressor;
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::index::{ChunkIndex, FrameChunk, IndexedPack, PackKind, write_index_object};
use crate::node::{Body, ByteMap, EncodedNode, FileContent, FileEntry, FileList, FileListBuilder, Location, NodeRef};
use crate::repository::{Repository, layout};

/// Chunks after which an index object is written without waiting for the end.
const INDEX_OBJECT_CHUNKS: usize = 500_000;

/// What stands at a path, before its content is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: Vec<u8>,
    },
    /// A regular file.
    File {
        /// How its regions are described.
        body: Body,
    },
}

/// A file's name and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileHead {
    /// Path below the data directory.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, seconds since 1970.
    pub modified: i64,
    /// What it is.
    pub kind: FileKind,
}

/// A region that a worker has finished.
pub(crate) struct RegionMessage {
    pub(crate) file: u64,
    pub(crate) region: u32,
    pub(crate) length: u64,
    pub(crate) crc32c: u32,
    pub(crate) content: RegionContent,
}

/// Length and CRC-32C of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSum {
    /// Path below the data directory.
    pub path: Vec<u8>,
    /// Bytes.
    pub length: u64,
    /// CRC-32C of the content.
    pub crc32c: u32,
}

/// What a finished ingest gives to the backup's root.
#[derive(Clone, Debug, Default)]
pub struct Ingested {
    /// The file lists, in order of path.
    pub file_lists: Vec<NodeRef>,
    /// The regular files, sorted by path, where they came in no order: for who knows what they should be.
    pub sums: Vec<FileSum>,
    /// Regular files.
    pub files: u64,
    /// Bytes of all files.
    pub logical_bytes: u64,
    /// Plaintext bytes that no earlier object held.
    pub new_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Bytes of maps, lists and index objects among them.
    pub node_bytes: u64,
    /// Pages that differed from the parent's.
    pub changed_pages: u64,
    /// Pages in all relation files.
    pub pages: u64,
}

/// A node that may still be on its way into a pack.
#[derive(Clone)]
enum PendingNode {
    Stored(NodeRef),
    InFlight { id: ChunkId, slot: Arc<FrameSlot>, offset: u32, length: u32 },
}

impl PendingNode {
    fn resolve(&self) -> Option<NodeRef> {
        match self {
            Self::Stored(node) => Some(*node),
            Self::InFlight { id, slot, offset, length } => {
                let (pack, frame) = *slot.get()?;
                Some(NodeRef { id: *id, location: Location { pack, frame, offset: *offset, length: *length } })
            }
        }
    }
}

struct RegionResult {
    length: u64,
    crc32c: u32,
    node: Option<PendingNode>,
}

struct PendingFile {
    head: FileHead,
    expected: u32,
    deferred: bool,
    regions: BTreeMap<u32, RegionResult>,
}

impl PendingFile {
    fn is_resolved(&self) -> bool {
        let resolved = |region: &RegionResult| region.node.as_ref().is_some_and(|node| node.resolve().is_some());
        self.regions.len() == self.expected as usize && self.regions.values().all(resolved)
    }

    /// The entry. Regions behind the end that the file turned out to have are empty and left out.
    fn into_entry(self) -> FileEntry {
        let FileHead { path, mode, modified, kind } = self.head;
        let content = match kind {
            FileKind::Directory => FileContent::Directory,
            FileKind::Symlink { target } => FileContent::Symlink { target },
            FileKind::File { body } => {
                let (mut length, mut crc32c, mut regions) = (0, 0, Vec::new());
                for region in self.regions.into_values().filter(|region| region.length > 0) {
                    crc32c = crc32c::crc32c_combine(crc32c, region.crc32c, region.length as usize);
                    length += region.length;
                    regions.extend(region.node.and_then(|node| node.resolve()));
                }
                FileContent::File { length, crc32c, body, regions }
            }
        };
        FileEntry { path, mode, modified, content }
    }
}

/// Nodes gathered into one frame.
#[derive(Default)]
struct NodeFrame {
    plaintext: Vec<u8>,
    chunks: Vec<FrameChunk>,
    slot: Arc<FrameSlot>,
}

pub(super) struct Collector {
    shared: Arc<Shared>,
    data: PackStream,
    nodes: PackStream,
    compressor: Compressor,
    node_frame: NodeFrame,
    nodes_in_flight: HashMap<ChunkId, PendingNode>,
    /// Regions whose chunks are not all in sealed packs.
    waiting: Vec<RegionMessage>,
    waiting_weight: u64,
    files: BTreeMap<u64, PendingFile>,
    next_file: u64,
    /// Files that come last, and where among the lists theirs belongs.
    deferred: BTreeMap<u64, (usize, PendingFile)>,
    list: FileListBuilder,
    /// Complete files that came in no order.
    unsorted: Vec<FileEntry>,
    lists: Vec<PendingNode>,
    sealed: Vec<IndexedPack>,
    sealed_chunks: usize,
    referenced: HashSet<(PackKind, PackId)>,
    outcome: Ingested,
}

impl Collector {
    pub(super) fn new(shared: Arc<Shared>) -> Result<Self> {
        Ok(Self {
            data: PackStream::new(Arc::clone(&shared), PackKind::Data)?,
            nodes: PackStream::new(Arc::clone(&shared), PackKind::Nodes)?,
            compressor: Compressor::new(shared.options.compression_level)?,
            node_frame: NodeFrame::default(),
            nodes_in_flight: HashMap::new(),
            waiting: Vec::new(),
            waiting_weight: 0,
            files: BTreeMap::new(),
            next_file: 0,
            deferred: BTreeMap::new(),
            list: FileListBuilder::default(),
            unsorted: Vec::new(),
            lists: Vec::new(),
            sealed: shared.index.take_orphans(),
            sealed_chunks: 0,
            referenced: HashSet::new(),
            outcome: Ingested::default(),
            shared,
        })
    }

    pub(super) fn run(mut self, receiver: &Receiver<Message>) -> Result<Ingested> {
        for message in receiver {
            if self.shared.aborted.load(Ordering::Relaxed) {
                break;
            }
            match message {
                Message::Frame { frame, chunks, slot } => {
                    if let Some(pack) = self.data.append(&frame, chunks, slot)? {
                        self.data_pack_sealed(pack)?;
                    }
                }
                Message::File { number, head, regions, deferred } => {
                    let file = PendingFile { head, expected: regions, deferred, regions: BTreeMap::new() };
                    self.files.insert(number, file);
                    self.emit_files()?;
                }
                Message::Region(region) => self.region(region)?,
            }
        }
        if self.shared.aborted.load(Ordering::SeqCst) {
            return Err(Error::GivenUp);
        }
        self.finish()
    }

    fn region(&mut self, region: RegionMessage) -> Result<()> {
        if let RegionContent::Pages(map) = &region.content {
            self.outcome.changed_pages += map.changed_pages;
        }
        let page_size = u64::from(self.shared.options.page_size);
        self.outcome.pages += match &region.content {
            RegionContent::Pages(map) => map.page_count(),
            RegionContent::Unchanged { .. } => region.length.div_ceil(page_size),
            RegionContent::Bytes(_) => 0,
        };
        if let Some(region) = self.describe(region)? {
            self.wait(region);
        }
        if self.waiting_weight >= WAITING_WEIGHT {
            self.seal_data()?;
        }
        self.emit_files()
    }

    fn wait(&mut self, region: RegionMessage) {
        self.waiting_weight += region.content.weight();
        self.waiting.push(region);
    }

    /// Makes the region's node if all its chunks have a place; gives the region back otherwise.
    fn describe(&mut self, region: RegionMessage) -> Result<Option<RegionMessage>> {
        let node = match &region.content {
            RegionContent::Unchanged { node, packs } => {
                self.referenced.extend(packs.iter().map(|pack| (PackKind::Data, *pack)));
                Some(PendingNode::Stored(*node))
            }
            RegionContent::Pages(map) => match map.resolve() {
                None => return Ok(Some(region)),
                Some(resolved) => {
                    let resolved = resolved?;
                    self.referenced.extend(resolved.packs().map(|pack| (PackKind::Data, pack)));
                    let base = map.base();
                    self.referenced.extend(base.map(|base| (PackKind::Nodes, base.node.location.pack)));
                    Some(self.store_node(&resolved.to_node(base))?)
                }
            },
            RegionContent::Bytes(chunks) => {
                let resolved: Option<Vec<_>> = chunks.iter().map(PendingChunk::resolve).collect();
                let Some(chunks) = resolved else { return Ok(Some(region)) };
                self.referenced.extend(chunks.iter().map(|chunk| (PackKind::Data, chunk.location.pack)));
                Some(self.store_node(&EncodedNode::ByteMap(ByteMap { chunks }.to_encoded()))?)
            }
        };
        let file = match self.files.get_mut(&region.file) {
            Some(file) => Some(file),
            None => self.deferred.get_mut(&region.file).map(|(_, file)| file),
        };
        let Some(file) = file else {
            return Err(Error::Invalid(format!("a region of unknown file {}", region.file)));
        };
        let RegionMessage { length, crc32c, region, .. } = region;
        file.regions.insert(region, RegionResult { length, crc32c, node });
        Ok(None)
    }

    /// Stores a node unless the repository has it.
    fn store_node(&mut self, node: &EncodedNode) -> Result<PendingNode> {
        let plaintext = node.to_bytes();
        let id = self.shared.repository.keys().chunk_id(&plaintext);
        if let Some(location) = self.shared.index.find(PackKind::Nodes, &id)? {
            return Ok(PendingNode::Stored(NodeRef { id, location }));
        }
        if let Some(pending) = self.nodes_in_flight.get(&id) {
            return Ok(pending.clone());
        }
        let frame = &mut self.node_frame;
        let too_large = |_| Error::Invalid(format!("a node of {} bytes is too large", plaintext.len()));
        let offset = u32::try_from(frame.plaintext.len()).map_err(too_large)?;
        let length = u32::try_from(plaintext.len()).map_err(too_large)?;
        frame.plaintext.extend_from_slice(&plaintext);
        frame.chunks.push(FrameChunk { id, offset, length });
        let pending = PendingNode::InFlight { id, slot: Arc::clone(&frame.slot), offset, length };
        self.nodes_in_flight.insert(id, pending.clone());
        if frame.plaintext.len() >= FRAME_TARGET {
            self.flush_nodes()?;
        }
        Ok(pending)
    }

    fn flush_nodes(&mut self) -> Result<()> {
        let NodeFrame { plaintext, chunks, slot } = std::mem::take(&mut self.node_frame);
        if chunks.is_empty() {
            return Ok(());
        }
        let frame = self.compressor.encode(&plaintext)?;
        let sealed = self.nodes.append(&frame, chunks, slot)?;
        sealed.map_or(Ok(()), |pack| self.pack_sealed(pack))
    }

    fn data_pack_sealed(&mut self, pack: IndexedPack) -> Result<()> {
        self.pack_sealed(pack)?;
        self.waiting_weight = 0;
        for region in std::mem::take(&mut self.waiting) {
            if let Some(region) = self.describe(region)? {
                self.wait(region);
            }
        }
        self.emit_files()
    }

    fn pack_sealed(&mut self, pack: IndexedPack) -> Result<()> {
        if pack.kind == PackKind::Nodes {
            self.outcome.node_bytes += pack.length;
            for (id, _) in pack.chunks() {
                self.nodes_in_flight.remove(&id);
            }
        }
        self.sealed_chunks += pack.chunk_count();
        self.sealed.push(pack);
        if self.sealed_chunks >= INDEX_OBJECT_CHUNKS { self.write_index() } else { Ok(()) }
    }

    fn write_index(&mut self) -> Result<()> {
        let packs = std::mem::take(&mut self.sealed);
        self.sealed_chunks = 0;
        if packs.is_empty() {
            return Ok(());
        }
        let (key, length) = write_index_object(&self.shared.repository, &packs, Ulid::generate())?;
        self.shared.index.mark_indexed(&key, &packs)?;
        self.shared.stored_bytes.fetch_add(length, Ordering::Relaxed);
        self.outcome.node_bytes += length;
        Ok(())
    }

    /// Moves files that are complete, in order, into file lists.
    fn emit_files(&mut self) -> Result<()> {
        while self.files.get(&self.next_file).is_some_and(|file| file.deferred || file.is_resolved()) {
            let Some(file) = self.files.remove(&self.next_file) else { break };
            let number = self.next_file;
            self.next_file += 1;
            if file.deferred {
                // Its list will stand here; the next files begin another one.
                if let Some(list) = self.list.finish() {
                    self.store_list(&list)?;
                }
                self.deferred.insert(number, (self.lists.len(), file));
                continue;
            }
            let entry = self.count(file.into_entry());
            match self.shared.options.order {
                FileOrder::ByPath => self.list_entry(entry)?,
                FileOrder::Any => self.unsorted.push(entry),
            }
        }
        Ok(())
    }

    fn list_entry(&mut self, entry: FileEntry) -> Result<()> {
        self.list.push(entry).map_or(Ok(()), |list| self.store_list(&list))
    }

    /// Lists the files that came in no order.
    fn emit_unsorted(&mut self) -> Result<()> {
        let mut entries = std::mem::take(&mut self.unsorted);
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        if let Some([twice, _]) = entries.array_windows().find(|[a, b]| a.path == b.path) {
            return Err(Error::Invalid(format!("'{}' came twice", twice.display_path())));
        }
        for entry in entries {
            if let FileContent::File { length, crc32c, .. } = entry.content {
                self.outcome.sums.push(FileSum { path: entry.path.clone(), length, crc32c });
            }
            self.list_entry(entry)?;
        }
        Ok(())
    }

    /// Counts an entry that is about to enter a list.
    fn count(&mut self, entry: FileEntry) -> FileEntry {
        if let FileContent::File { length, regions, .. } = &entry.content {
            self.outcome.files += 1;
            self.outcome.logical_bytes += length;
            self.referenced.extend(regions.iter().map(|node| (PackKind::Nodes, node.location.pack)));
        }
        entry
    }

    /// Puts the lists of deferred files into their places, the last place first.
    fn emit_deferred(&mut self) -> Result<()> {
        for (_, (place, file)) in std::mem::take(&mut self.deferred).into_iter().rev() {
            if !file.is_resolved() {
                return Err(unread(&file));
            }
            let entry = self.count(file.into_entry());
            let node = self.store_node(&EncodedNode::FileList(FileList { entries: vec![entry] }.to_encoded()))?;
            self.lists.insert(place, node);
        }
        Ok(())
    }

    fn store_list(&mut self, list: &FileList) -> Result<()> {
        let node = self.store_node(&EncodedNode::FileList(list.to_encoded()))?;
        self.lists.push(node);
        Ok(())
    }

    fn finish(mut self) -> Result<Ingested> {
        self.seal_data()?;
        self.seal_nodes()?;
        self.emit_files()?;
        if let Some(file) = self.files.values().next() {
            return Err(unread(file));
        }
        self.emit_unsorted()?;
        if let Some(list) = self.list.finish() {
            self.store_list(&list)?;
        }
        self.emit_deferred()?;
        self.seal_nodes()?;
        self.write_index()?;
        let lists: Option<Vec<NodeRef>> = self.lists.iter().map(PendingNode::resolve).collect();
        let lists = lists.ok_or_else(|| Error::Invalid("a file list has no place".to_owned()))?;
        self.referenced.extend(lists.iter().map(|node| (PackKind::Nodes, node.location.pack)));
        check_packs(&self.shared.repository, &self.shared.index, &self.referenced)?;
        let shared = &self.shared;
        Ok(Ingested {
            file_lists: lists,
            new_bytes: shared.new_bytes.load(Ordering::SeqCst),
            stored_bytes: shared.stored_bytes.load(Ordering::SeqCst),
            ..self.outcome
        })
    }

    fn seal_nodes(&mut self) -> Result<()> {
        self.flush_nodes()?;
        self.nodes.seal()?.into_iter().try_for_each(|pack| self.pack_sealed(pack))
    }

    fn seal_data(&mut self) -> Result<()> {
        self.data.seal()?.into_iter().try_for_each(|pack| self.data_pack_sealed(pack))
    }
}

fn unread(file: &PendingFile) -> Error {
    let path = String::from_utf8_lossy(&file.head.path).into_owned();
    Error::Invalid(format!("'{path}' was not read to its end"))
}

/// Looks for every pack that the backup refers to in a fresh listing: what is not there cannot be restored.
fn check_packs(repository: &Repository, index: &ChunkIndex, referenced: &HashSet<(PackKind, PackId)>) -> Result<()> {
    for kind in [PackKind::Data, PackKind::Nodes] {
        let listed = repository.storage().list(kind.prefix())?;
        let there: HashMap<PackId, u64> =
            listed.iter().filter_map(|info| Some((layout::pack_of(&info.key)?, info.size))).collect();
        let whole = |pack: &PackId| there.get(pack).is_some_and(|size| index.pack_length(pack) == Some(*size));
        let missing = referenced.iter().find(|(of, pack)| *of == kind && !whole(pack));
        if let Some((_, pack)) = missing {
            let key = kind.key(*pack)?;
            return Err(Error::not_found(format_args!("pack '{key}', which the backup refers to,")));
        }
    }
    Ok(())
}
