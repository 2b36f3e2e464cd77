//! The objects of a repository in a directory, by kind: where to aim.

use std::fs;
use std::path::{Path, PathBuf};

use crate::compare::files_below;

/// What an object is, by its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// `walkeep.json`.
    Root,
    /// `keys/…`.
    Keys,
    /// `packs/…`: data.
    Packs,
    /// `nodes/…`: page maps and file lists.
    Nodes,
    /// `index/…`.
    Index,
    /// `clusters/<name>/identity/…`.
    Identity,
    /// `clusters/<name>/backups/…`: manifest roots.
    Backups,
    /// `clusters/<name>/wal/<timeline>/<middle digits>/…`: whole segments.
    Wal,
    /// … tails of open ones,
    WalTails,
    /// … second contents that were refused,
    WalConflicts,
    /// … `.partial` and `.backup` files.
    WalRests,
    /// `clusters/<name>/wal/<timeline>.history-…`.
    History,
    /// `leases/…`.
    Leases,
    /// `gc/…`.
    Gc,
    /// None of these.
    Unknown,
}

impl ObjectKind {
    /// The kind of the object with this key.
    pub fn of_key(key: &str) -> Self {
        let parts: Vec<&str> = key.split('/').collect();
        match parts.as_slice() {
            ["walkeep.json"] => Self::Root,
            ["keys", ..] => Self::Keys,
            ["packs", ..] => Self::Packs,
            ["nodes", ..] => Self::Nodes,
            ["index", ..] => Self::Index,
            ["leases", ..] => Self::Leases,
            ["gc", ..] => Self::Gc,
            ["clusters", _, "identity", ..] => Self::Identity,
            ["clusters", _, "backups", ..] => Self::Backups,
            ["clusters", _, "wal", _, name] if name.contains(".history-") => Self::History,
            ["clusters", _, "wal", _, _, name] if name.contains(".conflict-") => Self::WalConflicts,
            ["clusters", _, "wal", _, _, name] if name.contains(".tail-") => Self::WalTails,
            ["clusters", _, "wal", _, _, name] if name.contains(".partial-") || name.contains(".backup-") => {
                Self::WalRests
            }
            ["clusters", _, "wal", _, _, _] => Self::Wal,
            _ => Self::Unknown,
        }
    }
}

/// The objects of one kind in the repository at `root`, sorted by key.
#[track_caller]
pub fn objects(root: &Path, kind: ObjectKind) -> Vec<PathBuf> {
    let root = fs::canonicalize(root).unwrap_or_else(|e| panic!("no repository at {}: {e}", root.display()));
    let is_kind = |path: &PathBuf| {
        let key = path.strip_prefix(&root).map(|key| key.to_string_lossy().into_owned()).unwrap_or_default();
        ObjectKind::of_key(&key) == kind
    };
    files_below(&root).into_iter().filter(is_kind).collect()
}
