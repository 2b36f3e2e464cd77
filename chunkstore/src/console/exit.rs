//! Exit codes.

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::error::{Error, ErrorKind};

/// How a command ended. The numbers are part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// The operation failed: try again or read the message.
    Failed = 1,
    /// Wrong usage.
    Usage = 2,
    /// The configuration is wrong, or asks for what this build cannot do.
    Configuration = 3,
    /// The repository cannot be reached.
    Unreachable = 4,
    /// Damage was found.
    Damaged = 5,
    /// There is no such thing.
    NotFound = 6,
    /// Locked, other content under the same name, or another cluster.
    Conflict = 7,
    /// The recovery target cannot be reached.
    TargetNotReachable = 8,
    /// `check` found problems.
    CheckProblems = 10,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Full | ErrorKind::Failed => Self::Failed,
            ErrorKind::Unreachable => Self::Unreachable,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Unsupported => Self::Configuration,
            ErrorKind::Invalid => Self::Usage,
        }
    }
}

/// The code for an error: that of the first repository error among its causes, else [`Exit::Failed`].
pub fn exit_of(error: &(dyn StdError + 'static)) -> Exit {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<Error>() {
            return match error {
                // Its owner decides how much a bucket holds: to whoever uses it, it refuses.
                Error::Bucket { kind: ErrorKind::Full, .. } => Exit::Unreachable,
                error => error.kind().into(),
            };
        }
        cause = error.source();
    }
    Exit::Failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("unable to restore")]
    struct Wrapped(#[source] Error);

    #[test]
    fn the_cause_decides() {
        assert_eq!(exit_of(&Wrapped(Error::not_found("backup 'x'"))), Exit::NotFound);
        assert_eq!(exit_of(&Wrapped(Error::damaged("packs/00", "short"))).code(), 5);
        assert_eq!(exit_of(&std::io::Error::other("x")), Exit::Failed);
        let full = Error::Bucket {
            operation: "store",
            object: "s3://b/k".to_owned(),
            problem: "QuotaExceeded".to_owned(),
            kind: ErrorKind::Full,
            hint: None,
        };
        assert_eq!(exit_of(&full), Exit::Unreachable);
    }
}
