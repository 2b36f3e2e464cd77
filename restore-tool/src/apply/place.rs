//! Where everything goes: the data directory, its tablespaces, their modes and their owner.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use parking_lot::Mutex;
use walkeep_chunkstore::console::Exit;
use walkeep_chunkstore::repository::{BackupManifest, Repository};
use walkeep_chunkstore::storage;
use walkeep_proto::data_directory::required_empty_directories;
use walkeep_proto::identity::Oid;
use walkeep_proto::tablespace_map::TablespaceMap;
use walkeep_proto::version::MajorVersion;

use super::manifest::Manifest;
use super::{Options, Owner, at};
use crate::failure::Refusal;
use crate::plan::RestorePlan;

/// Where tablespaces are linked.
const TABLESPACES: &[u8] = b"pg_tblspc/";

/// The data directory to be, and what belongs to it elsewhere.
#[derive(Debug)]
pub struct Place {
    root: PathBuf,
    /// Directories of tablespaces that are no part of the data directory.
    tablespaces: BTreeMap<Oid, PathBuf>,
    tablespace_map: Vec<u8>,
    directory_mode: u32,
    owner: Option<Owner>,
    /// Directories made by this restore.
    created: Mutex<BTreeSet<PathBuf>>,
}

impl Place {
    /// Checks that nothing is in the way. Changes nothing.
    pub fn check(repository: &Repository, plan: &RestorePlan, options: &Options) -> Result<Self> {
        let root = absolute(&options.target)?;
        let (tablespaces, tablespace_map) = map_tablespaces(&plan.backup, &options.tablespaces)?;
        check_free(&root, "data directory")?;
        if let Ok(storage::Place::Directory(directory)) = repository.location().parse() {
            check_apart(&directory, &root)?;
        }
        for (oid, directory) in &tablespaces {
            check_free(directory, &format!("directory of tablespace {oid}")).map_err(|error| {
                let hint = format!("choose another directory with --tablespace-map {oid}=DIR");
                let (exit, hints) = crate::failure::exit_and_hints(&error);
                Refusal::new(exit, error.to_string()).hints(hints).hint(hint)
            })?;
            let others = tablespaces.iter().filter(|(other, _)| *other != oid).map(|(_, other)| other);
            for other in others.chain([&root]) {
                check_nested(directory, other)?;
            }
        }
        let owner = options.owner.or_else(|| owner_for_root(&root));
        warn_about_space(&root, plan);
        Ok(Self {
            root,
            tablespaces,
            tablespace_map,
            directory_mode: plan.backup.directory_mode & 0o777,
            owner,
            created: Mutex::default(),
        })
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the data directory, the tablespaces' directories and the links to them.
    pub(super) fn create(&self) -> Result<()> {
        self.create_top(&self.root)?;
        if !self.tablespaces.is_empty() {
            self.create_directory(&self.root.join("pg_tblspc"), self.directory_mode)?;
        }
        for (oid, directory) in &self.tablespaces {
            self.create_top(directory)?;
            let link = self.root.join("pg_tblspc").join(oid.to_string());
            self.create_link(&link, directory.as_os_str().as_bytes())?;
        }
        Ok(())
    }

    /// What PostgreSQL needs and a backup may hold nothing in.
    pub(super) fn create_required_directories(&self, major: MajorVersion) -> Result<()> {
        for directory in required_empty_directories(major) {
            let path = self.root.join(directory);
            if !self.created.lock().contains(&path) {
                self.create_directory(&path, self.directory_mode)?;
            }
        }
        Ok(())
    }

    /// Where a stored path goes; `None` for a tablespace's link, which is made by [`Place::create`].
    pub(super) fn path_of(&self, stored: &[u8]) -> Option<PathBuf> {
        if let Some(inside) = stored.strip_prefix(TABLESPACES) {
            let end = inside.iter().position(|byte| *byte == b'/').unwrap_or(inside.len());
            let oid = str::from_utf8(&inside[..end]).ok().and_then(|oid| oid.parse::<Oid>().ok());
            if let Some(directory) = oid.and_then(|oid| self.tablespaces.get(&oid)) {
                let rest = inside.get(end + 1..)?;
                return Some(directory.join(OsStr::from_bytes(rest)));
            }
        }
        Some(self.root.join(OsStr::from_bytes(stored)))
    }

    /// Makes a directory whose parent this restore has made.
    pub(super) fn create_directory(&self, path: &Path, mode: u32) -> Result<()> {
        if self.created.lock().contains(path) {
            return self.finish_directory(path, mode);
        }
        self.need_parent(path)?;
        fs::DirBuilder::new().mode(0o700).create(path).with_context(|| at(path, "create"))?;
        self.finish_directory(path, mode)
    }

    /// Makes a symbolic link.
    pub(super) fn create_link(&self, path: &Path, target: &[u8]) -> Result<()> {
        self.need_parent(path)?;
        std::os::unix::fs::symlink(OsStr::from_bytes(target), path).with_context(|| at(path, "create"))?;
        self.owner.map_or(Ok(()), |owner| owner.take_path(path))
    }

    /// Makes an empty file.
    pub(super) fn create_file(&self, path: &Path, mode: u32) -> Result<File> {
        self.need_parent(path)?;
        let create = || File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = create().with_context(|| at(path, "create"))?;
        if mode != 0o600 {
            file.set_permissions(Permissions::from_mode(mode)).with_context(|| at(path, "set the mode of"))?;
        }
        self.owner.map_or(Ok(()), |owner| owner.take_file(&file, path))?;
        Ok(file)
    }

    /// Makes a durable file with this content below the data directory.
    pub(super) fn write_file(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let mut file = self.create_file(&path, self.file_mode())?;
        file.write_all(content).and_then(|()| file.sync_all()).with_context(|| at(&path, "write"))
    }

    /// The mode of files that we add: as PostgreSQL's own in this cluster.
    pub(super) fn file_mode(&self) -> u32 {
        0o600 | (self.directory_mode & 0o040)
    }

    /// Writes PostgreSQL's `backup_label` and `tablespace_map`.
    pub(super) fn write_labels(&self, backup: &BackupManifest, manifest: &mut Manifest) -> Result<()> {
        for (name, content) in
            [("backup_label", backup.backup_label.as_bytes()), ("tablespace_map", &self.tablespace_map)]
        {
            if !content.is_empty() {
                self.write_file(name, content)?;
                manifest.written(name, content, backup.stopped.as_second())?;
            }
        }
        Ok(())
    }

    /// Makes the names of everything that was restored durable, the deepest first.
    pub(super) fn sync_directories(&self) -> Result<()> {
        for directory in self.created.lock().iter().rev() {
            sync_directory(directory)?;
        }
        let tops = self.tablespaces.values().chain([&self.root]);
        tops.filter_map(|top| top.parent()).try_for_each(sync_directory)
    }

    /// Nothing is made below a link, where it could land anywhere.
    fn need_parent(&self, path: &Path) -> Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.created.lock().contains(parent) {
            return Ok(());
        }
        self.create_directory(parent, self.directory_mode)
    }

