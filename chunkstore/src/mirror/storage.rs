//! A directory with mirrors: written here first, and there as soon or as late as was asked for.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::uploads::Uploads;
use super::{Class, Copying, UNDER_WAY, copy_object, missing, unless_dropped};
use crate::console::{Progress, Show};
use crate::error::{Error, Result};
use crate::storage::{LocalStorage, ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};

/// Longest description: they are a screen of text.
const MAXIMUM_DESCRIPTION: u64 = 1 << 20;

/// What success means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On this machine's disk; the agent mirrors it later.
    #[default]
    Local,
    /// In the mirror too.
    Mirror,
}

/// What stays in the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Everything: the directory is a repository by itself.
    Everything,
    /// What is recent; the rest is in the mirrors.
    Recent,
    /// What is on its way: the directory is a spool.
    Nothing,
}

/// A mirror.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Where it is.
    pub storage: Arc<dyn Storage>,
    /// Whether success waits for it.
    pub durability: Durability,
}

/// The directory and its mirrors.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) local: LocalStorage,
    pub(super) remotes: Vec<Remote>,
    pub(super) keep: Keep,
}

/// A directory whose objects are mirrored. Reads prefer the directory; where it does not keep everything, the first mirror
/// serves the rest.
#[derive(Clone)]
pub struct MirroredStorage {
    pub(super) places: Arc<Places>,
    uploads: Arc<OnceLock<Uploads>>,
}

impl std::fmt::Debug for MirroredStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.places.fmt(f)
    }
}

impl MirroredStorage {
    /// Puts a directory and its mirrors together. Only with mirrors may it keep less than everything.
    pub fn new(local: LocalStorage, remotes: Vec<Remote>, keep: Keep) -> Result<Self> {
        if remotes.is_empty() && keep != Keep::Everything {
            return Err(Error::Invalid("a directory without a mirror must keep everything".to_owned()));
        }
        Ok(Self { places: Arc::new(Places { local, remotes, keep }), uploads: Arc::default() })
    }

    /// The directory.
    pub fn local(&self) -> &LocalStorage {
        &self.places.local
    }

    /// The mirrors.
    pub fn remotes(&self) -> &[Remote] {
        &self.places.remotes
    }

    /// Whether success waits for a mirror.
    pub fn waits(&self) -> bool {
        self.places.waits()
    }

    fn uploads(&self) -> &Uploads {
        self.uploads.get_or_init(|| {
            let places = Arc::clone(&self.places);
            Uploads::start(move |key| places.upload(key).map(|_| ()))
        })
    }

    /// Sees to it that what was just written here gets to where success waits for it.
    fn published(&self, key: &ObjectKey, put: Put) -> Result<Put> {
        let places = &self.places;
        if !places.waits() {
            return Ok(put);
        }
        match Class::of(key) {
            Some(Class::Packs) => self.uploads().add(key.clone())?,
            Some(Class::Index) => {
                self.finish_uploads()?;
                places.upload(key)?;
            }
            Some(Class::Backups) => {
                self.finish_uploads()?;
                places.catch_up()?;
                places.upload(key)?;
            }
            // Two hosts may create the same repository or identity: the bucket decides who was first.
            Some(Class::Description) if places.upload(key)? == Put::AlreadyExists && put == Put::Created => {
                places.give_way(key)?;
                return Ok(Put::AlreadyExists);
            }
            Some(Class::Wal) => drop(places.upload(key)?),
            Some(Class::Description) | None => {}
        }
        Ok(put)
    }

    fn finish_uploads(&self) -> Result<()> {
        self.uploads.get().map_or(Ok(()), Uploads::finish)
    }
}

impl Places {
    /// Takes what the first mirror has under a name in place of what was just written here under it.
    fn give_way(&self, key: &ObjectKey) -> Result<()> {
        self.local.delete(key)?;
        let first = self.remotes.iter().find(|remote| remote.durability == Durability::Mirror);
        first.map_or(Ok(()), |first| copy_down(&*first.storage, &self.local, key).map(drop))
    }

    /// Whether success waits for a mirror.
    fn waits(&self) -> bool {
        self.remotes.iter().any(|remote| remote.durability == Durability::Mirror)
    }

