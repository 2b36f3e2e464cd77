//! Names that PostgreSQL gives to clusters, relations and blocks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The number that `initdb` gives a cluster; it is the same in `pg_control`, in every WAL segment's first page header
/// and in the answer to `IDENTIFY_SYSTEM`.
///
/// Text form is decimal. In human-readable formats it is serialised as text, because JSON readers lose digits of a u64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    /// Wraps the number as PostgreSQL stores it.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number as PostgreSQL stores it.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SystemIdentifier {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for SystemIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for SystemIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

/// An object identifier (PostgreSQL's `Oid`).
pub type Oid = u32;

/// A block (page) number inside one relation fork, counted over all of its 1 GiB segments.
pub type BlockNumber = u32;

/// The part of a relation that a file or a WAL block reference belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ForkNumber {
    /// The data itself.
    Main,
    /// Free space map, `_fsm`.
    FreeSpaceMap,
    /// Visibility map, `_vm`.
    VisibilityMap,
    /// What an unlogged relation is reset to, `_init`.
    Init,
}

impl ForkNumber {
    /// The fork that PostgreSQL numbers so (`common/relpath.h`), if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::FreeSpaceMap),
            2 => Some(Self::VisibilityMap),
            3 => Some(Self::Init),
            _ => None,
        }
    }
}

/// Where a relation's files lie: tablespace, database and file number (PostgreSQL's `RelFileLocator`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RelFileLocator {
    /// Tablespace: 1663 is `base`, 1664 is `global`.
    pub tablespace: Oid,
    /// Database; 0 for shared relations.
    pub database: Oid,
    /// The relation's file number, which is not its OID.
    pub relation: Oid,
}
