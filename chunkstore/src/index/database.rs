//! The RocksDB copy of the index.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, IteratorMode, Options, WriteBatch};

use super::object::{IndexedPack, PackKind, read_index_object, read_pack_table};
use crate::container::FramePosition;
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::node::Location;
use crate::repository::{Repository, layout};
use crate::storage::ObjectKey;

/// `chunk id → location` for file data.
const CHUNKS: &str = "chunks";
/// `chunk id → location` for nodes.
const NODES: &str = "nodes";
/// `pack id → number`.
const PACKS: &str = "packs";
/// `index object key → ()`: objects whose packs are all in.
const APPLIED: &str = "applied";

/// Memory for RocksDB's blocks, indexes and filters, whatever the size of the store.
const CACHE_BYTES: usize = 32 << 20;
/// Memory for entries on their way to disk, per column family.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// A row's value: five numbers of four bytes.
const ROW: usize = 20;
/// Its presence says that the database was found damaged and must be built anew.
const BROKEN: &str = "DAMAGED";

/// What [`ChunkIndex::open`] had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// Index objects read.
    pub index_objects: usize,
    /// Packs whose own table was read because no index object names them: left by a backup that was killed.
    pub orphan_packs: usize,
    /// Whether the directory was unusable and started anew.
    pub recreated: bool,
}

/// What is known of a pack.
#[derive(Clone, Copy)]
struct PackRow {
    id: PackId,
    kind: PackKind,
    /// Whether an index object names it.
    indexed: bool,
    /// Its length when it was taken in.
    length: u64,
    /// Whether the latest listing has it, with that length.
    present: bool,
    /// Not found wanting in this run.
    trusted: bool,
}

/// Bytes of a pack's row.
const PACK_ROW: usize = 14;

impl PackRow {
    /// As stored behind the pack's id: number, kind, indexed, length.
    fn value(&self, number: u32) -> [u8; PACK_ROW] {
        let mut value = [0; PACK_ROW];
        value[..4].copy_from_slice(&number.to_le_bytes());
        value[4] = u8::from(self.kind == PackKind::Nodes);
        value[5] = u8::from(self.indexed);
        value[6..].copy_from_slice(&self.length.to_le_bytes());
        value
    }

    fn parse(id: PackId, value: &[u8]) -> Option<(u32, Self)> {
        let value: &[u8; PACK_ROW] = value.try_into().ok()?;
        let [a, b, c, d, kind, indexed, length @ ..] = *value;
        let kind = if kind == 1 { PackKind::Nodes } else { PackKind::Data };
        let row =
            Self { id, kind, indexed: indexed == 1, length: u64::from_le_bytes(length), present: false, trusted: true };
        Some((u32::from_le_bytes([a, b, c, d]), row))
    }
}

/// Packs that are found wanting.
#[derive(Clone, Copy, Debug)]
pub enum Suspects {
    /// All packs of nodes: where one cannot be read, others were never looked at, and together they are small.
    Nodes,
    /// One pack.
    Pack(PackId),
}

impl Suspects {
    fn contains(self, pack: &PackRow) -> bool {
        match self {
            Self::Nodes => pack.kind == PackKind::Nodes,
            Self::Pack(id) => pack.id == id,
        }
    }
}

#[derive(Default)]
struct Packs {
    rows: Vec<PackRow>,
    numbers: HashMap<PackId, u32>,
}

impl Packs {
    fn get(&self, id: &PackId) -> Option<&PackRow> {
        self.numbers.get(id).and_then(|number| self.rows.get(*number as usize))
    }
}

/// Look-ups of chunks in a local database. Shared by threads.
pub struct ChunkIndex {
    database: DB,
    path: PathBuf,
    packs: RwLock<Packs>,
    /// Packs that no index object names; the next index object must.
    orphans: parking_lot::Mutex<Vec<IndexedPack>>,
    distrusted: AtomicU64,
}

