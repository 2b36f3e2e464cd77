//! Names of replication slots.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a replication slot: 1 to 63 of lower case letters, digits and underscores (`replication/slot.c`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SlotName(String);

/// The text is no name of a replication slot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no replication slot name: expected 1 to 63 of the characters a to z, 0 to 9 and _")]
pub struct IllegalSlotName(String);

impl SlotName {
    /// Most bytes of a name: PostgreSQL's `NAMEDATALEN - 1`.
    pub const LONGEST: usize = 63;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SlotName {
    type Error = IllegalSlotName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=Self::LONGEST).contains(&name.len()) && name.bytes().all(legal) {
            Ok(Self(name))
        } else {
            Err(IllegalSlotName(name.chars().take(80).collect()))
        }
    }
}

impl FromStr for SlotName {
    type Err = IllegalSlotName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::try_from(name.to_owned())
    }
}

impl From<SlotName> for String {
    fn from(name: SlotName) -> Self {
        name.0
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_postgresqls_names_are_names() {
        for name in ["walkeep", "1", "_", &"x".repeat(63)] {
            assert_eq!(name.parse::<SlotName>().unwrap().as_str(), name);
        }
        for name in ["", "Walkeep", "wal-keep", "wal keep", "wal\"keep", "größe", &"x".repeat(64)] {
            assert!(name.parse::<SlotName>().is_err(), "{name}");
        }
        assert!(serde_json::from_str::<SlotName>("\"a\\\"b\"").is_err());
    }
}
