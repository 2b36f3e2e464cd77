//! Why streaming stopped, as kinds that status, metrics and the pause before the next attempt depend on.

use std::time::Duration;

use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use crate::config::ConfigError;
use crate::postgres::connection::{OwnRefusal, hint, own_refusal, server_error};

/// Streaming stopped.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The server cannot be reached, or the connection broke.
    #[error("unable to stream WAL: {0:#}")]
    Connection(anyhow::Error),
    /// The server refuses: authentication, privilege, settings, no free place.
    #[error("unable to stream WAL, the server refuses: {0:#}")]
    Refused(anyhow::Error),
    /// No TLS as this side wants it: the server's certificate, or files of this side.
    #[error("unable to stream WAL: {0:#}")]
    Tls(anyhow::Error),
    /// This side does not let itself be authenticated like that, or has no password.
    #[error("unable to stream WAL: {0:#}")]
    Authentication(anyhow::Error),
    /// The configuration or the connection string cannot be used.
    #[error("unable to stream WAL: {0}")]
    Configuration(String),
    /// What answers is another cluster.
    #[error(
        "another cluster answers: its system identifier is {found}, the repository's cluster has {expected}; \
         nothing is taken from it"
    )]
    WrongCluster {
        /// What the repository holds.
        expected: SystemIdentifier,
        /// What the server says.
        found: SystemIdentifier,
    },
    /// What answers is a standby, and the configuration does not allow one.
    #[error("the server is a standby: its primary may go on without it. Set [stream] standby = true if that is meant")]
    Standby,
    /// The server does not have the WAL any more.
    #[error("WAL from {from} on timeline {timeline} is lost: {message}")]
    WalRemoved {
        /// The timeline.
        timeline: TimelineId,
        /// The first byte that is missing.
        from: Lsn,
        /// What the server said.
        message: String,
    },
    /// The server sends other bytes than it had sent before.
    #[error("the server sends other WAL than before: segment {segment} differs from {at} on")]
    Diverged {
        /// File name of the segment.
        segment: String,
        /// The first byte that differs.
        at: Lsn,
    },
    /// The server is behind what it had sent, on the same timeline.
    #[error("the server is at {server} on timeline {timeline}, behind {held}, up to which its WAL is here")]
    Behind {
        /// The timeline.
        timeline: TimelineId,
        /// Where the server is.
        server: Lsn,
        /// Where we are.
        held: Lsn,
    },
    /// The server says something that the protocol does not allow here.
    #[error("unable to understand the server: {0}")]
    Protocol(String),
    /// The spool cannot be written or read.
    #[error("{0:#}")]
    Disk(anyhow::Error),
    /// The spool cannot be made durable.
    #[error("{0:#}")]
    Fsync(anyhow::Error),
    /// The repository cannot be asked or written.
    #[error("{0:#}")]
    Repository(anyhow::Error),
}

impl StreamError {
    /// Why there is no session with the server. What the server said is a refusal, unless it is about to stop or has just
    /// started: that passes.
    pub fn of_connection(error: anyhow::Error) -> Self {
        if let Some(server) = server_error(&error) {
            let passes = server.code().as_str().starts_with("57P");
            return if passes { Self::Connection(error) } else { Self::Refused(error) };
        }
        match own_refusal(&error) {
            Some(OwnRefusal::Tls) => Self::Tls(error),
            Some(OwnRefusal::Authentication) => Self::Authentication(error),
            Some(OwnRefusal::Configuration) => Self::Configuration(match hint(&error) {
                Some(hint) => format!("{error:#} (hint: {hint})"),
                None => format!("{error:#}"),
            }),
            None if error.is::<ConfigError>() => Self::Configuration(format!("{error:#}")),
            None => Self::Connection(error),
        }
    }

    /// What is wrong, without what it keeps from being done: the same for every session that it meets.
    pub fn cause(&self) -> String {
        match self {
            Self::Connection(error) | Self::Refused(error) | Self::Tls(error) | Self::Authentication(error) => {
                format!("{error:#}")
            }
            Self::Configuration(problem) => problem.clone(),
            other => other.to_string(),
        }
    }

    /// One word for metrics and for telling a repetition from something new.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Refused(_) => "refused",
            Self::Tls(_) => "tls",
            Self::Authentication(_) => "authentication",
            Self::Configuration(_) => "configuration",
            Self::WrongCluster { .. } => "wrong_cluster",
            Self::Standby => "standby",
            Self::WalRemoved { .. } => "wal_removed",
            Self::Diverged { .. } => "diverged",
            Self::Behind { .. } => "behind",
            Self::Protocol(_) => "protocol",
            Self::Disk(_) => "disk",
            Self::Fsync(_) => "fsync",
            Self::Repository(_) => "repository",
        }
    }

    /// Longest pause before the next attempt: what may pass by itself is tried soon.
    pub const fn longest_pause(&self) -> Duration {
        match self {
            Self::Connection(_) | Self::Protocol(_) | Self::WalRemoved { .. } | Self::Diverged { .. } => {
                Duration::from_secs(5)
            }
            Self::Disk(_) | Self::Fsync(_) | Self::Repository(_) => Duration::from_secs(10),
            Self::Refused(_)
            | Self::Tls(_)
            | Self::Authentication(_)
            | Self::Configuration(_)
            | Self::WrongCluster { .. }
            | Self::Standby
            | Self::Behind { .. } => Duration::from_secs(30),
        }
    }
}

/// Pauses between attempts: 200 ms at first, doubling up to what the failure allows; one that lasted begins anew.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pauses {
    attempts: u32,
}

impl Pauses {
    /// The pause before the next attempt.
    pub fn after(&mut self, error: &StreamError) -> Duration {
        let pause = Duration::from_millis(200).saturating_mul(1 << self.attempts.min(16));
        self.attempts = self.attempts.saturating_add(1);
        pause.min(error.longest_pause())
    }

    /// The attempt got somewhere.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use walkeep_proto::replication::{ServerMessage, SqlState};

    use super::*;
    use crate::postgres::connection::{NotAuthenticated, ServerError};
    use crate::postgres::conninfo::ConninfoError;

    #[test]
    fn who_stands_in_the_way_is_told_apart() {
        let said = |code: SqlState| {
            let (severity, message) = ("FATAL".to_owned(), "no".to_owned());
            anyhow::Error::from(ServerError(ServerMessage {
                severity,
                code,
                message,
                detail: None,
                hint: None,
                context: None,
                routine: None,
            }))
        };
        let cases: [(anyhow::Error, &str); 6] = [
            (said(SqlState::INVALID_PASSWORD), "refused"),
            (said(SqlState::ADMIN_SHUTDOWN), "connection"),
            (anyhow::anyhow!("no route"), "connection"),
            (NotAuthenticated("no password".to_owned()).into(), "authentication"),
            (ConninfoError::NoUser.into(), "configuration"),
            (ConfigError("[cluster] pgdata is not set".to_owned()).into(), "configuration"),
        ];
        for (error, kind) in cases {
            let shown = format!("{error:#}");
            assert_eq!(StreamError::of_connection(error).kind(), kind, "{shown}");
        }
        let error = StreamError::of_connection(ConninfoError::NoUser.into());
        assert!(
            error.to_string().ends_with(" (hint: add user=ROLE to the connection string, or set PGUSER)"),
            "{error}"
        );
        assert_eq!(error.to_string(), format!("unable to stream WAL: {}", error.cause()));
    }
}
