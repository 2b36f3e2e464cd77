//! What a server does with conditional writes.

use s3s::{S3Result, s3_error};

/// What `If-None-Match: *` and `If-Match` of a PutObject mean to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Conditional {
    /// What AWS says, and atomically: of several writers of a new key, one succeeds.
    #[default]
    Honoured,
    /// Nothing: 200, and the object is overwritten. So do rclone and Garage.
    Ignored,
    /// 412 when the key exists, and it is overwritten all the same.
    Lied,
    /// 501, whether it exists or not.
    NotImplemented,
}

/// What to do about the conditions of a write.
pub(super) struct Verdict {
    /// Whether s3s-fs is told of them.
    pub(super) keep_conditions: bool,
    /// Whether the answer is 412 although it was written.
    pub(super) refuse_afterwards: bool,
}

impl Conditional {
    /// Judges a write, which may have conditions, of a key that may exist.
    pub(super) fn judge(self, conditions: bool, exists: bool) -> S3Result<Verdict> {
        match self {
            Self::NotImplemented if conditions => {
                Err(s3_error!(NotImplemented, "A header you provided implies functionality that is not implemented"))
            }
            Self::Lied => Ok(Verdict { keep_conditions: false, refuse_afterwards: conditions && exists }),
            kind => Ok(Verdict { keep_conditions: kind == Self::Honoured, refuse_afterwards: false }),
        }
    }
}

/// The answer to a write whose condition does not hold.
pub(super) fn precondition_failed() -> s3s::S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}
