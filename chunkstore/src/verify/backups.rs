//! Backups: every reference from the root must lead to a chunk of that name.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::{Findings, PackList, VerifyOptions};
use crate::error::{Error, Result};
use crate::id::{ChunkId, PackId};
use crate::index::{PackKind, read_pack_table};
use crate::node::{Body, ChunkRef, FileContent, FileEntry, Location, NodeRef, NodeStore};
use crate::repository::layout::ClusterLayout;
use crate::repository::{BackupManifest, Repository};

/// Pack tables kept in memory.
const CACHED_TABLES: usize = 64;

/// Follows the references of all wanted backups. Returns the packs that they need.
pub(super) fn check(
    repository: &Arc<Repository>,
    layout: &ClusterLayout,
    options: &VerifyOptions,
    packs: &PackList,
    findings: &Findings<'_>,
) -> Result<HashSet<(PackKind, PackId)>> {
    let mut walker = Walker {
        repository,
        packs,
        findings,
        nodes: NodeStore::new(Arc::clone(repository)),
        tables: HashMap::new(),
        order: VecDeque::new(),
        seen: HashSet::new(),
        needed: HashSet::new(),
    };
    for backup in repository.backups(layout)? {
        if options.backup.as_ref().is_some_and(|wanted| wanted.as_str() != backup.id) {
            continue;
        }
        findings.report.lock().backups += 1;
        match backup.manifest {
            Ok(manifest) => walker.backup(&manifest)?,
            Err(error) => findings.take(format_args!("backup {}", backup.id), error)?,
        }
    }
    if let Some(id) = options.backup.as_ref().filter(|_| findings.report.lock().backups == 0) {
        return Err(Error::not_found(format_args!("backup '{id}'")));
    }
    Ok(walker.needed)
}

/// Names of the chunks in a pack and where each begins.
type Table = HashSet<(ChunkId, Location)>;

struct Walker<'a, 'f> {
    repository: &'a Arc<Repository>,
    packs: &'a PackList,
    findings: &'a Findings<'f>,
    nodes: NodeStore,
    tables: HashMap<(PackKind, PackId), Arc<Table>>,
    order: VecDeque<(PackKind, PackId)>,
    /// Nodes that an earlier backup led to: they need no second look.
    seen: HashSet<ChunkId>,
    needed: HashSet<(PackKind, PackId)>,
}

impl Walker<'_, '_> {
    fn backup(&mut self, manifest: &BackupManifest) -> Result<()> {
        let id = &manifest.id;
        for (number, list) in manifest.file_lists.iter().enumerate() {
            let object = format!("file list {number} of backup {id}");
            if !self.visit_node(list, &object)? {
                continue;
            }
            match self.nodes.file_list(list) {
                Ok(list) => list.entries.iter().try_for_each(|entry| self.file(entry, manifest))?,
                Err(error) => self.findings.take(object, error)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, entry: &FileEntry, manifest: &BackupManifest) -> Result<()> {
        let FileContent::File { length, body, regions, .. } = &entry.content else { return Ok(()) };
        let mut described = 0;
        for (number, node) in regions.iter().enumerate() {
            let object = format!("part {number} of '{}' in backup {}", entry.display_path(), manifest.id);
            let map = match body {
                Body::Pages => self.nodes.page_map(node).map(|stored| {
                    let map = stored.map;
                    (
                        map.length(),
                        map.extents().iter().filter_map(|e| used_chunk(e.source)).collect::<HashSet<_>>(),
                        map.chunks().to_vec(),
                    )
                }),
                Body::Bytes => self.nodes.byte_map(node).map(|map| {
                    let all = (0..u32::try_from(map.chunks.len()).unwrap_or(u32::MAX)).collect();
                    (map.length(), all, map.chunks)
                }),
            };
            match map {
                Ok((region_length, used, chunks)) => {
                    described += region_length;
                    if self.visit_node(node, &object)? {
                        let used = used.iter().filter_map(|chunk| chunks.get(*chunk as usize));
                        used.into_iter().try_for_each(|chunk| self.chunk(chunk, &object))?;
                    }
                }
                Err(error) => {
                    self.findings.take(object, error)?;
                    return Ok(());
                }
            }
        }
        if described != *length {
            let object = format!("'{}' in backup {}", entry.display_path(), manifest.id);
            self.findings.damage(object, format_args!("{described} bytes described of {length}"));
        }
        Ok(())
    }

    /// Checks a node's place; whether it is seen for the first time.
    fn visit_node(&mut self, node: &NodeRef, object: &str) -> Result<bool> {
        if !self.seen.insert(node.id) {
            return Ok(false);
        }
        self.place(PackKind::Nodes, node.id, node.location, object)?;
        Ok(true)
    }

    fn chunk(&mut self, chunk: &ChunkRef, object: &str) -> Result<()> {
        self.place(PackKind::Data, chunk.id, chunk.location, object)
    }

    /// Looks a reference up in the table of the pack it points into.
    fn place(&mut self, kind: PackKind, id: ChunkId, location: Location, object: &str) -> Result<()> {
        let pack = (kind, location.pack);
        self.needed.insert(pack);
        let Some(size) = self.packs.get(&pack).copied() else {
            match self.repository.locate(id) {
                Ok(Some(moved)) => drop(self.needed.insert((kind, moved.pack))),
                Err(error) => self.findings.take(object, error)?,
                Ok(None) => {
                    self.findings.damage(object, format_args!("pack '{}' is missing", kind.key(location.pack)?));
                }
            }
            return Ok(());
        };
        match self.table(pack, size) {
            Ok(table) if table.contains(&(id, location)) => {}
            Ok(_) => {
                let key = kind.key(location.pack)?;
                self.findings.damage(object, format_args!("pack '{key}' does not hold chunk {id} where it should be"));
            }
            // The pack itself is reported when it is checked; here it is said what is lost.
            Err(error) => self.findings.take(object, error)?,
        }
        Ok(())
    }

    fn table(&mut self, pack: (PackKind, PackId), size: u64) -> Result<Arc<Table>> {
        if let Some(table) = self.tables.get(&pack) {
            return Ok(Arc::clone(table));
        }
        let table: Table = read_pack_table(self.repository, pack.0, pack.1, size)?.chunks().collect();
        let table = Arc::new(table);
        self.tables.insert(pack, Arc::clone(&table));
        self.order.push_back(pack);
        if self.order.len() > CACHED_TABLES
            && let Some(oldest) = self.order.pop_front()
        {
            self.tables.remove(&oldest);
        }
        Ok(table)
    }
}

const fn used_chunk(source: crate::node::PageSource) -> Option<u32> {
    match source {
        crate::node::PageSource::Chunk { chunk, .. } => Some(chunk),
        crate::node::PageSource::Hole => None,
    }
}
