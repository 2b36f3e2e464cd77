//! The simple query protocol: statements as text, results as text.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use walkeep_proto::replication::{BackendMessage, FrontendMessage, ServerMessage};

use super::Connection;
use super::error::ServerError;

/// Most memory that the results of one query may take. What is asked here are settings and lists.
const LARGEST_RESULT: usize = 64 << 20;

/// The result of one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Names of the columns; none where the statement gives no rows.
    pub columns: Vec<String>,
    /// The rows, in text form; NULL is `None`.
    pub rows: Vec<Vec<Option<Bytes>>>,
    /// What the server says was done, such as `SELECT 1`.
    pub tag: String,
}

impl Rows {
    /// A value as text; `None` where there is no such row or column, for NULL, and for what is not UTF-8.
    pub fn text(&self, row: usize, column: usize) -> Option<&str> {
        str::from_utf8(self.rows.get(row)?.get(column)?.as_ref()?).ok()
    }
}

/// What has arrived of the results of one query.
#[derive(Default)]
struct Results {
    complete: Vec<Rows>,
    current: Rows,
    error: Option<ServerMessage>,
    size: usize,
}

impl Results {
    fn add_row(&mut self, row: Vec<Option<Bytes>>) -> Result<()> {
        let values: usize = row.iter().flatten().map(Bytes::len).sum();
        self.size += values + (row.len() + 1) * size_of::<Option<Bytes>>();
        ensure!(self.size <= LARGEST_RESULT, "the result is larger than {LARGEST_RESULT} bytes");
        self.current.rows.push(row);
        Ok(())
    }

    fn complete(&mut self, tag: String) {
        self.current.tag = tag;
        self.complete.push(std::mem::take(&mut self.current));
    }
}

impl Connection {
    /// Runs `sql`, which may be several statements or one replication command, and gives the result of each.
    ///
    /// # Errors
    /// [`ServerError`] when the server refuses; the connection then takes the next statement, unless the server ended
    /// it. After any other error it is of no more use.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Rows>> {
        self.begin()?;
        self.writer.send(FrontendMessage::Query(sql)).await?;
        let mut results = Results::default();
        loop {
            let message = match self.reader.next().await {
                Ok(message) => message,
                // A FATAL error has no ReadyForQuery behind it.
                Err(error) => return Err(results.error.map_or(error, |refusal| ServerError(refusal).into())),
            };
            match message {
                BackendMessage::RowDescription(columns) => results.current.columns = columns,
                BackendMessage::DataRow(row) => results.add_row(row)?,
                BackendMessage::CommandComplete(tag) => results.complete(tag),
                BackendMessage::EmptyQueryResponse => results.complete(String::new()),
                BackendMessage::ErrorResponse(error) => results.error = Some(error),
                BackendMessage::ReadyForQuery(_) => break,
                other => bail!("the server answered a query with {}", name_of(&other)),
            }
        }
        self.ready = true;
        match results.error {
            Some(error) => bail!(ServerError(error)),
            None => Ok(results.complete),
        }
    }

    /// Runs one statement that gives exactly one row.
    pub async fn query_row(&mut self, sql: &str) -> Result<Vec<Option<Bytes>>> {
        let mut results = self.query(sql).await?;
        let rows = results.pop().map(|result| result.rows).unwrap_or_default();
        let [row] = <[_; 1]>::try_from(rows).ok().with_context(|| format!("'{sql}' did not give one row"))?;
        Ok(row)
    }
}

/// What PostgreSQL's documentation calls a message.
pub(super) const fn name_of(message: &BackendMessage) -> &'static str {
    match message {
        BackendMessage::Authentication(_) => "Authentication",
        BackendMessage::BackendKeyData { .. } => "BackendKeyData",
        BackendMessage::ParameterStatus { .. } => "ParameterStatus",
        BackendMessage::NoticeResponse(_) => "NoticeResponse",
        BackendMessage::ErrorResponse(_) => "ErrorResponse",
        BackendMessage::ReadyForQuery(_) => "ReadyForQuery",
        BackendMessage::RowDescription(_) => "RowDescription",
        BackendMessage::DataRow(_) => "DataRow",
        BackendMessage::CommandComplete(_) => "CommandComplete",
        BackendMessage::EmptyQueryResponse => "EmptyQueryResponse",
        BackendMessage::CopyOutResponse(_) => "CopyOutResponse",
        BackendMessage::CopyInResponse(_) => "CopyInResponse",
        BackendMessage::CopyBothResponse(_) => "CopyBothResponse",
        BackendMessage::CopyData(_) => "CopyData",
        BackendMessage::CopyDone => "CopyDone",
        BackendMessage::NotificationResponse { .. } => "NotificationResponse",
        BackendMessage::NegotiateProtocolVersion { .. } => "NegotiateProtocolVersion",
    }
}