    /// Whether the directory may lack what the repository holds.
    fn is_sparse(&self) -> bool {
        self.keep != Keep::Everything
    }

    fn first(&self) -> Option<&dyn Storage> {
        self.remotes.first().filter(|_| self.is_sparse()).map(|remote| &*remote.storage)
    }

    /// Uploads an object to the mirrors for which success waits.
    fn upload(&self, key: &ObjectKey) -> Result<Put> {
        let mut put = Put::Created;
        for remote in self.remotes.iter().filter(|remote| remote.durability == Durability::Mirror) {
            if self.upload_to(key, &*remote.storage)? == Put::AlreadyExists {
                put = Put::AlreadyExists;
            }
        }
        if self.remotes.iter().all(|remote| remote.durability == Durability::Mirror) {
            self.release(key)?;
        }
        Ok(put)
    }

    /// Uploads an object to one mirror. One that left the spool meanwhile must be there.
    pub(super) fn upload_to(&self, key: &ObjectKey, remote: &dyn Storage) -> Result<Put> {
        let uploaded = match self.local.size(key)? {
            Some(size) => copy_object(&self.local, remote, &ObjectInfo { key: key.clone(), size }),
            None => Err(Error::not_found(format_args!("'{key}'"))),
        };
        match uploaded {
            Err(error) if error.is_not_found() && self.keep == Keep::Nothing => {
                remote.size(key)?.map(|_| Put::AlreadyExists).ok_or(error)
            }
            other => other,
        }
    }

    /// Takes an object out of the spool that every mirror has. Descriptions stay: every command reads them.
    pub(super) fn release(&self, key: &ObjectKey) -> Result<()> {
        if self.keep == Keep::Nothing && Class::of(key) != Some(Class::Description) {
            self.local.delete(key)?;
        }
        Ok(())
    }

    /// Uploads everything but roots of backups that is still missing where success waits for it.
    fn catch_up(&self) -> Result<()> {
        if self.keep == Keep::Nothing {
            for info in self.local.list("")? {
                if matches!(Class::of(&info.key), Some(Class::Wal | Class::Packs | Class::Index)) {
                    unless_dropped(&self.local, &info.key, self.upload(&info.key))?;
                }
            }
            return Ok(());
        }
        let classes = [Class::Description, Class::Wal, Class::Packs, Class::Index];
        let progress = Progress::start("mirroring", 0, Show::Nothing);
        for remote in self.remotes.iter().filter(|remote| remote.durability == Durability::Mirror) {
            let missing = missing(&self.local, &*remote.storage, &classes)?;
            Copying { from: &self.local, to: &*remote.storage, threads: UNDER_WAY, progress: &progress }
                .run(&missing)?;
        }
        Ok(())
    }

    /// What the directory says, or the first mirror where the directory has no such object.
    fn read<T>(&self, read: impl Fn(&dyn Storage) -> Result<T>) -> Result<T> {
        match (read(&self.local), self.first()) {
            (Err(error), Some(first)) if error.is_not_found() => read(first),
            (here, _) => here,
        }
    }
}

/// Keeps here what a mirror has under a description's name; gives its bytes.
fn copy_down(remote: &dyn Storage, local: &LocalStorage, key: &ObjectKey) -> Result<Vec<u8>> {
    let bytes = remote.get(key, MAXIMUM_DESCRIPTION)?;
    local.put_if_absent(key, &bytes)?;
    Ok(bytes)
}

struct MirroredWriter {
    writer: Box<dyn ObjectWriter>,
    storage: MirroredStorage,
}

impl ObjectWriter for MirroredWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write(bytes)
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        let Self { writer, storage } = *self;
        let put = writer.publish(key)?;
        storage.published(key, put)
    }
}

