//! What can be wrong with the bytes that a server sends.

use std::fmt;

/// The kind of a message: the byte it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u8);

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_graphic() { write!(f, "'{}'", char::from(self.0)) } else { write!(f, "0x{:02X}", self.0) }
    }
}

/// The bytes are not what this protocol allows here. The connection is of no more use: where the next message begins is
/// not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// No message of this kind can come from a server in simple query or replication mode.
    #[error("the server sent a message of the unknown kind {0}")]
    UnknownTag(Tag),
    /// A message states a length less than that of the length itself.
    #[error("the server sent a message of kind {tag} with the impossible length {length}")]
    ImpossibleLength {
        /// Its kind.
        tag: Tag,
        /// The stated length, which counts its own four bytes.
        length: i32,
    },
    /// A message is longer than any that this client expects.
    #[error("the server sent a message of kind {tag} with {length} bytes, at most {limit} are accepted")]
    TooLong {
        /// Its kind.
        tag: Tag,
        /// Bytes behind the length.
        length: u32,
        /// How many are accepted.
        limit: u32,
    },
    /// The content of a message does not have the layout of its kind.
    #[error("the server sent a malformed {message}: {problem}")]
    Malformed {
        /// What the message is called in PostgreSQL's documentation.
        message: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A payload inside a replication stream is of a kind that is not known.
    #[error("the replication stream holds a payload of the unknown kind {0}")]
    UnknownPayload(Tag),
}

impl WireError {
    pub(super) const fn malformed(message: &'static str, problem: &'static str) -> Self {
        Self::Malformed { message, problem }
    }
}

/// An answer to a replication command has not the expected shape or values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer to {command} is not as expected: {problem}")]
pub struct AnswerError {
    /// The command.
    pub command: &'static str,
    /// What is wrong, with the value found.
    pub problem: String,
}
