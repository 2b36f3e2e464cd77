//! What can go wrong with a repository, and what the operator must do about it.

use std::fmt;
use std::io;

/// Result of every repository operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What the reader of an error has to do; both binaries map it to the same exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The storage cannot be reached or refuses access: mend the path, the rights or the network, then try again.
    Unreachable,
    /// The storage has no space left: free some, then try again. Nothing acknowledged is affected.
    Full,
    /// Stored bytes are not what was written: restore them from a copy or take a new backup.
    Damaged,
    /// There is no such object.
    NotFound,
    /// Somebody else holds or has stored what this operation wants: look at who it is before going on.
    Conflict,
    /// The repository was written by a newer Walkeep: use that version.
    Unsupported,
    /// A value given to the operation makes no sense.
    Invalid,
    /// Something on this machine failed: read the message, try again.
    Failed,
}

/// An error of the repository. Every variant names the object it is about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The storage failed.
    #[error("unable to {operation} '{object}'")]
    Storage {
        /// What was tried, as a verb.
        operation: &'static str,
        /// Object key or path.
        object: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A bucket's service failed, refused, or could not be reached.
    #[error("unable to {operation} '{object}': {problem}")]
    Bucket {
        /// What was tried, as a verb.
        operation: &'static str,
        /// The object or bucket, as `s3://…`.
        object: String,
        /// The service's answer, or what went wrong on the way to it.
        problem: String,
        /// What kind of error it is.
        kind: ErrorKind,
        /// What to do about it.
        hint: Option<&'static str>,
    },
    /// Bytes in the repository are not what was written.
    #[error("'{object}' is damaged: {problem}")]
    Damaged {
        /// Object key.
        object: String,
        /// What does not fit, with both values where two disagree.
        problem: String,
    },
    /// No object of that name.
    #[error("{object} does not exist")]
    NotFound {
        /// What was looked for.
        object: String,
    },
    /// Somebody else was there first.
    #[error("{object}: {problem}")]
    Conflict {
        /// What two parties want.
        object: String,
        /// Who or what stands against it.
        problem: String,
    },
    /// Made by a version that this one does not know.
    #[error("{object} needs a newer Walkeep: {problem}")]
    Unsupported {
        /// Object key.
        object: String,
        /// The version or feature, and what this build knows.
        problem: String,
    },
    /// What a new backup was to build on cannot be had.
    #[error("the earlier backup cannot be built on: {problem}")]
    UnusableParent {
        /// What is missing or damaged.
        problem: String,
    },
    /// The caller asked for something impossible.
    #[error("{0}")]
    Invalid(String),
    /// Part of a pipeline found nobody to hand its work to; the part that stopped knows why.
    #[error("the pack writer stopped")]
    Stopped,
    /// The caller gave the operation up.
    #[error("the operation was given up")]
    GivenUp,
    /// The RocksDB index failed. It can always be deleted: the next run rebuilds it.
    #[error("index at '{path}' failed")]
    Index {
        /// Its directory.
        path: String,
        /// RocksDB's answer.
        source: rocksdb::Error,
    },
}

impl Error {
    /// What the operator must do.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Storage { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    ErrorKind::Full
                }
                io::ErrorKind::NotFound => ErrorKind::NotFound,
                _ => ErrorKind::Unreachable,
            },
            Self::Bucket { kind, .. } => *kind,
            Self::Damaged { .. } | Self::UnusableParent { .. } => ErrorKind::Damaged,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Conflict { .. } => ErrorKind::Conflict,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::Invalid(_) => ErrorKind::Invalid,
            Self::Stopped | Self::GivenUp | Self::Index { .. } => ErrorKind::Failed,
        }
    }

    /// The same where an earlier backup was read for a new one: what is missing or damaged there can be had elsewhere.
    #[must_use]
    pub fn of_parent(self) -> Self {
        match self.kind() {
            ErrorKind::Damaged | ErrorKind::NotFound => Self::UnusableParent { problem: self.to_string() },
            _ => self,
        }
    }

    /// What to do about it, where the error itself knows.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Bucket { hint, .. } => *hint,
            _ => None,
        }
    }

    /// A structure of `object` that does not decode: of a newer version, or damaged.
    pub fn undecodable(object: impl fmt::Display, error: &crate::codec::DecodeError) -> Self {
        match error {
            crate::codec::DecodeError::Newer { .. } => {
                Self::Unsupported { object: object.to_string(), problem: error.to_string() }
            }
            _ => Self::damaged(object, error),
        }
    }

    /// Damage to `object`.
    pub fn damaged(object: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self::Damaged { object: object.to_string(), problem: problem.to_string() }
    }

    /// A missing object.
    pub fn not_found(object: impl fmt::Display) -> Self {
        Self::NotFound { object: object.to_string() }
    }

    /// Wraps a system error; a missing file becomes [`Error::NotFound`].
    pub fn storage(operation: &'static str, object: impl fmt::Display, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        if source.kind() == io::ErrorKind::NotFound && operation != "create" {
            return Self::not_found(format_args!("'{object}'"));
        }
        Self::Storage { operation, object: object.to_string(), source }
    }

    /// Whether the object simply is not there.
    pub fn is_not_found(&self) -> bool {
        self.kind() == ErrorKind::NotFound
    }
}
