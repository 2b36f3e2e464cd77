//! Connecting, and finding out who answers.

use std::time::Duration;

use anyhow::Result;
use walkeep_proto::replication::SystemIdentification;

use super::super::receive::Rhythm;
use super::super::{StreamError, conninfo};
use super::Attempts;
use crate::postgres::connection::{Connection, Purpose};

/// Longest wait for the answer to a command; streams have a rhythm of their own.
const ANSWER: Duration = Duration::from_secs(60);

impl Attempts<'_> {
    pub(super) async fn connect(&self) -> Result<Connection, StreamError> {
        let mut conninfo = conninfo(self.context)?;
        conninfo.application_name = Some(self.settings.application_name.clone());
        Connection::connect(&conninfo, Purpose::PhysicalReplication).await.map_err(StreamError::of_connection)
    }

    /// Who answers, and whether it may be listened to.
    pub(super) async fn identify(&self, connection: &mut Connection) -> Result<SystemIdentification, StreamError> {
        let server = answered(connection.identify_system()).await?;
        if server.system_identifier != self.identity.system_identifier {
            let (expected, found) = (self.identity.system_identifier, server.system_identifier);
            return Err(StreamError::WrongCluster { expected, found });
        }
        if !self.settings.standby && self.is_standby(connection).await? {
            return Err(StreamError::Standby);
        }
        Ok(server)
    }

    async fn is_standby(&self, connection: &mut Connection) -> Result<bool, StreamError> {
        let told = connection.parameter("in_hot_standby").map(|value| value == "on");
        match told {
            Some(standby) => Ok(standby),
            // 13 does not tell; a standby's sessions are read-only there too.
            None => Ok(answered(connection.show("transaction_read_only")).await? == "on"),
        }
    }

    pub(super) async fn rhythm(&self, connection: &mut Connection) -> Result<Rhythm, StreamError> {
        let text = answered(connection.show("wal_sender_timeout")).await?;
        let timeout =
            parse_setting(&text).ok_or_else(|| StreamError::Protocol(format!("wal_sender_timeout is '{text}'")))?;
        Ok(Rhythm::of(timeout))
    }
}

/// The answer to a command, which must come in time.
pub(in crate::stream) async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T, StreamError> {
    in_time(answer).await?.map_err(StreamError::of_connection)
}

/// The same of a command whose refusal means something else.
pub(super) async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, StreamError> {
    let silent = |_| anyhow::anyhow!("the server has not answered for {} s", ANSWER.as_secs());
    tokio::time::timeout(ANSWER, answer).await.map_err(silent).map_err(StreamError::Connection)
}

/// A length of time as PostgreSQL shows it: `60s`, `1min`, `500ms`, `0`.
fn parse_setting(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let milliseconds = match &text[end..] {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}
