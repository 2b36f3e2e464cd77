//! Why a server cannot be used, as far as callers tell the reasons apart.

use std::fmt;

use walkeep_proto::replication::scram::ScramError;
use walkeep_proto::replication::{ServerMessage, SqlState};

use super::super::conninfo::ConninfoError;
use super::super::tls::TlsError;

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

/// This side does not let itself be authenticated like that, or has not got what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotAuthenticated(pub(crate) String);

/// What on this side stands in the way of a session: the server has not refused it, and trying again will not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnRefusal {
    /// TLS: the server's certificate, files of this side, or nothing in common.
    Tls,
    /// Passwords, and proofs of either side.
    Authentication,
    /// The connection string, or what it names.
    Configuration,
}

/// What of this side stands in the way, if it was that; the first, if several do.
pub fn own_refusal(error: &anyhow::Error) -> Option<OwnRefusal> {
    error.chain().find_map(|cause| {
        if let Some(ConnectError { attempts }) = cause.downcast_ref() {
            attempts.iter().find_map(|attempt| own_refusal(&attempt.error))
        } else if cause.is::<TlsError>() {
            Some(OwnRefusal::Tls)
        } else if cause.is::<NotAuthenticated>() || cause.is::<ScramError>() {
            Some(OwnRefusal::Authentication)
        } else {
            cause.is::<ConninfoError>().then_some(OwnRefusal::Configuration)
        }
    })
}

/// What to do next, where the error knows and does not say it in its text.
pub fn hint(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        let tls = cause.downcast_ref::<TlsError>().and_then(TlsError::hint);
        tls.or_else(|| cause.downcast_ref::<ConninfoError>()?.hint())
    })
}

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
            if let Some(hint) = hint(&attempt.error) {
                write!(f, " (hint: {hint})")?;
            }
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

    #[test]
    fn what_this_side_refuses_is_found_among_attempts() {
        let attempts = |errors: Vec<anyhow::Error>| {
            let attempt = |error| FailedAttempt { target: "host 'a' port 1".to_owned(), error };
            anyhow::Error::new(ConnectError { attempts: errors.into_iter().map(attempt).collect() }).context("more")
        };
        let password = || NotAuthenticated("no password".to_owned()).into();
        assert_eq!(own_refusal(&attempts(vec![anyhow!("no route"), password()])), Some(OwnRefusal::Authentication));
        assert_eq!(own_refusal(&attempts(vec![anyhow!("no route"), refusal().into()])), None);
        let tls = || anyhow::Error::from(TlsError::not_offered());
        assert_eq!(own_refusal(&attempts(vec![tls(), password()])), Some(OwnRefusal::Tls));
        let text = format!("{:#}", attempts(vec![tls()]));
        assert!(text.ends_with("which sslmode wants (hint: set ssl = on in the server, or another sslmode)"), "{text}");
        let conninfo = anyhow::Error::from(ConninfoError::NoUser).context("unable to do this");
        assert_eq!(own_refusal(&conninfo), Some(OwnRefusal::Configuration));
    }
}
