//! The earlier backup that a new one compares with.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::Error;
use walkeep_chunkstore::index::{ChunkIndex, Suspects};
use walkeep_chunkstore::node::{FileContent, FileEntry, NodeRef, NodeStore};
use walkeep_chunkstore::repository::{BackupManifest, ClusterIdentity};

use crate::context::Context;

/// The earlier backups of the same cluster, as far as a new one wants to know of them.
#[derive(Default)]
pub struct Earlier {
    /// The newest that can be read.
    pub parent: Option<BackupManifest>,
    /// When the newest was started that has read everything.
    pub read_everything: Option<Timestamp>,
}

/// The newest readable backup of the same cluster. Fingerprints decide what is stored, so any is right; the newest is
/// cheapest. One that cannot be read is passed over: the new backup stores what it must.
pub fn choose(context: &Context, identity: &ClusterIdentity) -> Result<Earlier> {
    let suits = |manifest: &BackupManifest| {
        manifest.system_identifier == identity.system_identifier
            && manifest.major == identity.major
            && manifest.page_size == identity.page_size
            && manifest.pages_per_segment == identity.pages_per_segment
    };
    let listed = context.repository.backups(&context.layout)?;
    let mut suitable = listed.into_iter().rev().filter_map(|backup| match backup.manifest {
        Ok(manifest) => suits(&manifest).then_some(manifest),
        Err(error) => {
            tracing::warn!("backup '{}' cannot be compared with: {error}", backup.id);
            None
        }
    });
    let parent = suitable.next();
    let has_read_everything = |manifest: &&BackupManifest| manifest.kind.has_read_everything();
    let read_everything = match parent.as_ref().filter(has_read_everything) {
        Some(parent) => Some(parent.started),
        None => suitable.find(|manifest| has_read_everything(&manifest)).map(|manifest| manifest.started),
    };
    Ok(Earlier { parent, read_everything })
}

/// Walks a parent's file lists beside the sorted files of the new backup, one list in memory at a time.
pub struct ParentFiles {
    nodes: Arc<NodeStore>,
    lists: VecDeque<NodeRef>,
    entries: VecDeque<FileEntry>,
}

impl ParentFiles {
    /// The files of `parent`; none without one.
    pub fn new(nodes: Arc<NodeStore>, parent: Option<&BackupManifest>) -> Self {
        let lists = parent.map(|parent| parent.file_lists.iter().copied().collect()).unwrap_or_default();
        Self { nodes, lists, entries: VecDeque::new() }
    }

    /// The parent's entry of this path. Paths must be asked for in ascending order.
    pub fn find(&mut self, path: &[u8]) -> Option<FileEntry> {
        loop {
            while let Some(entry) = self.entries.front() {
                match entry.path.as_slice().cmp(path) {
                    std::cmp::Ordering::Less => drop(self.entries.pop_front()),
                    std::cmp::Ordering::Equal => return self.entries.pop_front(),
                    std::cmp::Ordering::Greater => return None,
                }
            }
            let list = self.lists.pop_front()?;
            match self.nodes.file_list(&list) {
                Ok(list) => self.entries.extend(list.entries),
                Err(error) => tracing::warn!("a file list of the parent is passed over: {error}"),
            }
        }
    }
}

/// Has the index distrust the repository's nodes if a list of `parent` is damaged or gone: before anything is stored, so that
/// nothing refers to them.
pub fn check_lists(nodes: &NodeStore, parent: Option<&BackupManifest>, index: &ChunkIndex) {
    let is_damaged = |list| nodes.file_list(list).is_err_and(is_damage);
    if parent.into_iter().flat_map(|parent| &parent.file_lists).any(is_damaged) {
        index.distrust(Suspects::Nodes);
    }
}

/// Whether an object is damaged or gone, and not only out of reach.
pub fn is_damage(error: Error) -> bool {
    matches!(error.of_parent(), Error::UnusableParent { .. })
}

/// A parent's files for whoever asks for them in no order: all of them in memory, some 150 bytes each.
pub struct ParentIndex {
    files: HashMap<Vec<u8>, FileContent>,
    is_whole: bool,
}

impl ParentIndex {
    /// The files of `parent`; none without one. A list that cannot be read is passed over.
    pub fn new(nodes: &NodeStore, parent: Option<&BackupManifest>) -> Self {
        let (mut files, mut is_whole) = (HashMap::new(), true);
        for list in parent.into_iter().flat_map(|parent| &parent.file_lists) {
            match nodes.file_list(list) {
                Ok(list) => files.extend(list.entries.into_iter().map(|entry| (entry.path, entry.content))),
                Err(error) => {
                    tracing::warn!("a file list of the parent is passed over: {error}");
                    is_whole = false;
                }
            }
        }
        Self { files, is_whole }
    }

    /// Whether no list was passed over.
    pub const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &FileContent)> {
        self.files.iter().map(|(path, content)| (path.as_slice(), content))
    }

    /// What the parent has at this path.
    pub fn find(&self, path: &[u8]) -> Option<&FileContent> {
        self.files.get(path)
    }
}
