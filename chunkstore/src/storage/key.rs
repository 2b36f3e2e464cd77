//! Object keys: the same text locally and in a bucket.

use std::fmt;

use crate::error::{Error, Result};

/// The name of an object: relative, lower-risk ASCII, parts separated by `/`.
///
/// The constructor refuses everything that would leave the repository or hide from a listing (`..`, a leading dot, empty
/// parts), so a key read from a damaged object cannot point outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Longest key in bytes, well under every file system's and S3's limits.
    pub const MAX_LENGTH: usize = 400;

    /// Checks the text.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let part_is_plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if text.len() <= Self::MAX_LENGTH && text.split('/').all(part_is_plain) {
            Ok(Self(text))
        } else {
            Err(Error::Invalid(format!("'{}' is no object key", text.chars().take(80).collect::<String>())))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part behind the last `/`.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_inside_the_repository() {
        for text in ["", "/", "a//b", "../a", "a/../b", "a/.tmp", ".tmp/x", "a\\b", "a b", "/a", "a/", "é"] {
            assert!(ObjectKey::new(text).is_err(), "{text:?}");
        }
        for text in ["walkeep.json", "packs/0a/0a1b", "clusters/main/wal/00000001/00000002.history-0123456789abcdef"] {
            assert_eq!(ObjectKey::new(text).unwrap().as_str(), text);
        }
    }
}
