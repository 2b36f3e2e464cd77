//! Making room: what every mirror has need not stay here for ever.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::storage::Places;
use super::watch::named_at;
use super::{Class, Keep, MirroredStorage};
use crate::error::Result;
use crate::repository::layout::{CLUSTERS, PACKS};
use crate::storage::{ObjectInfo, ObjectKey, Storage};

impl MirroredStorage {
    /// Removes packs of data and WAL here that are older than `window` and that every mirror lists with the same size.
    /// Returns how many objects and bytes. What backups are compared with (nodes, index, roots) stays.
    pub fn forget_older(&self, window: Duration, now: SystemTime) -> Result<(u64, u64)> {
        let places = &self.places;
        if places.keep != Keep::Recent {
            return Ok((0, 0));
        }
        let (mut objects, mut bytes) = (0, 0);
        for (prefix, class) in [(PACKS, Class::Packs), (CLUSTERS, Class::Wal)] {
            let old = places.older(prefix, class, window, now)?;
            if old.is_empty() {
                continue;
            }
            let everywhere = places.in_every_mirror(prefix)?;
            for info in old.iter().filter(|info| everywhere.get(&info.key) == Some(&info.size)) {
                places.local.delete(&info.key)?;
                objects += 1;
                bytes += info.size;
            }
        }
        Ok((objects, bytes))
    }
}

impl Places {
    fn older(&self, prefix: &str, class: Class, window: Duration, now: SystemTime) -> Result<Vec<ObjectInfo>> {
        let is_old = |info: &ObjectInfo| {
            let age = named_at(&self.local, &info.key).and_then(|named| now.duration_since(named).ok());
            age.is_some_and(|age| age > window)
        };
        let listed = self.local.list(prefix)?.into_iter();
        Ok(listed.filter(|info| Class::of(&info.key) == Some(class) && is_old(info)).collect())
    }

    /// Objects that all mirrors list with one size.
    fn in_every_mirror(&self, prefix: &str) -> Result<HashMap<ObjectKey, u64>> {
        let mut common: Option<HashMap<ObjectKey, u64>> = None;
        for remote in &self.remotes {
            let listed: HashMap<_, _> =
                remote.storage.list(prefix)?.into_iter().map(|info| (info.key, info.size)).collect();
            common = Some(match common {
                None => listed,
                Some(mut common) => {
                    common.retain(|key, size| listed.get(key) == Some(size));
                    common
                }
            });
        }
        Ok(common.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::{Durability, Remote};
    use crate::storage::{LocalStorage, MemoryStorage};
    use std::sync::Arc;

    #[test]
    fn only_what_is_old_and_mirrored_goes() {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalStorage::open(directory.path()).unwrap();
        let remote = MemoryStorage::new();
        let mirrors = vec![Remote { storage: Arc::new(remote.clone()), durability: Durability::Local }];
        let storage = MirroredStorage::new(local, mirrors, Keep::Recent).unwrap();
        let put = |key: &str, mirrored: &[u8]| {
            let key = ObjectKey::new(key).unwrap();
            storage.put_if_absent(&key, b"bytes").unwrap();
            if !mirrored.is_empty() {
                remote.put_if_absent(&key, mirrored).unwrap();
            }
        };
        put("packs/00/mirrored", b"bytes");
        put("packs/00/shorter-there", b"byte");
        put("packs/00/missing-there", b"");
        put("nodes/00/mirrored", b"bytes");
        put("clusters/a/wal/1/mirrored", b"bytes");
        put("clusters/a/backups/1", b"bytes");
        let hour = Duration::from_secs(3600);
        let now = SystemTime::now();
        assert_eq!(storage.forget_older(hour, now).unwrap(), (0, 0), "all of it is young");
        assert_eq!(storage.forget_older(hour, now + 2 * hour).unwrap(), (2, 10));
        let left: Vec<_> = storage.list_at_hand("").unwrap().into_iter().map(|info| info.key.to_string()).collect();
        let expected =
            ["clusters/a/backups/1", "nodes/00/mirrored", "packs/00/missing-there", "packs/00/shorter-there"];
        assert_eq!(left, expected);
        assert_eq!(
            storage.get(&ObjectKey::new("packs/00/mirrored").unwrap(), 10).unwrap(),
            b"bytes",
            "from the mirror"
        );
    }
}
