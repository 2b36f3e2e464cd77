//! Which backups cannot do without certain objects.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::id::PackId;
use crate::index::PackKind;
use crate::node::{Body, FileContent, NodeStore};
use crate::repository::{BackupManifest, Repository};
use crate::storage::{ObjectInfo, ObjectKey, ObjectWriter, Storage};

/// A repository as if some of its objects were gone; nothing can be changed in it.
#[derive(Clone, Debug)]
pub(super) struct Lacking {
    pub storage: Arc<dyn Storage>,
    pub gone: HashSet<ObjectKey>,
}

impl Lacking {
    /// Fails with what is gone when the backup needs it.
    pub fn check(&self, manifest: &BackupManifest) -> Result<()> {
        let repository = Arc::new(Repository::open(Arc::new(self.clone()))?);
        let nodes = NodeStore::new(repository);
        for list in &manifest.file_lists {
            for entry in nodes.file_list(list)?.entries {
                let FileContent::File { body, regions, .. } = &entry.content else { continue };
                for node in regions {
                    let chunks = match body {
                        Body::Pages => nodes.page_map(node)?.map.chunks().to_vec(),
                        Body::Bytes => nodes.byte_map(node)?.chunks,
                    };
                    chunks.iter().try_for_each(|chunk| self.look_for(chunk.location.pack))?;
                }
            }
        }
        Ok(())
    }

    fn look_for(&self, pack: PackId) -> Result<()> {
        let key = PackKind::Data.key(pack)?;
        if self.gone.contains(&key) { Err(gone(&key)) } else { Ok(()) }
    }
}

impl Storage for Lacking {
    fn location(&self) -> String {
        self.storage.location()
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        if self.gone.contains(key) {
            return Err(gone(key));
        }
        self.storage.get_range(key, range)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        if self.gone.contains(key) { Ok(None) } else { self.storage.size(key) }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut listed = self.storage.list(prefix)?;
        listed.retain(|info| !self.gone.contains(&info.key));
        Ok(listed)
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Err(read_only())
    }

    fn overwrite(&self, _key: &ObjectKey, _bytes: &[u8]) -> Result<()> {
        Err(read_only())
    }

    fn delete(&self, _key: &ObjectKey) -> Result<()> {
        Err(read_only())
    }

    fn make_durable(&self, _key: &ObjectKey) -> Result<()> {
        Err(read_only())
    }
}

fn gone(key: &ObjectKey) -> Error {
    Error::damaged(key, "it is not copied")
}

fn read_only() -> Error {
    Error::Invalid("this view of a repository cannot be changed".to_owned())
}
