//! Which files a backup holds: the data directory walked in order of path, PostgreSQL's own exclusions applied.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkeep_proto::data_directory::{Treatment, exclusion, tablespace_version_directory, unlogged_init_sibling};
use walkeep_proto::relation_file::{RelationFile, is_slru_file};

use super::local_source::LocalSource;

/// What stands at a planned path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlannedKind {
    /// A directory; its content, if wanted, follows.
    Directory,
    /// A symbolic link that is none of PostgreSQL's own.
    Symlink(Vec<u8>),
    /// A relation file: pages.
    Relation(RelationFile),
    /// A file of pages without page checksums: SLRUs.
    Pages,
    /// Any other file.
    Bytes,
}

/// A name to back up. Sizes are taken when the file is opened, not here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Path below the data directory; a tablespace's below `pg_tblspc/<oid>`.
    pub path: Box<[u8]>,
    /// What it is.
    pub kind: PlannedKind,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, seconds since 1970.
    pub modified: i64,
    /// Size at the walk, for progress.
    pub size: u64,
}

/// The control file is read last, whatever its name.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";

/// Walks the data directory and its tablespaces. The result is sorted by path.
pub fn plan(source: &LocalSource) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    walk(&source.pgdata, "", &mut planned)?;
    let version_directory = tablespace_version_directory(source.major);
    for tablespace in source.tablespaces.iter().filter(|tablespace| tablespace.location.is_some()) {
        let relative = format!("pg_tblspc/{}/{version_directory}", tablespace.oid);
        let path = source.pgdata.join(&relative);
        let metadata = match fs::metadata(&path) {
            // Dropped since the backup started: replay drops it again.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("unable to read '{}'", path.display()))?,
        };
        planned.push(entry(&relative, PlannedKind::Directory, &metadata));
        walk(&source.pgdata, &relative, &mut planned)?;
    }
    planned.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(planned)
}

fn walk(root: &Path, directory: &str, planned: &mut Vec<Planned>) -> Result<()> {
    let path = root.join(directory);
    let entries = match fs::read_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("unable to list '{}'", path.display()))?,
    };
    for found in entries {
        let found = found.with_context(|| format!("unable to list '{}'", path.display()))?;
        let name = found.file_name();
        let Some(name) = name.to_str() else {
            planned.extend(unreadable_name(directory, &found)?);
            continue;
        };
        let relative = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
        let metadata = match found.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("unable to read '{}'", found.path().display()))?,
        };
        visit(root, &relative, &found.path(), &metadata, planned)?;
    }
    Ok(())
}

fn visit(root: &Path, relative: &str, path: &Path, metadata: &fs::Metadata, planned: &mut Vec<Planned>) -> Result<()> {
    let kind = metadata.file_type();
    match exclusion(relative, kind.is_dir()) {
        Treatment::SkipFile => return Ok(()),
        Treatment::KeepDirectoryDropContents => {
            // It may be a link to elsewhere, as pg_wal often is: after a restore it is a plain directory.
            let metadata = fs::metadata(path).with_context(|| format!("unable to read '{}'", path.display()))?;
            planned.push(entry(relative, PlannedKind::Directory, &metadata));
            return Ok(());
        }
        Treatment::Copy => {}
    }
    if kind.is_dir() {
        planned.push(entry(relative, PlannedKind::Directory, metadata));
        return walk(root, relative, planned);
    }
    if kind.is_symlink() {
        // Links to tablespaces are the tablespace_map's business.
        if !relative.starts_with("pg_tblspc/") {
            let target = fs::read_link(path).with_context(|| format!("unable to read link '{}'", path.display()))?;
            tracing::warn!(
                "'{relative}' is a link to '{}': the link is backed up, not what it leads to",
                target.display()
            );
            planned.push(entry(relative, PlannedKind::Symlink(target.as_os_str().as_bytes().to_vec()), metadata));
        }
        return Ok(());
    }
    if !kind.is_file() {
        tracing::warn!("'{relative}' is no file, directory or link and is left out");
        return Ok(());
    }
    if is_unlogged(root, relative) {
        return Ok(());
    }
    planned.push(entry(relative, kind_of(relative), metadata));
    Ok(())
}

/// Whether PostgreSQL will make this file anew from its init fork.
fn is_unlogged(root: &Path, relative: &str) -> bool {
    unlogged_init_sibling(relative).is_some_and(|init| root.join(init).symlink_metadata().is_ok())
}

/// What a file is, by its path below the data directory.
pub fn kind_of(relative: &str) -> PlannedKind {
    match RelationFile::parse(relative) {
        Some(file) => PlannedKind::Relation(file),
        None if is_slru_file(relative) => PlannedKind::Pages,
        None => PlannedKind::Bytes,
    }
}

fn entry(relative: &str, kind: PlannedKind, metadata: &fs::Metadata) -> Planned {
    let size = if metadata.is_file() { metadata.len() } else { 0 };
    Planned { path: relative.as_bytes().into(), kind, mode: metadata.mode() & 0o7777, modified: metadata.mtime(), size }
}

/// A name that is no UTF-8 is none of PostgreSQL's: its file is copied as bytes, a directory of such a name is refused.
fn unreadable_name(directory: &str, found: &fs::DirEntry) -> Result<Option<Planned>> {
    let metadata = found.metadata().with_context(|| format!("unable to read '{}'", found.path().display()))?;
    if !metadata.is_file() {
        anyhow::bail!("'{}' has a name that is no UTF-8: rename or remove it", found.path().display());
    }
    let mut planned = entry(directory, PlannedKind::Bytes, &metadata);
    let mut path = directory.as_bytes().to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(found.file_name().as_bytes());
    planned.path = path.into();
    Ok(Some(planned))
}

/// Opens a planned file; `None` if it vanished, which is what dropping a table does.
pub fn open(root: &Path, planned: &Planned) -> Result<Option<(File, fs::Metadata)>> {
    let path: PathBuf = root.join(std::ffi::OsStr::from_bytes(&planned.path));
    let file = match File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.with_context(|| format!("unable to read '{}'", path.display()))?,
    };
    let metadata = file.metadata().with_context(|| format!("unable to read '{}'", path.display()))?;
    // The init fork may have appeared since the walk: the relation was made unlogged.
    let became_unlogged = std::str::from_utf8(&planned.path).is_ok_and(|relative| is_unlogged(root, relative));
    Ok((!became_unlogged).then_some((file, metadata)))
}
