//! One SQL session, used from synchronous code.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::connection::{ConnectError, Connection, Purpose, Rows, server_error};
use super::conninfo::Conninfo;
use crate::stop_flag::StopFlag;

/// A statement failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// What the server said, with its SQLSTATE.
    pub message: String,
    /// The SQLSTATE; `None` when the connection broke.
    pub code: Option<String>,
}

impl From<anyhow::Error> for SqlError {
    fn from(error: anyhow::Error) -> Self {
        let code = server_error(&error).map(|server| server.code().as_str().to_owned());
        Self { message: format!("{error:#}"), code }
    }
}

/// A connection that stays open.
///
/// Every statement uses the simple query protocol: it works through whatever stands between, and returns text.
pub struct Session {
    runtime: Runtime,
    connection: Mutex<Connection>,
    stop: Option<Arc<StopFlag>>,
}

impl Session {
    /// Connects, and turns off every timeout that could end a long backup's session.
    pub fn connect(conninfo: &str) -> Result<Self> {
        let conninfo = Conninfo::resolve(conninfo).context("unable to understand the connection string")?;
        Self::open(conninfo, None).map_err(|error| match error.downcast::<ConnectError>() {
            Ok(error) => SqlError::from(anyhow::Error::from(error)).into(),
            Err(error) => error,
        })
    }

    /// [`Session::connect`] of a session that is left when the end comes: neither a server that says nothing nor a long
    /// statement is waited for then.
    ///
    /// # Errors
    /// [`ConnectError`] where no server can be connected to.
    pub fn connect_until(conninfo: Conninfo, stop: Arc<StopFlag>) -> Result<Self> {
        Self::open(conninfo, Some(stop))
    }

    fn open(mut conninfo: Conninfo, stop: Option<Arc<StopFlag>>) -> Result<Self> {
        conninfo.application_name.get_or_insert_with(|| "walkeep".to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("unable to start a SQL session")?;
        let connecting = Connection::connect(&conninfo, Purpose::Sql);
        match runtime.block_on(unless_stopped(stop.as_deref(), connecting)) {
            Ok(connection) => {
                let session = Self { runtime, connection: Mutex::new(connection), stop };
                session.prepare()?;
                Ok(session)
            }
            Err(error) => {
                // A name may still be looked up, which nobody can interrupt.
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    fn prepare(&self) -> Result<()> {
        for statement in [
            "SET search_path = pg_catalog",
            "SET statement_timeout = 0",
            "SET lock_timeout = 0",
            "SET idle_in_transaction_session_timeout = 0",
            "SET client_min_messages = warning",
            "SET datestyle = iso",
            "SET timezone = 'UTC'",
        ] {
            self.execute(statement)?;
        }
        // Appeared in 14.
        let known = self.value("SELECT count(*) FROM pg_settings WHERE name = 'idle_session_timeout'")?;
        if known == "1" { self.execute("SET idle_session_timeout = 0") } else { Ok(()) }
    }

    fn query(&self, sql: &str) -> Result<Vec<Rows>> {
        let mut connection = self.connection.lock();
        let answer = unless_stopped(self.stop.as_deref(), connection.query(sql));
        Ok(self.runtime.block_on(answer).map_err(SqlError::from)?)
    }

    /// Runs a statement for its effect.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).map(drop)
    }

    /// The rows of a query as text; NULL is `None`.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let text = |value: Option<bytes::Bytes>| value.map(|value| String::from_utf8_lossy(&value).into_owned());
        let rows = self.query(sql)?.into_iter().flat_map(|result| result.rows);
        Ok(rows.map(|row| row.into_iter().map(text).collect()).collect())
    }

    /// The one row of a query, NULLs as empty text.
    pub fn row(&self, sql: &str) -> Result<Vec<String>> {
        let rows = self.rows(sql)?;
        let row = rows.into_iter().next().with_context(|| format!("'{sql}' gave no row"))?;
        Ok(row.into_iter().map(Option::unwrap_or_default).collect())
    }

    /// The one value of a query, NULL as empty text.
    pub fn value(&self, sql: &str) -> Result<String> {
        self.row(sql)?.into_iter().next().with_context(|| format!("'{sql}' gave no column"))
    }

    /// Whether the server or the network has ended the session.
    pub fn is_lost(&self) -> bool {
        let mut connection = self.connection.lock();
        self.runtime.block_on(connection.is_lost())
    }
}

async fn unless_stopped<T>(stop: Option<&StopFlag>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(stop) = stop else { return work.await };
    match stop.unless(work).await {
        Some(done) => done,
        None => bail!("the agent ends"),
    }
}
