//! What is new below a directory, found without reading what did not change.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::storage::{LocalStorage, ObjectInfo, ObjectKey, Storage};

/// A directory changed so shortly before it was read may change again under the same time stamp.
const CLOCK_TICK: Duration = Duration::from_secs(2);
/// Files are told again when they may have got their name just before their directory was read last.
const OVERLAP: Duration = Duration::from_secs(10);

/// A file that is new, or was told before.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) info: ObjectInfo,
    /// When it got its name.
    pub(super) named: SystemTime,
}

struct Seen {
    modified: SystemTime,
    read: SystemTime,
    children: Vec<String>,
}

/// Watches a repository's directory. A directory's time of change says whether names were added to it.
pub(super) struct Watch {
    root: PathBuf,
    start: SystemTime,
    directories: HashMap<String, Seen>,
}

impl Watch {
    /// Watches for files that got their name at `start` or later.
    pub(super) fn new(root: PathBuf, start: SystemTime) -> Self {
        Self { root, start, directories: HashMap::new() }
    }

    /// Adds new files; some of them more than once. What was added before a failure counts: it may not come again.
    pub(super) fn poll(&mut self, found: &mut Vec<Found>) -> Result<()> {
        self.visit(String::new(), found)
    }

    fn visit(&mut self, directory: String, found: &mut Vec<Found>) -> Result<()> {
        let path = self.root.join(&directory);
        let failed = |e: io::Error| Error::storage("list", path.display(), e);
        let now = SystemTime::now();
        let modified = match fs::metadata(&path).and_then(|metadata| metadata.modified()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        let settled = |seen: &&Seen| seen.modified == modified && modified + CLOCK_TICK < seen.read;
        let children = match self.directories.get(&directory).filter(settled) {
            Some(seen) => seen.children.clone(),
            None => {
                let earlier = self.directories.get(&directory).map_or(self.start, |seen| seen.read);
                let children = self.read(&directory, earlier.checked_sub(OVERLAP).unwrap_or(earlier), found)?;
                self.directories.insert(directory, Seen { modified, read: now, children: children.clone() });
                children
            }
        };
        children.into_iter().try_for_each(|child| self.visit(child, found))
    }

    /// Reads one directory: gives the directories in it, and adds files that got their name at `since` or later.
    fn read(&self, directory: &str, since: SystemTime, found: &mut Vec<Found>) -> Result<Vec<String>> {
        let path = self.root.join(directory);
        let failed = |e| Error::storage("list", path.display(), e);
        let mut children = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let relative = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            // Names that are no keys, `.tmp` among them, are not ours.
            let Ok(key) = ObjectKey::new(relative.clone()) else { continue };
            let metadata = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            if metadata.is_dir() {
                children.push(relative);
            } else if metadata.is_file() {
                let named = named(&metadata);
                if named >= since {
                    found.push(Found { info: ObjectInfo { key, size: metadata.len() }, named });
                }
            }
        }
        Ok(children)
    }
}

/// When an object got its name, if it is there.
pub(super) fn named_at(local: &LocalStorage, key: &ObjectKey) -> Option<SystemTime> {
    fs::metadata(local.local_file(key)?).ok().map(|metadata| named(&metadata))
}

/// When a file got its name: renaming sets the time of its inode's last change.
fn named(metadata: &fs::Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(watch: &mut Watch) -> Vec<String> {
        let mut found = Vec::new();
        watch.poll(&mut found).unwrap();
        let mut keys: Vec<String> = found.into_iter().map(|found| found.info.key.to_string()).collect();
        keys.sort();
        keys
    }

    #[test]
    fn new_files_are_found_wherever_they_appear() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(root.path().to_owned(), SystemTime::now());
        assert!(keys(&mut watch).is_empty());
        std::fs::create_dir_all(root.path().join("packs/00")).unwrap();
        std::fs::create_dir_all(root.path().join(".tmp")).unwrap();
        std::fs::write(root.path().join(".tmp/x"), "x").unwrap();
        std::fs::write(root.path().join("packs/00/a"), "x").unwrap();
        assert_eq!(keys(&mut watch), ["packs/00/a"]);
        std::fs::write(root.path().join("packs/00/b"), "x").unwrap();
        assert!(keys(&mut watch).contains(&"packs/00/b".to_owned()));
    }

    #[test]
    fn old_files_are_not_told() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("old"), "x").unwrap();
        let mut watch = Watch::new(root.path().to_owned(), SystemTime::now() + OVERLAP + Duration::from_secs(2));
        assert!(keys(&mut watch).is_empty());
    }
}
