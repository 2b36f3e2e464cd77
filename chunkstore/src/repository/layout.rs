//! How keys are spelled. No other file does.

use ulid::Ulid;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentFileName, WalFileName};
use walkeep_proto::timeline::TimelineId;

use crate::error::{Error, Result};
use crate::id::PackId;
use crate::storage::ObjectKey;

/// The repository's description.
pub const CONFIG: &str = "walkeep.json";

/// Prefix of all data packs.
pub const PACKS: &str = "packs/";
/// Prefix of all node packs.
pub const NODES: &str = "nodes/";
/// Prefix of all index objects.
pub const INDEX: &str = "index/";
/// Prefix of all clusters.
pub const CLUSTERS: &str = "clusters/";
/// Prefix of all leases.
pub const LEASES: &str = "leases/";

/// The repository's description as a key.
pub fn config() -> Result<ObjectKey> {
    ObjectKey::new(CONFIG)
}

/// A data pack.
pub fn pack(id: PackId) -> Result<ObjectKey> {
    ObjectKey::new(format!("{PACKS}{}", fan_out(id)))
}

/// A node pack.
pub fn nodes(id: PackId) -> Result<ObjectKey> {
    ObjectKey::new(format!("{NODES}{}", fan_out(id)))
}

/// A node pack's key for a message.
pub fn pack_name(id: PackId) -> String {
    format!("{NODES}{}", fan_out(id))
}

fn fan_out(id: PackId) -> String {
    let name = id.to_string();
    format!("{}/{name}", &name[..2])
}

/// The pack that a key below `packs/` or `nodes/` names.
pub fn pack_of(key: &ObjectKey) -> Option<PackId> {
    key.name().parse().ok()
}

/// An index object.
pub fn index(at: Ulid, hash: PackId) -> Result<ObjectKey> {
    ObjectKey::new(format!("{INDEX}{}-{}", at.to_string().to_lowercase(), hash16(hash.as_bytes())))
}

/// A lease.
pub fn lease(kind: &str, id: Ulid) -> Result<ObjectKey> {
    ObjectKey::new(format!("{LEASES}{kind}/{}", id.to_string().to_lowercase()))
}

/// Checks a cluster's name: it becomes part of keys.
pub fn check_cluster_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 63 && name.bytes().all(plain) && !name.starts_with('.') {
        Ok(())
    } else {
        Err(Error::Invalid(format!(
            "'{name}' is no cluster name: expected 1 to 63 letters, digits, '-', '_' or '.', not starting with '.'"
        )))
    }
}

/// Keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterLayout {
    prefix: String,
}

impl ClusterLayout {
    /// Keys of the cluster of this name.
    pub fn new(name: &str) -> Result<Self> {
        check_cluster_name(name)?;
        Ok(Self { prefix: format!("{CLUSTERS}{name}/") })
    }

    /// Prefix of the identity objects.
    pub fn identities(&self) -> String {
        format!("{}identity/", self.prefix)
    }

    /// The identity of this number: one more at each `pg_upgrade`.
    pub fn identity(&self, number: u32) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}identity/{number:04}", self.prefix))
    }

    /// Prefix of the backups.
    pub fn backups(&self) -> String {
        format!("{}backups/", self.prefix)
    }

    /// A backup's root.
    pub fn backup(&self, id: &str) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}backups/{id}", self.prefix))
    }

    /// Prefix of the WAL archive.
    pub fn wal(&self) -> String {
        format!("{}wal/", self.prefix)
    }

    /// Prefix of one timeline's WAL.
    pub fn timeline(&self, timeline: TimelineId) -> String {
        format!("{}wal/{}/", self.prefix, timeline.hex8().to_lowercase())
    }

    /// Prefix of everything stored for a WAL file: `<name>-<hash>`, `<name>.tail-…`, `<name>.conflict-<hash>`.
    ///
    /// Segments lie in one directory per 4 GiB of WAL (the middle eight digits), so that looking for one never reads a
    /// long directory; history files lie beside those directories.
    pub fn wal_file(&self, file: &WalFileName) -> String {
        let name = file.to_string();
        let directory = self.timeline(match file {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) | WalFileName::BackupHistory(segment, _) => {
                segment.timeline
            }
            WalFileName::History(timeline) => *timeline,
        });
        match file {
            WalFileName::History(_) => format!("{directory}{name}"),
            _ => format!("{directory}{}/{name}", name[8..16].to_lowercase()),
        }
    }

    /// A WAL file with this content.
    pub fn wal_object(&self, file: &WalFileName, content: &[u8; 32]) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}-{}", self.wal_file(file), hash16(content)))
    }

    /// The beginning of a segment that is still being written, up to `end`.
    pub fn wal_tail(&self, segment: SegmentFileName, end: Lsn, content: &[u8; 32]) -> Result<ObjectKey> {
        let file = self.wal_file(&WalFileName::Segment(segment));
        ObjectKey::new(format!("{file}{TAIL}{:016x}-{}", end.as_u64(), hash16(content)))
    }

    /// A WAL file whose content differs from the one that was archived first: kept, never served.
    pub fn wal_conflict(&self, file: &WalFileName, content: &[u8; 32]) -> Result<ObjectKey> {
        ObjectKey::new(format!("{}.conflict-{}", self.wal_file(file), hash16(content)))
    }
}

/// What stands between a segment's name and the end of a tail.
const TAIL: &str = ".tail-";