impl ChunkIndex {
    /// Opens the database, brings it up to date with the repository, and rebuilds it if it is missing or broken.
    pub fn open(path: &Path, repository: &Arc<Repository>) -> Result<(Self, RebuildReport)> {
        let mut report = RebuildReport::default();
        std::fs::create_dir_all(path).map_err(|e| Error::storage("create", path.display(), e))?;
        let mut index = None;
        if !path.join(BROKEN).exists() {
            match open_database(path) {
                Ok(database) => index = Self::with(database, path).ok(),
                Err(error) if is_locked(&error) => {
                    let problem = "another process has it open".to_owned();
                    return Err(Error::Conflict { object: format!("index at '{}'", path.display()), problem });
                }
                Err(error) if is_damage(&error) => tracing::warn!("index at '{}': {error}", path.display()),
                Err(error) => return Err(failed(path, error)),
            }
        }
        let index = match index {
            Some(index) => index,
            None => {
                tracing::warn!("index at '{}' is unusable and is built anew", path.display());
                report.recreated = true;
                DB::destroy(&Options::default(), path).map_err(|e| failed(path, e))?;
                let database = open_database(path).map_err(|e| failed(path, e))?;
                // What `destroy` does not know, the marker among it, stays: it must not condemn the new one too.
                match std::fs::remove_file(path.join(BROKEN)) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::storage("remove", path.join(BROKEN).display(), e));
                    }
                    _ => Self::with(database, path)?,
                }
            }
        };
        index.catch_up(repository, &mut report)?;
        Ok((index, report))
    }

    fn with(database: DB, path: &Path) -> Result<Self> {
        let index = Self {
            database,
            path: path.to_owned(),
            packs: RwLock::default(),
            orphans: parking_lot::Mutex::default(),
            distrusted: AtomicU64::default(),
        };
        if index.load_packs()? {
            Ok(index)
        } else {
            Err(Error::Invalid(format!("index at '{}' numbers its packs wrongly", path.display())))
        }
    }

    /// Where the chunk is, if it is known and its pack exists.
    pub fn find(&self, kind: PackKind, id: &ChunkId) -> Result<Option<Location>> {
        let row = match self.database.get_pinned_cf(self.family(kind)?, id.as_bytes()) {
            Ok(row) => row,
            Err(error) if is_damage(&error) => {
                // Knowing less than there is costs space, never data; the next run starts with a new index.
                tracing::warn!("index at '{}' is damaged: {error}", self.path.display());
                std::fs::write(self.path.join(BROKEN), b"").ok();
                return Ok(None);
            }
            Err(error) => return Err(self.failed(error)),
        };
        let Some(row) = row else { return Ok(None) };
        let Ok(row) = <[u8; ROW]>::try_from(&row[..]) else { return Ok(None) };
        let number = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let packs = self.packs.read();
        let Some(pack) = packs.rows.get(number(0) as usize).filter(|pack| pack.present && pack.trusted) else {
            return Ok(None);
        };
        let frame = FramePosition { offset: u64::from(number(4)), length: number(8) };
        Ok(Some(Location { pack: pack.id, frame, offset: number(12), length: number(16) }))
    }

    /// Whether the pack was there when the repository was last listed, or was added since.
    pub fn has_pack(&self, id: &PackId) -> bool {
        // Nodes are read before they are used, data is not.
        let is_good = |pack: &PackRow| pack.present && (pack.trusted || pack.kind == PackKind::Nodes);
        self.packs.read().get(id).is_some_and(is_good)
    }

    /// From now on, and until the index is opened again, nothing is [found](ChunkIndex::find) in these packs: one of them was
    /// damaged or gone when it was read. What they hold is stored anew. What was read and found good may still be used.
    pub fn distrust(&self, suspects: Suspects) {
        for pack in &mut self.packs.write().rows {
            if suspects.contains(pack) && pack.trusted {
                pack.trusted = false;
                self.distrusted.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// How many packs have been distrusted: what was found before that may be in one of them.
    pub fn distrusted(&self) -> u64 {
        self.distrusted.load(Ordering::SeqCst)
    }

    /// Whether a pack of this name is distrusted.
    pub fn is_distrusted(&self, id: &PackId) -> bool {
        self.packs.read().get(id).is_some_and(|pack| !pack.trusted)
    }

    /// The length a pack had when it was taken in.
    pub fn pack_length(&self, id: &PackId) -> Option<u64> {
        self.packs.read().get(id).map(|pack| pack.length)
    }

    /// Takes in a pack that is durable in the repository, in one atomic step.
    pub fn insert(&self, pack: &IndexedPack, in_index_object: bool) -> Result<()> {
        let row = PackRow {
            id: pack.id,
            kind: pack.kind,
            indexed: in_index_object,
            length: pack.length,
            present: true,
            trusted: true,
        };
        let mut packs = self.packs.write();
        let number = match packs.numbers.get(&pack.id) {
            Some(number) => *number,
            None => u32::try_from(packs.rows.len()).map_err(|_| Error::Invalid("too many packs".to_owned()))?,
        };
        let family = self.family(pack.kind)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.cf(PACKS)?, pack.id.as_bytes(), row.value(number));
        for (id, location) in pack.chunks() {
            // A pack is far smaller than 4 GiB; an entry that says otherwise is left out, which is always allowed.
            let Ok(offset) = u32::try_from(location.frame.offset) else { continue };
            let mut value = [0; ROW];
            let fields = [number, offset, location.frame.length, location.offset, location.length];
            for (place, field) in value.chunks_exact_mut(4).zip(fields) {
                place.copy_from_slice(&field.to_le_bytes());
            }
            batch.put_cf(family, id.as_bytes(), value);
        }
        self.database.write(batch).map_err(|e| self.failed(e))?;
        match packs.rows.get_mut(number as usize) {
            Some(known) => *known = row,
            None => {
                packs.rows.push(row);
                packs.numbers.insert(pack.id, number);
            }
        }
        Ok(())
    }

    /// Remembers that an index object, durable now, names these packs.
    pub fn mark_indexed(&self, object: &ObjectKey, packs: &[IndexedPack]) -> Result<()> {
        let mut known = self.packs.write();
        let mut batch = WriteBatch::default();
        for pack in packs {
            let Some(number) = known.numbers.get(&pack.id).copied() else { continue };
            if let Some(row) = known.rows.get_mut(number as usize) {
                row.indexed = true;
                batch.put_cf(self.cf(PACKS)?, row.id.as_bytes(), row.value(number));
            }
        }
        batch.put_cf(self.cf(APPLIED)?, object.as_str(), []);
        self.database.write(batch).map_err(|e| self.failed(e))
    }

    /// Packs that were found without an index object. The caller writes one for them with its own packs.
    pub fn take_orphans(&self) -> Vec<IndexedPack> {
        std::mem::take(&mut self.orphans.lock())
    }

    /// Reads the numbers of all packs. Says whether they make sense.
    fn load_packs(&self) -> Result<bool> {
        let mut rows = Vec::new();
        for row in self.database.iterator_cf(self.cf(PACKS)?, IteratorMode::Start) {
            let (key, value) = row.map_err(|e| self.failed(e))?;
            let id = <[u8; 32]>::try_from(&key[..]).ok().map(PackId::new);
            rows.extend(id.and_then(|id| PackRow::parse(id, &value)));
        }
        rows.sort_by_key(|(number, _)| *number);
        let mut packs = self.packs.write();
        for (number, row) in rows {
            if number as usize != packs.rows.len() {
                return Ok(false);
            }
            packs.numbers.insert(row.id, number);
            packs.rows.push(row);
        }
        Ok(true)
    }

    /// Lists the repository: marks packs that are there, takes in index objects and orphan packs that are new.
    fn catch_up(&self, repository: &Arc<Repository>, report: &mut RebuildReport) -> Result<()> {
        let mut listed = HashMap::new();
        for kind in [PackKind::Data, PackKind::Nodes] {
            for info in repository.storage().list(kind.prefix())? {
                if let Some(id) = layout::pack_of(&info.key) {
                    listed.insert(id, (kind, info.size));
                }
            }
        }
        for row in &mut self.packs.write().rows {
            // One that is shorter or longer than it was is as good as gone: nothing is deduplicated against it.
            row.present = listed.get(&row.id) == Some(&(row.kind, row.length));
        }
        self.apply_index_objects(repository, &listed, report)?;
        let indexed = |id: &PackId| self.packs.read().get(id).is_some_and(|pack| pack.indexed);
        let orphans: Vec<(PackId, PackKind, u64)> =
            listed.iter().filter(|(id, _)| !indexed(id)).map(|(id, (kind, size))| (*id, *kind, *size)).collect();
        for (id, kind, size) in orphans {
            match read_pack_table(repository, kind, id, size) {
                Ok(pack) => {
                    self.insert(&pack, false)?;
                    self.orphans.lock().push(pack);
                    report.orphan_packs += 1;
                }
                // It serves nobody, so it hinders nobody; `verify` names it.
                Err(error) => tracing::warn!("an orphan pack is left alone: {error}"),
            }
        }
        Ok(())
    }

    fn apply_index_objects(
        &self,
        repository: &Arc<Repository>,
        listed: &HashMap<PackId, (PackKind, u64)>,
        report: &mut RebuildReport,
    ) -> Result<()> {
        let applied = self.cf(APPLIED)?;
        for object in repository.storage().list(layout::INDEX)? {
            let name = object.key.as_str().as_bytes();
            if self.database.get_pinned_cf(applied, name).map_err(|e| self.failed(e))?.is_some() {
                continue;
            }
            let outcome = read_index_object(repository, &object.key, |pack| {
                let there = listed.get(&pack.id).is_some_and(|(kind, size)| *kind == pack.kind && *size == pack.length);
                let indexed = self.packs.read().get(&pack.id).is_some_and(|known| known.indexed);
                if there && !indexed { self.insert(&pack, true) } else { Ok(()) }
            });
            match outcome {
                Ok(()) => self.database.put_cf(applied, name, []).map_err(|e| self.failed(e))?,
                // Its packs are read one by one instead.
                Err(error) => tracing::warn!("an index object is passed over: {error}"),
            }
            report.index_objects += 1;
        }
        Ok(())
    }

    fn family(&self, kind: PackKind) -> Result<&rocksdb::ColumnFamily> {
        self.cf(match kind {
            PackKind::Data => CHUNKS,
            PackKind::Nodes => NODES,
        })
    }

    fn cf(&self, name: &str) -> Result<&rocksdb::ColumnFamily> {
        let missing = || Error::Invalid(format!("index at '{}' has no '{name}'", self.path.display()));
        self.database.cf_handle(name).ok_or_else(missing)
    }

    fn failed(&self, source: rocksdb::Error) -> Error {
        failed(&self.path, source)
    }
}

fn failed(path: &Path, source: rocksdb::Error) -> Error {
    Error::Index { path: path.display().to_string(), source }
}

/// RocksDB's words for a lock held by this or another process (`env/fs_posix.cc`).
fn is_locked(error: &rocksdb::Error) -> bool {
    let text: &str = error.as_ref();
    text.starts_with("IO error: lock hold by current process") || text.starts_with("IO error: While lock file")
}

/// Whether the database itself is bad, not the disk or the rights. Its directory is there, so what is missing is a part.
fn is_damage(error: &rocksdb::Error) -> bool {
    use rocksdb::ErrorKind;
    let text: &str = error.as_ref();
    matches!(error.kind(), ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound)
        || text.starts_with("IO error: No such file or directory")
}

fn open_database(path: &Path) -> Result<DB, rocksdb::Error> {
    let cache = Cache::new_hyper_clock_cache(CACHE_BYTES, 0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_ribbon_filter(9.9);
    table.set_block_size(8 << 10);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_open_files(256);
    options.set_max_background_jobs(2);
    // Tables are few: sixteen threads for each column family cost more than they open.
    options.set_max_file_opening_threads(1);
    options.set_keep_log_file_num(2);
    options.set_paranoid_checks(true);
    let families = [CHUNKS, NODES, PACKS, APPLIED].map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    DB::open_cf_descriptors(&options, path, families)
}
