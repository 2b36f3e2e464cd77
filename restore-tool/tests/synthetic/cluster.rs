//! A repository in a directory with one backup of the sample files, and restores from it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console::Show;
use walkeep_chunkstore::repository::{Repository, Tablespace};
use walkeep_chunkstore::storage::{LocalStorage, S3Options, Storage};
use walkeep_restore::apply::{FetchCommand, Options, Restored, TargetAction, apply};
use walkeep_restore::plan::{Request, plan};
use walkeep_restore::target::RecoveryTarget;

use super::files::{Entry, Tree, sample, store};
use super::{Archive, Wal, manifest};

/// The tablespace outside the data directory.
pub const TABLESPACE: u32 = 16400;

/// Fills a storage with WAL, the last of it in a tail, and one backup, `b1`.
pub fn fill(storage: impl Storage + 'static, index: &Path, original: &Path) -> Arc<Repository> {
    let archive = Archive::new(storage);
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    wal.commit(100, 100);
    wal.switch();
    wal.commit(101, 110);
    archive.push(&wal).push_tail(&wal, wal.lsn());
    let stored = store(&archive.repository, index, &sample());
    let mut manifest = manifest("b1", 1, bounds, stored.file_lists);
    manifest.tablespace_map = format!("{TABLESPACE} {}\n", original.display());
    let outside = Tablespace { oid: TABLESPACE, location: Some(original.display().to_string()) };
    manifest.tablespaces = vec![outside, Tablespace { oid: 16401, location: None }];
    archive.commit(manifest);
    archive.repository
}

/// A repository in a temporary directory.
pub struct Cluster {
    pub directory: tempfile::TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let storage = LocalStorage::create(&directory.path().join("repository")).unwrap();
        fill(storage, &directory.path().join("index"), &directory.path().join("original"));
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn repository(&self) -> Arc<Repository> {
        let storage = LocalStorage::open(&self.path("repository")).unwrap();
        Arc::new(Repository::open(Arc::new(storage)).unwrap())
    }

    pub fn options(&self) -> Options {
        options(&self.path("data"), &self.path("tablespace"))
    }

    pub fn restore(&self, options: &Options) -> Result<Restored> {
        restore(&self.repository(), options)
    }
}

pub fn options(target: &Path, tablespace: &Path) -> Options {
    Options {
        target: target.to_owned(),
        tablespaces: vec![(TABLESPACE, tablespace.to_owned())],
        jobs: 2,
        action: TargetAction::Promote,
        keep_archiving: false,
        fetch: FetchCommand {
            program: "/usr/bin/walkeep-restore".into(),
            repository: "/srv/repository".to_owned(),
            s3: S3Options::default(),
            cluster: "main".to_owned(),
        },
        owner: None,
        show: Show::Nothing,
    }
}

/// Restores everything that is archived.
pub fn restore(repository: &Arc<Repository>, options: &Options) -> Result<Restored> {
    let catalogue = Catalogue::load(repository, None)?;
    let target = RecoveryTarget::Latest;
    let request = Request { target, exclusive: false, timeline: None, backup: Some("b1".to_owned()), promote: true };
    let plan = plan(&catalogue, &catalogue.archived_wal(repository)?, &request)?;
    apply(repository, &plan, options)
}

/// What stands below a directory; links are not followed and not shown.
pub fn read_tree(root: &Path) -> Tree {
    let mut tree = BTreeMap::new();
    let mut open = vec![(root.to_owned(), String::new())];
    while let Some((directory, prefix)) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            if metadata.is_dir() {
                open.push((entry.path(), format!("{name}/")));
                tree.insert(name, Entry::Directory(mode));
            } else if metadata.is_file() {
                tree.insert(name, Entry::File(mode, fs::read(entry.path()).unwrap()));
            }
        }
    }
    tree
}
