//! Files and directories that survive a power loss.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ulid::Ulid;

use crate::error::{Error, Result};

/// Permissions of directories that hold nothing but state; the process's umask takes from them.
const FOR_ALL: u32 = 0o777;

/// Replaces a small file, and creates the directories above it. Durable on return; a crash leaves the old content or the
/// new one, and maybe a hidden file beside it that nobody reads.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<()> {
    let failed = |operation| move |e: io::Error| Error::storage(operation, path.display(), e);
    let directory = parent(path);
    create_directories(directory, FOR_ALL)?;
    // Of a name of its own: another process may replace the same file.
    let new = directory.join(format!(".{}", Ulid::generate()));
    let written = File::create_new(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let replaced = written.map_err(failed("write")).and_then(|()| rename(&new, path));
    replaced.inspect_err(|_| drop(fs::remove_file(&new)))
}

/// Gives a durable file another name in the same directory, whose old bearer is gone then. Durable on return.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::rename(from, to).map_err(|e| Error::storage("rename", from.display(), e))?;
    sync_directory(parent(to))
}

/// Creates `path` and what is missing above it, and makes each new name durable in its parent.
pub(super) fn create_directories(path: &Path, mode: u32) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent(path);
    create_directories(parent, mode)?;
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other.map_err(|e| Error::storage("create", path.display(), e))?,
    }
    sync_directory(parent)
}

/// Makes a file's bytes durable, whoever wrote them.
pub(super) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|e| Error::storage("fsync", path.display(), e))
}

/// Makes the names inside a directory durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    sync_file(path)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole_and_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/there/state.json");
        replace_file(&path, b"long content").unwrap();
        replace_file(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(names(parent(&path)), ["state.json"]);
    }

    #[test]
    fn what_fails_leaves_nothing_and_names_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("by a directory")).unwrap();
        replace_file(&path, b"x").unwrap_err();
        assert_eq!(names(directory.path()), ["taken"]);
        let below = directory.path().join("file");
        fs::write(&below, b"").unwrap();
        let error = replace_file(&below.join("state.json"), b"x").unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }
}
