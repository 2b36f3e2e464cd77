//! Why a server cannot be used, as far as callers tell the reasons apart.

use std::fmt;

use walkeep_proto::replication::{ServerMessage, SqlState};

/// The server refused a statement, or the session.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServerError(pub ServerMessage);

impl ServerError {
    /// The kind of the condition.
    pub const fn code(&self) -> SqlState {
        self.0.code
    }
}

/// The connection ended without a word of the server: it crashed, timed out on us, or something in between cut the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server closed the connection unexpectedly")]
pub struct ConnectionClosed;

/// No server could be connected to.
#[derive(Debug)]
pub struct ConnectError {
    /// What was tried, in that order; empty if there was nothing to try.
    pub attempts: Vec<FailedAttempt>,
}

/// One try to connect.
#[derive(Debug)]
pub struct FailedAttempt {
    /// Host and address.
    pub target: String,
    /// Why it failed.
    pub error: anyhow::Error,
}

impl ConnectError {
    /// What the server said that refused us; the first, if several did.
    pub fn server_error(&self) -> Option<&ServerError> {
        self.attempts.iter().find_map(|attempt| attempt.error.downcast_ref())
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("unable to connect to ")?;
        if self.attempts.is_empty() {
            return f.write_str("PostgreSQL: no address is known");
        }
        // In an order of their own: hosts that are tried in random order fail alike.
        let mut attempts: Vec<_> = self.attempts.iter().collect();
        attempts.sort_by(|one, other| one.target.cmp(&other.target));
        for (index, attempt) in attempts.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {:#}", attempt.target, attempt.error)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

/// What the server said, wherever in the chain of `error` it stands.
pub fn server_error(error: &anyhow::Error) -> Option<&ServerError> {
    let direct = error.chain().find_map(|cause| cause.downcast_ref::<ServerError>());
    direct.or_else(|| error.chain().find_map(|cause| cause.downcast_ref::<ConnectError>()?.server_error()))
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    fn refusal() -> ServerError {
        ServerError(ServerMessage {
            severity: "FATAL".to_owned(),
            code: SqlState::INVALID_PASSWORD,
            message: "no".to_owned(),
            detail: None,
            hint: None,
            context: None,
            routine: None,
        })
    }

    #[test]
    fn what_the_server_said_is_found_behind_contexts_and_attempts() {
        let direct = Err::<(), _>(refusal()).context("unable to do this").context("unable to do that").unwrap_err();
        assert_eq!(server_error(&direct).unwrap().code(), SqlState::INVALID_PASSWORD);
        let attempts = vec![
            FailedAttempt { target: "host 'a' port 1".to_owned(), error: anyhow!("no route") },
            FailedAttempt { target: "host 'b' port 2".to_owned(), error: direct },
        ];
        let error = anyhow::Error::new(ConnectError { attempts }).context("unable to stream");
        assert_eq!(server_error(&error).unwrap().code(), SqlState::INVALID_PASSWORD);
        assert_eq!(
            format!("{error:#}"),
            "unable to stream: unable to connect to host 'a' port 1: no route; \
             host 'b' port 2: unable to do that: unable to do this: FATAL: no [28P01]"
        );
        assert!(server_error(&anyhow!("something else")).is_none());
    }
}
