//! What an object is to somebody who copies a repository.

use crate::repository::layout::{CLUSTERS, CONFIG, INDEX, LEASES, NODES, PACKS};
use crate::storage::ObjectKey;

/// Kinds of objects in the order in which they are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// The repository's description, its keys, the clusters' identities: few, small, and read before all else.
    Description,
    /// WAL: it stands for itself, and it is what is lost when the host is.
    Wal,
    /// Packs of data and nodes.
    Packs,
    /// What speaks of packs, and what this version does not know.
    Index,
    /// Roots of base backups: they come when everything they refer to is there.
    Backups,
}

impl Class {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [Self::Description, Self::Wal, Self::Packs, Self::Index, Self::Backups];

    /// What this object is; `None` for leases, which mean something only where they were taken.
    pub fn of(key: &ObjectKey) -> Option<Self> {
        let key = key.as_str();
        if key.starts_with(LEASES) {
            return None;
        }
        if key == CONFIG || key.starts_with("keys/") {
            return Some(Self::Description);
        }
        if key.starts_with(PACKS) || key.starts_with(NODES) {
            return Some(Self::Packs);
        }
        if key.starts_with(INDEX) {
            return Some(Self::Index);
        }
        // `clusters/<name>/<room>/…`
        let room = key.strip_prefix(CLUSTERS).and_then(|rest| rest.split('/').nth(1));
        Some(match room {
            Some("identity") => Self::Description,
            Some("wal") => Self::Wal,
            Some("backups") => Self::Backups,
            _ => Self::Index,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_place() {
        for (key, class) in [
            ("walkeep.json", Some(Class::Description)),
            ("clusters/a/identity/0000", Some(Class::Description)),
            ("clusters/a/wal/00000001/0000000a/000000010000000A00000003-00", Some(Class::Wal)),
            ("packs/00/00", Some(Class::Packs)),
            ("nodes/00/00", Some(Class::Packs)),
            ("index/01-00", Some(Class::Index)),
            ("gc/1-x", Some(Class::Index)),
            ("clusters/a/backups/x", Some(Class::Backups)),
            ("leases/backup/x", None),
        ] {
            assert_eq!(Class::of(&ObjectKey::new(key).unwrap()), class, "{key}");
        }
        assert!(Class::ALL.is_sorted());
    }
}