    fn finish_directory(&self, path: &Path, mode: u32) -> Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| at(path, "set the mode of"))?;
        self.owner.map_or(Ok(()), |owner| owner.take_path(path))?;
        self.created.lock().insert(path.to_owned());
        Ok(())
    }

    /// Makes a directory that may be there already, empty, and everything above it.
    fn create_top(&self, path: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            create_parents(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.with_context(|| at(path, "create"))?,
        }
        self.finish_directory(path, self.directory_mode)
    }
}

/// Makes what is missing above a data directory, each name durable in its parent.
fn create_parents(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    create_parents(parent)?;
    fs::DirBuilder::new().mode(0o755).create(path).with_context(|| at(path, "create"))?;
    sync_directory(parent)
}

pub(super) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).with_context(|| at(path, "fsync"))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(path).with_context(|| at(path, "resolve"))?;
    // A tail of `/` would hide the parent.
    Ok(absolute.components().collect())
}

/// Refuses a place where something is.
fn check_free(path: &Path, what: &str) -> Result<()> {
    let shown = path.display();
    let mut entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(Refusal::new(Exit::Conflict, format!("{what} '{shown}' is no directory")).into());
        }
        other => other.with_context(|| at(path, "open"))?,
    };
    let Some(entry) = entries.next() else { return Ok(()) };
    let name = entry.with_context(|| at(path, "list"))?.file_name();
    if path.join("postmaster.pid").exists() {
        let message = format!(
            "{what} '{shown}' holds a cluster that is running, or was when it was killed: postmaster.pid is there"
        );
        let hint = format!("stop it with `pg_ctl stop -D {shown}`, or restore into another directory");
        return Err(Refusal::new(Exit::Conflict, message).hint(hint).into());
    }
    let message = format!("{what} '{shown}' is not empty: it holds '{}'", name.to_string_lossy());
    Err(Refusal::new(Exit::Conflict, message)
        .hint("restore into a new or empty directory; nothing is ever overwritten")
        .into())
}