/// What a key in the WAL archive names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalObjectName {
    /// A WAL file and the first 16 digits of its content's hash.
    File(WalFileName, String),
    /// A refused second content of a WAL file.
    Conflict(WalFileName),
    /// The beginning of a segment.
    Tail {
        /// The segment.
        segment: SegmentFileName,
        /// Position behind its last byte. Whether that lies inside the segment only the segment size can tell.
        end: Lsn,
        /// The first 16 digits of its content's hash.
        hash: String,
    },
}

impl WalObjectName {
    /// Reads the last part of a key below a timeline; `None` for what this version does not know.
    pub fn parse(name: &str) -> Option<Self> {
        let (file, hash) = name.rsplit_once('-')?;
        if !is_hex16(hash) {
            return None;
        }
        let hash = hash.to_owned();
        if let Some((segment, end)) = file.split_once(TAIL) {
            let end = Some(end).filter(|end| is_hex16(end)).and_then(|end| u64::from_str_radix(end, 16).ok())?;
            return Some(Self::Tail { segment: segment.parse().ok()?, end: Lsn::new(end), hash });
        }
        match file.strip_suffix(".conflict") {
            Some(file) => file.parse().ok().map(Self::Conflict),
            None => file.parse().ok().map(|file| Self::File(file, hash)),
        }
    }
}

/// The beginning that the keys of everything stored for one WAL segment share: up to the segment's name. `None` for keys of
/// anything else.
pub fn segment_prefix(key: &ObjectKey) -> Option<&str> {
    let segment = match WalObjectName::parse(key.name())? {
        WalObjectName::File(WalFileName::Segment(segment), _) | WalObjectName::Tail { segment, .. } => segment,
        _ => return None,
    };
    let before = key.as_str().len() - key.name().len();
    key.as_str().get(..before + segment.to_string().len())
}

fn is_hex16(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first 16 hexadecimal digits.
pub fn hash16(hash: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wal_keys_read_back() {
        let layout = ClusterLayout::new("main").unwrap();
        for name in ["000000010000000A00000003", "0000000A.history", "000000010000000A00000003.partial"] {
            let file: WalFileName = name.parse().unwrap();
            let key = layout.wal_object(&file, &[0xAB; 32]).unwrap();
            assert_eq!(WalObjectName::parse(key.name()), Some(WalObjectName::File(file, "ab".repeat(8))));
            let conflict = layout.wal_conflict(&file, &[0xAB; 32]).unwrap();
            assert_eq!(WalObjectName::parse(conflict.name()), Some(WalObjectName::Conflict(file)));
            assert!(conflict.as_str().starts_with(&layout.wal_file(&file)));
        }
        let segment: WalFileName = "000000010000000A00000003".parse().unwrap();
        let key = layout.wal_object(&segment, &[0xAB; 32]).unwrap();
        assert_eq!(key.as_str(), "clusters/main/wal/00000001/0000000a/000000010000000A00000003-abababababababab");
    }

    #[test]
    fn tails_read_back_and_nothing_like_them() {
        let layout = ClusterLayout::new("main").unwrap();
        let segment: SegmentFileName = "000000010000000A00000003".parse().unwrap();
        let key = layout.wal_tail(segment, Lsn::new(0xA_0300_0028), &[0xAB; 32]).unwrap();
        let name = "000000010000000A00000003.tail-0000000a03000028-abababababababab";
        assert_eq!(key.as_str(), format!("clusters/main/wal/00000001/0000000a/{name}"));
        let prefix = layout.wal_file(&WalFileName::Segment(segment));
        assert_eq!(segment_prefix(&key), Some(prefix.as_str()));
        let whole = layout.wal_object(&WalFileName::Segment(segment), &[0xAB; 32]).unwrap();
        assert_eq!(segment_prefix(&whole), Some(prefix.as_str()));
        let partial = layout.wal_object(&WalFileName::Partial(segment), &[0xAB; 32]).unwrap();
        assert_eq!(segment_prefix(&partial), None);
        let tail = WalObjectName::Tail { segment, end: Lsn::new(0xA_0300_0028), hash: "ab".repeat(8) };
        assert_eq!(WalObjectName::parse(name), Some(tail));
        for (from, to) in [
            ("0000000a03000028", "0000000A03000028"),
            ("0000000a03000028", "a03000028"),
            ("0000000a03000028", "+000000a03000028"),
            ("0000000a03000028", ""),
            ("0000000a03000028", "0000000a03000028.tail-0000000a03000028"),
            ("0000000a03000028-", "0000000a03000028"),
            ("abababababababab", "ABABABABABABABAB"),
            (".tail-", ".tail"),
            (".tail-", ".partial.tail-"),
            ("000000010000000A00000003", "000000010000000a00000003"),
            ("000000010000000A00000003", "00000002.history"),
        ] {
            assert_eq!(WalObjectName::parse(&name.replacen(from, to, 1)), None, "{from} -> {to}");
        }
    }

    proptest! {
        #[test]
        fn a_name_that_is_understood_has_one_spelling(name in "[0-9A]{23,24}\\.tail-[0-9a-f]{15,17}-[0-9a-f]{16}") {
            if let Some(WalObjectName::Tail { segment, end, hash }) = WalObjectName::parse(&name) {
                prop_assert_eq!(format!("{segment}.tail-{:016x}-{hash}", end.as_u64()), name);
            }
        }
    }

    #[test]
    fn cluster_names_become_no_paths() {
        for name in ["", ".", "..", "a/b", "a b", &"x".repeat(64)] {
            assert!(ClusterLayout::new(name).is_err(), "{name}");
        }
    }
}
