//! Where objects live: the one trait that every storage implements, and its drivers.
//!
//! A storage holds immutable objects under keys. An object becomes visible whole and durable, or not at all; nothing is
//! ever renamed over. The only object that may be rewritten is a lease ([`Storage::overwrite`]).

mod faulty;
pub mod files;
mod key;
mod local;
mod memory;
mod place;
mod s3;

pub use faulty::{Fault, FaultyStorage};
pub use key::ObjectKey;
pub use local::LocalStorage;
pub use memory::MemoryStorage;
pub use place::{BucketUrl, Place, S3Options, open_directory};
pub use s3::{ConditionalWrites, RequestCounts, S3Storage, TransferLimits};

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};

/// What became of a create-if-absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is new.
    Created,
    /// An object of that key was there. It is durable now, whoever wrote it; it was not touched.
    AlreadyExists,
}

/// One row of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The object's key.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
}

/// An object in the making: invisible until it is published.
pub trait ObjectWriter: Send {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Gives the object its key, if the key is free. On return the object is durable: its bytes, its name, and every
    /// directory created for it survive a power loss. That holds for [`Put::AlreadyExists`] too.
    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put>;
}

/// A place for objects.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The place as a user would write it, for messages.
    fn location(&self) -> String;

    /// Starts an object whose key may not be known yet. Dropping the writer leaves nothing behind.
    fn writer(&self) -> Result<Box<dyn ObjectWriter>>;

    /// The bytes of `range` inside the object. Shorter objects are an error: the caller knows what it stored.
    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>>;

    /// Size of the object in bytes; `None` when there is none of that key.
    fn size(&self, key: &ObjectKey) -> Result<Option<u64>>;

    /// All objects whose key starts with `prefix`, in key order. `prefix` ends at a `/` or inside a name.
    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>>;

    /// Replaces or creates an object atomically and durably. For lease heartbeats only.
    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()>;

    /// Removes an object. A missing one is no error.
    fn delete(&self, key: &ObjectKey) -> Result<()>;

    /// Lists `prefix` and removes what `chosen` names of the listing: in each place by itself, where a repository is kept in
    /// several. A place that fails does not keep the others from theirs. Returns how many objects went.
    fn delete_chosen(&self, prefix: &str, chosen: &dyn Fn(&[ObjectInfo]) -> Vec<ObjectKey>) -> Result<u64> {
        let mut deleted = 0;
        for key in chosen(&self.list(prefix)?) {
            self.delete(&key)?;
            deleted += 1;
        }
        Ok(deleted)
    }

    /// Makes sure that an object which is visible survives a power loss: its writer may have died right after naming it.
    fn make_durable(&self, key: &ObjectKey) -> Result<()>;

    /// Removes what writers that crashed over a day before `now` left behind, invisible to listings. Returns how many.
    fn remove_abandoned(&self, _now: SystemTime) -> Result<usize> {
        Ok(0)
    }

    /// The part of [`Storage::list`] that can be had without asking another machine: what `archive-push` compares with.
    fn list_at_hand(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.list(prefix)
    }

    /// How many reads should be under way at once: more than there are threads where each of them waits for a network.
    fn parallel_reads(&self) -> usize {
        1
    }

    /// The object as a file of this machine, where it is one.
    fn local_file(&self, _key: &ObjectKey) -> Option<PathBuf> {
        None
    }

    /// Stores a file's content if the key is free; durable on return. The file must not change meanwhile.
    fn put_file(&self, key: &ObjectKey, source: &Path) -> Result<Put> {
        use std::io::Read;
        let failed = |e| Error::storage("read", source.display(), e);
        let mut file = std::fs::File::open(source).map_err(failed)?;
        let mut writer = self.writer()?;
        let mut block = vec![0; 256 << 10];
        loop {
            match file.read(&mut block).map_err(failed)? {
                0 => return writer.publish(key),
                length => writer.write(&block[..length])?,
            }
        }
    }

    /// Stores a whole object if its key is free; durable on return.
    fn put_if_absent(&self, key: &ObjectKey, bytes: &[u8]) -> Result<Put> {
        let mut writer = self.writer()?;
        writer.write(bytes)?;
        writer.publish(key)
    }

    /// Reads a whole object of at most `limit` bytes.
    fn get(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        let size = self.size(key)?.ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        if size > limit {
            return Err(Error::damaged(key, format_args!("{size} bytes long, expected at most {limit}")));
        }
        self.get_range(key, 0..size)
    }
}