fn check_apart(repository: &Path, root: &Path) -> Result<()> {
    let Ok(repository) = repository.canonicalize() else { return Ok(()) };
    // What exists of the target decides where it will be.
    let existing = root.ancestors().find_map(|path| path.canonicalize().ok().map(|real| (path, real)));
    let real = existing.and_then(|(path, real)| Some(real.join(root.strip_prefix(path).ok()?)));
    if real.is_some_and(|real| real.starts_with(&repository)) {
        let message = format!("'{}' lies inside the repository '{}'", root.display(), repository.display());
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    Ok(())
}

fn check_nested(one: &Path, other: &Path) -> Result<()> {
    if one.starts_with(other) || other.starts_with(one) {
        let message = format!("'{}' and '{}' would lie inside each other", one.display(), other.display());
        return Err(Refusal::new(Exit::Usage, message)
            .hint("give each tablespace a directory of its own with --tablespace-map")
            .into());
    }
    Ok(())
}

/// The owner of the empty directory that root restores into.
fn owner_for_root(root: &Path) -> Option<Owner> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    fs::metadata(root).ok().map(|metadata| Owner::of(&metadata)).filter(|owner| owner.user != 0)
}

fn warn_about_space(root: &Path, plan: &RestorePlan) {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if let Ok(volume) = rustix::fs::statvfs(existing) {
        let (free, needed) = (volume.f_bavail.saturating_mul(volume.f_frsize), plan.backup.statistics.logical_bytes);
        if free < needed {
            use walkeep_chunkstore::console::Bytes;
            tracing::warn!(
                "'{}' has {} free, the backup is {} long: it fits only if enough of it is zeroes or in tablespaces elsewhere",
                existing.display(),
                Bytes(free),
                Bytes(needed)
            );
        }
    }
}

/// Directories of tablespaces with the user's changes, and the `tablespace_map` that says so to PostgreSQL.
fn map_tablespaces(backup: &BackupManifest, wanted: &[(Oid, PathBuf)]) -> Result<(BTreeMap<Oid, PathBuf>, Vec<u8>)> {
    let usage = |message: String| Refusal::new(Exit::Usage, message);
    let mut directories: BTreeMap<Oid, PathBuf> = backup
        .tablespaces
        .iter()
        .filter_map(|tablespace| Some((tablespace.oid, PathBuf::from(tablespace.location.as_ref()?))))
        .collect();
    let mut map = TablespaceMap::parse(backup.tablespace_map.as_bytes(), backup.major)
        .with_context(|| format!("unable to read the tablespace_map of backup {}", backup.id))?;
    for (oid, path) in &map.entries {
        if let Some(directory) = directories.get_mut(oid) {
            *directory = PathBuf::from(OsStr::from_bytes(path));
        }
    }
    let known: Vec<String> = directories.iter().map(|(oid, path)| format!("{oid} at '{}'", path.display())).collect();
    let mut relocated = false;
    for (oid, path) in wanted {
        let Some(directory) = directories.get_mut(oid) else {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let message = format!("the backup has no tablespace {oid} outside the data directory; it has {known}");
            return Err(usage(message).into());
        };
        *directory = absolute(path)?;
        let bytes = directory.as_os_str().as_bytes();
        if bytes.contains(&b'\n') || bytes.contains(&b'\r') || bytes.ends_with(b"\\") {
            return Err(usage(format!("'{}' cannot be written into a tablespace_map", directory.display())).into());
        }
        if !map.relocate(*oid, bytes) {
            map.entries.push((*oid, bytes.to_vec()));
        }
        relocated = true;
    }
    if let Some((oid, path)) = directories.iter().find(|(_, path)| !path.is_absolute()) {
        let message = format!("tablespace {oid} was at '{}', which is no absolute path", path.display());
        return Err(usage(message).hint(format!("choose a directory with --tablespace-map {oid}=DIR")).into());
    }
    // In-place tablespaces are plain directories; a link in their place would hide them.
    let in_place = map.entries.iter().any(|(oid, _)| !directories.contains_key(oid));
    map.entries.retain(|(oid, _)| directories.contains_key(oid));
    let unchanged = !relocated && !in_place;
    let bytes = if unchanged { backup.tablespace_map.clone().into_bytes() } else { map.to_bytes(backup.major) };
    Ok((directories, bytes))
}
