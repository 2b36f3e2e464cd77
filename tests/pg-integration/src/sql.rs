//! SQL over a unix socket, blocking.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// A row as text; NULL is `None`.
pub type Row = Vec<Option<String>>;

/// The server's answer to SQL that failed, or why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} (SQLSTATE {})", sqlstate.as_deref().unwrap_or("none"))]
pub struct SqlError {
    /// The five-character code, if the server answered.
    pub sqlstate: Option<String>,
    /// The message, with detail and hint.
    pub message: String,
}

impl From<tokio_postgres::Error> for SqlError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let source = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
            return Self { sqlstate: None, message: format!("{error}{source}") };
        };
        let more = [db.detail(), db.hint()].into_iter().flatten().map(|text| format!("; {text}")).collect::<String>();
        Self {
            sqlstate: Some(db.code().code().to_owned()),
            message: format!("{}: {}{more}", db.severity(), db.message()),
        }
    }
}

/// One connection, closed on drop. Text in, text out: the simple query protocol.
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    /// Connects as the superuser `postgres`.
    pub fn connect(sockets: &Path, port: u16, database: &str) -> Result<Self, SqlError> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime can be built");
        let mut config = Config::new();
        config.host_path(sockets).port(port).user("postgres").dbname(database).application_name("walkeep-test");
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Self { runtime, client })
    }

    /// Runs statements. Several in one text are one transaction, so `VACUUM` and the like need a text of their own.
    pub fn try_sql(&self, text: &str) -> Result<(), SqlError> {
        Ok(self.runtime.block_on(self.client.batch_execute(text))?)
    }

    /// The rows of a query.
    pub fn try_query(&self, text: &str) -> Result<Vec<Row>, SqlError> {
        let messages = self.runtime.block_on(self.client.simple_query(text))?;
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// [`Session::try_sql`] that must work.
    #[track_caller]
    pub fn sql(&self, text: &str) {
        // No closures here: a panic in one would name this file instead of the scenario's line.
        if let Err(e) = self.try_sql(text) {
            panic!("{e}\nin SQL: {text}")
        }
    }

    /// [`Session::try_query`] that must work.
    #[track_caller]
    pub fn query(&self, text: &str) -> Vec<Row> {
        match self.try_query(text) {
            Ok(rows) => rows,
            Err(e) => panic!("{e}\nin SQL: {text}"),
        }
    }

    /// The only column of the only row, parsed.
    #[track_caller]
    pub fn query_one<T: FromStr>(&self, text: &str) -> T {
        let rows = self.query(text);
        let [row] = rows.as_slice() else { panic!("{} rows instead of one from: {text}", rows.len()) };
        let [Some(value)] = row.as_slice() else { panic!("{row:?} instead of one value from: {text}") };
        let Ok(value) = value.parse() else { panic!("'{value}' has another type than expected, from: {text}") };
        value
    }
}
