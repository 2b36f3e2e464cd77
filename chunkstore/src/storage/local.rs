//! Objects as files below one directory.
//!
//! Publishing is: write a temporary file, fsync it, give it its name without replacing another, fsync the directory and
//! every directory that had to be created. Temporary files live in `.tmp/` below the same root, which no listing shows.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::fs::{CWD, RenameFlags};

use super::files::{create_directories, sync_directory, sync_file};
use super::{ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use crate::error::{Error, Result};

/// Directory for objects in the making. No object key can start with a dot.
const TEMPORARY: &str = ".tmp";

/// Permissions of directories: the group may read, as it may objects.
const DIRECTORY_MODE: u32 = 0o750;

/// How old a temporary file must be before it counts as left behind by a crash: longer than any upload of one object.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// A directory that holds objects as files.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    root: PathBuf,
    /// Directories whose own names this process has made durable: whoever created one may have died before.
    durable: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalStorage {
    /// Opens an existing directory.
    pub fn open(root: &Path) -> Result<Self> {
        let metadata = fs::metadata(root).map_err(|e| Error::storage("open", root.display(), e))?;
        if !metadata.is_dir() {
            let source = io::Error::from(io::ErrorKind::NotADirectory);
            return Err(Error::Storage { operation: "open", object: root.display().to_string(), source });
        }
        Ok(Self { root: root.to_owned(), durable: Arc::default() })
    }

    /// Creates the directory if there is none, then opens it.
    pub fn create(root: &Path) -> Result<Self> {
        create_directories(root, DIRECTORY_MODE)?;
        Self::open(root)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the names in `directory` durable, and once per process the names of the directories above it.
    fn sync_names(&self, directory: &Path) -> Result<()> {
        sync_directory(directory)?;
        let mut at = directory;
        while at != self.root
            && let Some(parent) = at.parent()
        {
            if !self.durable.lock().contains(at) {
                sync_directory(parent)?;
                self.durable.lock().insert(at.to_owned());
            }
            at = parent;
        }
        Ok(())
    }

    fn path(&self, key: &ObjectKey) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary_file(&self) -> Result<Temporary> {
        let directory = self.root.join(TEMPORARY);
        let path = directory.join(ulid::Ulid::generate().to_string());
        let create = || File::options().write(true).create_new(true).mode(0o640).open(&path);
        let file = match create() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                create_directories(&directory, DIRECTORY_MODE)?;
                create()
            }
            other => other,
        };
        let file = file.map_err(|e| Error::storage("create", path.display(), e))?;
        Ok(Temporary { path: Some(path), file, storage: self.clone(), written: 0, on_its_way: 0 })
    }
}

/// A file in `.tmp/` that is removed again unless it is published.
struct Temporary {
    path: Option<PathBuf>,
    file: File,
    storage: LocalStorage,
    written: u64,
    /// Bytes that the kernel was asked to write already.
    on_its_way: u64,
}

/// Bytes after which the kernel is asked to write: then the final fsync finds little left to do.
const WRITE_BEHIND: u64 = 8 << 20;

impl Temporary {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        let shown = self.path.as_deref().unwrap_or(Path::new("?")).display().to_string();
        self.file.write_all(bytes).map_err(|e| Error::storage("write", shown, e))?;
        self.written += bytes.len() as u64;
        if self.written - self.on_its_way >= WRITE_BEHIND {
            // Advice only: what it does not achieve, fsync does. It also keeps packs out of the server's page cache.
            let length = std::num::NonZeroU64::new(self.written - self.on_its_way);
            let _ = rustix::fs::fadvise(&self.file, self.on_its_way, length, rustix::fs::Advice::DontNeed);
            self.on_its_way = self.written;
        }
        Ok(())
    }

    /// Moves the durable file to `key`, or says that the name is taken.
    fn move_to(&mut self, key: &ObjectKey, flags: RenameFlags) -> Result<Put> {
        let target = self.storage.path(key);
        let parent = target.parent().unwrap_or(&self.storage.root).to_owned();
        self.file.sync_all().map_err(|e| Error::storage("fsync", key, e))?;
        let Some(source) = self.path.clone() else {
            return Err(Error::Invalid(format!("object '{key}' was published twice")));
        };
        let mut moved = rustix::fs::renameat_with(CWD, &source, CWD, &target, flags);
        if moved == Err(rustix::io::Errno::NOENT) {
            create_directories(&parent, DIRECTORY_MODE)?;
            moved = rustix::fs::renameat_with(CWD, &source, CWD, &target, flags);
        }
        if moved == Err(rustix::io::Errno::INVAL) && flags == RenameFlags::NOREPLACE {
            // The file system knows no RENAME_NOREPLACE: a hard link is as exclusive.
            moved = rustix::fs::link(&source, &target);
            if moved.is_ok() {
                fs::remove_file(&source).map_err(|e| Error::storage("remove", source.display(), e))?;
            }
        }
        let put = match moved {
            Ok(()) => {
                self.path = None;
                Put::Created
            }
            Err(rustix::io::Errno::EXIST) => {
                sync_file(&target)?;
                Put::AlreadyExists
            }
            Err(e) => return Err(Error::storage("create", key, e)),
        };
        self.storage.sync_names(&parent)?;
        Ok(put)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            // Nothing depends on it: `remove_abandoned` takes what stays.
            let _ = fs::remove_file(path);
        }
    }
}

