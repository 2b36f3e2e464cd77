//! One SQL session, used from synchronous code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A statement failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SqlError {
    /// What the server said, with its SQLSTATE.
    pub message: String,
    /// The SQLSTATE; `None` when the connection broke.
    pub code: Option<String>,
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => {
                let detail = db.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
                let code = db.code().code().to_owned();
                Self { message: format!("{}{detail} [{code}]", db.message()), code: Some(code) }
            }
            None => {
                // The library's own text is only a headline; the reason is behind it.
                let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
                Self { message: format!("{error}{source}"), code: None }
            }
        }
    }
}

/// A connection that stays open, watched by a thread of its own.
///
/// Every statement uses the simple query protocol: it works through whatever stands between, and returns text.
pub struct Session {
    runtime: Runtime,
    client: Client,
    lost: Arc<AtomicBool>,
}

impl Session {
    /// Connects, and turns off every timeout that could end a long backup's session.
    pub fn connect(conninfo: &str) -> Result<Self> {
        let mut config: tokio_postgres::Config =
            conninfo.parse().context("unable to understand the connection string")?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(10));
        }
        if config.get_application_name().is_none() {
            config.application_name("walkeep");
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        config.keepalives_idle(Duration::from_secs(30));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("sql")
            .enable_all()
            .build()
            .context("unable to start the SQL thread")?;
        let lost = Arc::new(AtomicBool::new(false));
        let (client, connection) = runtime.block_on(config.connect(NoTls)).map_err(SqlError::from)?;
        let flag = Arc::clone(&lost);
        runtime.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection ended: {error}");
            }
            flag.store(true, Ordering::SeqCst);
        });
        let session = Self { runtime, client, lost };
        session.prepare()?;
        Ok(session)
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

    /// Runs a statement for its effect.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.client.batch_execute(sql)).map_err(SqlError::from)?;
        Ok(())
    }

    /// The rows of a query as text; NULL is `None`.
    pub fn rows(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let messages = self.runtime.block_on(self.client.simple_query(sql)).map_err(SqlError::from)?;
        let texts =
            |row: &tokio_postgres::SimpleQueryRow| (0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect();
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(texts(row)),
                _ => None,
            })
            .collect())
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
        self.lost.load(Ordering::SeqCst)
    }
}
