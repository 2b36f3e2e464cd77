//! Log sequence numbers: byte positions in a cluster's WAL.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A byte position in the WAL stream of one cluster (PostgreSQL's `XLogRecPtr`).
///
/// Text form is PostgreSQL's `pg_lsn`: two hexadecimal halves, `0/16B3748`. Serialised as that text in human-readable
/// formats and as a plain `u64` in binary ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// `0/0`: PostgreSQL's `InvalidXLogRecPtr`, which never names a record.
    pub const INVALID: Self = Self(0);
    /// The highest position that can be written down.
    pub const MAX: Self = Self(u64::MAX);

    /// The position `bytes` bytes after the start of the WAL.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The position as a number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this is anything but `0/0`.
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// The position `bytes` later, or `None` past the end of the number space.
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The position `bytes` later, stopping at [`Lsn::MAX`].
    pub const fn saturating_add(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `earlier` up to `self`; 0 when `earlier` is not earlier.
    pub const fn saturating_sub(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was no LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no LSN: expected two hexadecimal numbers as in 0/16B3748")]
pub struct ParseLsnError {
    text: String,
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    /// Accepts exactly `hex/hex`, each half of one to eight digits; nothing may follow.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let half = |digits: &str| -> Option<u64> {
            let hex = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if hex { u64::from_str_radix(digits, 16).ok() } else { None }
        };
        let parsed = text.split_once('/').and_then(|(high, low)| Some((half(high)? << 32) | half(low)?));
        parsed.map(Self).ok_or_else(|| ParseLsnError { text: text.chars().take(40).collect() })
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
        } else {
            u64::deserialize(deserializer).map(Self)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_form_is_postgresqls() {
        assert_eq!(Lsn::new(0x16_B3748).to_string(), "0/16B3748");
        assert_eq!("1A/2B".parse::<Lsn>().unwrap(), Lsn::new(0x1A_0000_002B));
        assert_eq!("19/00000042".parse::<Lsn>().unwrap(), Lsn::new(0x19_0000_0042));
    }

    #[test]
    fn garbage_is_refused() {
        for text in ["", "/", "0/", "/0", "0/3000028x", "0/123456789", "0 /1", "+1/1", "0/1/2", "0x1/2"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn display_and_parse_agree(bytes: u64) {
            prop_assert_eq!(Lsn::new(bytes).to_string().parse::<Lsn>().unwrap(), Lsn::new(bytes));
        }
        #[test]
        fn any_text_is_a_value_or_an_error(text: String) {
            let _ = text.parse::<Lsn>();
        }
    }
}
