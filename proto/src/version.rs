//! PostgreSQL's major versions and what differs between their formats.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A major version whose formats this crate reads.
///
/// Anything older or newer is refused by name rather than guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum MajorVersion {
    /// PostgreSQL 13.
    V13,
    /// PostgreSQL 14.
    V14,
    /// PostgreSQL 15.
    V15,
    /// PostgreSQL 16.
    V16,
    /// PostgreSQL 17.
    V17,
    /// PostgreSQL 18.
    V18,
}

/// The version is none that this build supports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PostgreSQL {0} is not supported: this build reads 13 to 18")]
pub struct UnsupportedVersion(pub String);

impl MajorVersion {
    /// Every supported version, oldest first.
    pub const ALL: [Self; 6] = [Self::V13, Self::V14, Self::V15, Self::V16, Self::V17, Self::V18];

    /// The number people say.
    pub const fn number(self) -> u16 {
        match self {
            Self::V13 => 13,
            Self::V14 => 14,
            Self::V15 => 15,
            Self::V16 => 16,
            Self::V17 => 17,
            Self::V18 => 18,
        }
    }

    /// `XLOG_PAGE_MAGIC` of the version's WAL pages (`access/xlog_internal.h`).
    pub const fn wal_page_magic(self) -> u16 {
        match self {
            Self::V13 => 0xD106,
            Self::V14 => 0xD10D,
            Self::V15 => 0xD110,
            Self::V16 => 0xD113,
            Self::V17 => 0xD116,
            Self::V18 => 0xD118,
        }
    }

    /// The version whose WAL pages carry `magic`.
    pub fn from_wal_page_magic(magic: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.wal_page_magic() == magic)
    }

    /// `CATALOG_VERSION_NO` (`catalog/catversion.h`): it tells the majors apart where `pg_control_version` does not.
    pub const fn catalog_version(self) -> u32 {
        match self {
            Self::V13 => 202_007_201,
            Self::V14 => 202_107_181,
            Self::V15 => 202_209_061,
            Self::V16 => 202_307_071,
            Self::V17 => 202_406_281,
            Self::V18 => 202_506_291,
        }
    }

    /// The version with this `CATALOG_VERSION_NO`.
    pub fn from_catalog_version(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.catalog_version() == number)
    }

    /// `PG_CONTROL_VERSION` (`catalog/pg_control.h`).
    pub const fn control_version(self) -> u32 {
        match self {
            Self::V13 | Self::V14 | Self::V15 | Self::V16 => 1300,
            Self::V17 => 1700,
            Self::V18 => 1800,
        }
    }

    /// The version of a server that reports `server_version_num`, e.g. 170010 → 17.
    pub fn from_server_version_num(number: u32) -> Result<Self, UnsupportedVersion> {
        let major = number / 10_000;
        u16::try_from(major).map_err(|_| UnsupportedVersion(major.to_string())).and_then(Self::try_from)
    }
}

impl TryFrom<u16> for MajorVersion {
    type Error = UnsupportedVersion;

    fn try_from(number: u16) -> Result<Self, Self::Error> {
        Self::ALL
            .into_iter()
            .find(|version| version.number() == number)
            .ok_or_else(|| UnsupportedVersion(number.to_string()))
    }
}

impl From<MajorVersion> for u16 {
    fn from(version: MajorVersion) -> Self {
        version.number()
    }
}

impl fmt::Display for MajorVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

impl FromStr for MajorVersion {
    type Err = UnsupportedVersion;

    /// Parses the content of a `PG_VERSION` file or a plain major number.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        text.parse::<u16>().map_err(|_| UnsupportedVersion(text.chars().take(20).collect())).and_then(Self::try_from)
    }
}