impl ObjectWriter for Temporary {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_all(bytes)
    }

    fn publish(mut self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        self.move_to(key, RenameFlags::NOREPLACE)
    }
}

impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(self.temporary_file()?))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        let file = File::open(self.path(key)).map_err(|e| Error::storage("open", key, e))?;
        let size = file.metadata().map_err(|e| Error::storage("read", key, e))?.len();
        if range.start > range.end || range.end > size {
            let asked = format!("bytes {}..{} wanted, but it is {size} bytes long", range.start, range.end);
            return Err(Error::damaged(key, asked));
        }
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| Error::Invalid(format!("range of '{key}' does not fit into memory")))?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, range.start).map_err(|e| Error::storage("read", key, e))?;
        Ok(bytes)
    }

    /// Through one open file: a lease may be replaced by one of another length in between.
    fn get(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        let file = File::open(self.path(key)).map_err(|e| Error::storage("open", key, e))?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| Error::storage("read", key, e))?;
        if bytes.len() as u64 > limit {
            return Err(Error::damaged(key, format_args!("longer than {limit} bytes")));
        }
        Ok(bytes)
    }

    fn local_file(&self, key: &ObjectKey) -> Option<PathBuf> {
        Some(self.path(key)).filter(|path| path.is_file())
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        match fs::metadata(self.path(key)) {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::storage("read", key, e)),
        }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let (directory, start) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let mut found = Vec::new();
        list_directory(&self.root, directory, start, &mut found)?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        let mut temporary = self.temporary_file()?;
        temporary.write_all(bytes)?;
        temporary.move_to(key, RenameFlags::empty()).map(|_| ())
    }

    fn remove_abandoned(&self, now: SystemTime) -> Result<usize> {
        let directory = self.root.join(TEMPORARY);
        let entries = match fs::read_dir(&directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other.map_err(|e| Error::storage("list", directory.display(), e))?,
        };
        let mut removed = 0;
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|m| m.modified());
            let age = modified.ok().and_then(|at| now.duration_since(at).ok());
            if age.is_some_and(|age| age > ABANDONED_AFTER) && fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        let path = self.path(key);
        sync_file(&path)?;
        self.sync_names(path.parent().unwrap_or(&self.root))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::storage("delete", key, e)),
            Ok(()) => sync_directory(path.parent().unwrap_or(&self.root)),
        }
    }
}

/// Collects the files below `directory` whose relative name starts with `start`; names that are no keys are not ours.
fn list_directory(root: &Path, directory: &str, start: &str, found: &mut Vec<ObjectInfo>) -> Result<()> {
    let path = root.join(directory);
    let entries = match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(|e| Error::storage("list", path.display(), e))?,
    };
    for entry in entries {
        let entry = entry.map_err(|e| Error::storage("list", path.display(), e))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let relative = if directory.is_empty() { name.clone() } else { format!("{directory}/{name}") };
        let Ok(key) = ObjectKey::new(relative.clone()) else { continue };
        if !name.starts_with(start) {
            continue;
        }
        let kind = entry.file_type().map_err(|e| Error::storage("list", entry.path().display(), e))?;
        if kind.is_dir() {
            list_directory(root, &relative, "", found)?;
        } else if kind.is_file() {
            match entry.metadata() {
                Ok(metadata) => found.push(ObjectInfo { key, size: metadata.len() }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::storage("list", entry.path().display(), e)),
            }
        }
    }
    Ok(())
}
