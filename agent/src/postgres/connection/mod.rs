//! Sessions with a PostgreSQL server: simple queries, replication commands, and the stream of WAL.
//!
//! [`Connection::connect`] does what libpq does with the same connection string: it tries hosts and addresses in order,
//! negotiates TLS, authenticates, and looks for the kind of server that is wanted. [`Connection::query`] runs
//! statements; [`Connection::start_replication`] turns a session into a [`ReplicationReader`] and a
//! [`ReplicationWriter`], which never wait for each other.
//!
//! What a server sends cannot make this panic nor take memory without bound: messages, results and remembered settings
//! have limits. A future that is dropped in the middle of a statement leaves the connection refusing the next one; the
//! halves of a stream can be dropped at any await and used again.

mod authentication;
mod base_backup;
mod encryption;
mod error;
mod establish;
mod messages;
mod query;
mod replication;
mod replication_commands;
mod session_attributes;
mod startup;
#[cfg(test)]
pub(crate) mod tests;
mod transport;

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{ReadHalf, WriteHalf};
use walkeep_proto::replication::FrontendMessage;

pub use base_backup::{BackupEnd, BackupPart, BaseBackup};
pub use error::{
    ConnectError, ConnectionClosed, FailedAttempt, NotAuthenticated, OwnRefusal, ServerError, hint, own_refusal,
    server_error,
};
pub use query::Rows;
pub use replication::{ReplicationReader, ReplicationStart, ReplicationWriter, StreamEnd, StreamEvent};

use messages::{MessageReader, MessageWriter};
use transport::Transport;

use super::conninfo::Conninfo;

/// How long a farewell may take: the server may be gone.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a session is for: it decides how it is opened, and which line of pg_hba.conf lets it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Replication commands and SHOW (`replication=true`). Takes one of `max_wal_senders`.
    PhysicalReplication,
    /// SQL, in the connection string's database.
    Sql,
}

/// One open session between two statements.
pub struct Connection {
    reader: MessageReader<ReadHalf<Transport>>,
    writer: MessageWriter<WriteHalf<Transport>>,
    facts: Facts,
    /// Whether the server waits for a statement. Not so inside one, after one that was given up, or after an error of
    /// the connection.
    ready: bool,
}

/// What is known about a session since it was opened.
#[derive(Clone, Debug)]
struct Facts {
    purpose: Purpose,
    target: String,
    process: u32,
    encrypted: bool,
}

impl Connection {
    /// Opens a session with the first server that is reachable, lets us in, and is of the wanted kind.
    ///
    /// `connect_timeout` holds for each address, from the first packet until the server is ready for a statement.
    ///
    /// # Errors
    /// [`ConnectError`] with everything that was tried.
    pub async fn connect(conninfo: &Conninfo, purpose: Purpose) -> Result<Self> {
        establish::connect(conninfo, purpose).await.map_err(Into::into)
    }

    /// Host and address of the server, for messages.
    pub fn target(&self) -> &str {
        &self.facts.target
    }

    /// The server process: what `pg_stat_activity` calls pid.
    pub const fn server_process(&self) -> u32 {
        self.facts.process
    }

    /// Whether the session runs over TLS.
    pub const fn is_encrypted(&self) -> bool {
        self.facts.encrypted
    }

    /// The value of a setting that the server reports by itself, such as `server_version` or `in_hot_standby` (14 and
    /// later).
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.reader.parameters().get(name).map(String::as_str)
    }

    /// Whether the session has ended, as far as has been heard: between statements a server says nothing but farewells.
    pub async fn is_lost(&mut self) -> bool {
        if !self.ready {
            return true;
        }
        // A poll that finds nothing to read ends at once; `next` loses nothing when it is dropped.
        let heard = tokio::time::timeout(Duration::ZERO, self.reader.next()).await;
        self.ready = heard.is_err();
        !self.ready
    }

    /// Takes leave, so that the server's log has no complaint. Never fails, and never takes longer than a second.
    pub async fn close(mut self) {
        let farewell = async {
            self.writer.send(FrontendMessage::Terminate).await?;
            self.writer.shutdown().await.map_err(anyhow::Error::from)
        };
        match tokio::time::timeout(FAREWELL, farewell).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("unable to take leave of {}: {error:#}", self.facts.target),
            Err(_) => tracing::debug!("unable to take leave of {}: it does not read", self.facts.target),
        }
    }

    /// Begins a statement.
    fn begin(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.ready, false) {
            bail!("the session with {} was given up in the middle of a statement", self.facts.target);
        }
        Ok(())
    }
}