impl Storage for MirroredStorage {
    fn location(&self) -> String {
        match self.places.first() {
            Some(first) if self.places.keep == Keep::Nothing => first.location(),
            _ => self.places.local.location(),
        }
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MirroredWriter { writer: self.places.local.writer()?, storage: self.clone() }))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.places.read(|storage| storage.get_range(key, range.clone()))
    }

    fn get(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        let places = &self.places;
        match (places.local.get(key, limit), places.first()) {
            (Err(error), Some(first)) if error.is_not_found() => {
                if Class::of(key) == Some(Class::Description) {
                    // Read by every archive-push: from here on without a request. They never change.
                    return copy_down(first, &places.local, key);
                }
                first.get(key, limit)
            }
            (here, _) => here,
        }
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        match (self.places.local.size(key)?, self.places.first()) {
            (None, Some(first)) => first.size(key),
            (here, _) => Ok(here),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut listed = self.places.local.list(prefix)?;
        if let Some(first) = self.places.first() {
            listed.extend(first.list(prefix)?);
            listed.sort_by(|a, b| a.key.cmp(&b.key));
            listed.dedup_by(|a, b| a.key == b.key);
        }
        Ok(listed)
    }

    fn list_at_hand(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.places.local.list(prefix)
    }

    fn parallel_reads(&self) -> usize {
        self.places.first().map_or(1, Storage::parallel_reads)
    }

    fn local_file(&self, key: &ObjectKey) -> Option<PathBuf> {
        self.places.local.local_file(key)
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        match self.places.first() {
            Some(first) => first.overwrite(key, bytes),
            None => self.places.local.overwrite(key, bytes),
        }
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        if Class::of(key).is_none() {
            return self.places.first().unwrap_or(&self.places.local).delete(key);
        }
        self.places.local.delete(key)?;
        self.places.remotes.iter().try_for_each(|remote| remote.storage.delete(key))
    }

    fn delete_chosen(&self, prefix: &str, chosen: &dyn Fn(&[ObjectInfo]) -> Vec<ObjectKey>) -> Result<u64> {
        let here = self.places.local.delete_chosen(prefix, chosen);
        let there = self.places.remotes.iter().map(|remote| remote.storage.delete_chosen(prefix, chosen));
        // All of them are asked, whatever one says.
        let deleted: Vec<Result<u64>> = std::iter::once(here).chain(there).collect();
        deleted.into_iter().sum()
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        let places = &self.places;
        if places.local.size(key)?.is_none()
            && let Some(first) = places.first()
        {
            return first.make_durable(key);
        }
        places.local.make_durable(key)?;
        // It is here, but whoever wrote it may not have got it there.
        if places.waits() { places.upload(key).map(|_| ()) } else { Ok(()) }
    }

    fn remove_abandoned(&self, now: SystemTime) -> Result<usize> {
        let mut removed = self.places.local.remove_abandoned(now)?;
        for remote in &self.places.remotes {
            // A mirror that cannot be reached is no reason to take no backup.
            match remote.storage.remove_abandoned(now) {
                Ok(there) => removed += there,
                Err(error) => tracing::info!("abandoned uploads are left: {error}"),
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Fault, FaultyStorage, MemoryStorage};

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn pack(bytes: &[u8]) -> ObjectKey {
        key(&format!("packs/00/{}", blake3::hash(bytes)))
    }

    fn storage(
        remote: impl Storage + 'static,
        durability: Durability,
        keep: Keep,
    ) -> (tempfile::TempDir, MirroredStorage) {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalStorage::open(directory.path()).unwrap();
        let remote = Remote { storage: Arc::new(remote), durability };
        (directory, MirroredStorage::new(local, vec![remote], keep).unwrap())
    }

    #[test]
    fn a_root_is_there_only_after_all_that_it_refers_to() {
        let remote = MemoryStorage::new();
        let (_directory, storage) = storage(remote.clone(), Durability::Mirror, Keep::Everything);
        // Left by a process that died before it uploaded.
        storage.places.local.put_if_absent(&pack(b"earlier"), b"earlier").unwrap();
        storage.put_if_absent(&pack(b"new"), b"new").unwrap();
        storage.put_if_absent(&key("clusters/a/backups/1"), b"root").unwrap();
        let listed: Vec<String> = remote.list("").unwrap().iter().map(|info| info.key.to_string()).collect();
        let mut expected =
            vec![pack(b"earlier").to_string(), pack(b"new").to_string(), "clusters/a/backups/1".to_owned()];
        expected.sort();
        assert_eq!(listed, expected);
    }

    #[test]
    fn nothing_is_acknowledged_that_the_mirror_refuses() {
        for key in ["clusters/a/wal/00000001/x", "clusters/a/backups/1", "index/x"] {
            let remote = FaultyStorage::new(MemoryStorage::new(), Fault::CrashBefore, 0);
            let (_directory, storage) = storage(remote, Durability::Mirror, Keep::Everything);
            assert!(storage.put_if_absent(&self::key(key), b"x").is_err(), "{key}");
        }
        let remote = FaultyStorage::new(MemoryStorage::new(), Fault::CrashBefore, 0);
        let (_directory, storage) = storage(remote, Durability::Mirror, Keep::Everything);
        // A pack travels in the background: the root that needs it is what fails.
        storage.put_if_absent(&pack(b"x"), b"x").unwrap();
        assert!(storage.put_if_absent(&key("clusters/a/backups/1"), b"root").is_err());
        assert!(storage.places.local.size(&pack(b"x")).unwrap().is_some(), "it is still here");
    }

    #[test]
    fn a_spool_keeps_nothing_but_descriptions_and_reads_from_the_mirror() {
        let remote = MemoryStorage::new();
        let (_directory, storage) = storage(remote.clone(), Durability::Mirror, Keep::Nothing);
        storage.put_if_absent(&key("walkeep.json"), b"{}").unwrap();
        storage.put_if_absent(&pack(b"x"), b"x").unwrap();
        storage.put_if_absent(&key("clusters/a/backups/1"), b"root").unwrap();
        let local: Vec<_> = storage.list_at_hand("").unwrap().into_iter().map(|info| info.key).collect();
        assert_eq!(local, [key("walkeep.json")]);
        assert_eq!(storage.get(&pack(b"x"), 10).unwrap(), b"x");
        assert_eq!(storage.list("").unwrap().len(), 3);
        storage.overwrite(&key("leases/backup/1"), b"lease").unwrap();
        assert!(remote.size(&key("leases/backup/1")).unwrap().is_some(), "leases are where the others look");
        storage.delete(&key("leases/backup/1")).unwrap();
        assert!(remote.size(&key("leases/backup/1")).unwrap().is_none());
    }

    #[test]
    fn the_second_to_create_a_repository_in_the_bucket_learns_of_the_first() {
        let remote = MemoryStorage::new();
        let (_one, first) = storage(remote.clone(), Durability::Mirror, Keep::Nothing);
        let (_two, second) = storage(remote, Durability::Mirror, Keep::Nothing);
        assert_eq!(first.put_if_absent(&key("walkeep.json"), b"1").unwrap(), Put::Created);
        assert_eq!(second.put_if_absent(&key("walkeep.json"), b"2").unwrap(), Put::AlreadyExists);
        assert_eq!(second.get(&key("walkeep.json"), 10).unwrap(), b"1");
    }

    #[test]
    fn the_second_host_of_a_cluster_takes_the_first_one_s_word() {
        let remote = MemoryStorage::new();
        let (_one, first) = storage(remote.clone(), Durability::Mirror, Keep::Everything);
        let (_two, second) = storage(remote, Durability::Mirror, Keep::Everything);
        let identity = key("clusters/a/identity/0001");
        assert_eq!(first.put_if_absent(&identity, b"first").unwrap(), Put::Created);
        assert_eq!(second.put_if_absent(&identity, b"second").unwrap(), Put::AlreadyExists);
        // A directory that keeps everything must have it too: whoever registers looks there before trying again.
        assert_eq!(second.list_at_hand("clusters/a/identity/").unwrap().len(), 1);
        assert_eq!(second.places.local.get(&identity, 10).unwrap(), b"first");
    }

    #[test]
    fn at_local_durability_no_mirror_is_asked() {
        let remote = FaultyStorage::new(MemoryStorage::new(), Fault::CrashBefore, 0);
        let (_directory, storage) = storage(remote.clone(), Durability::Local, Keep::Everything);
        storage.put_if_absent(&key("clusters/a/wal/00000001/x"), b"x").unwrap();
        storage.put_if_absent(&key("clusters/a/backups/1"), b"root").unwrap();
        assert_eq!(remote.changes(), 0);
    }
}
