//! Replication commands with typed answers.

use anyhow::{Context, Result};
use walkeep_proto::replication::{SqlState, SystemIdentification, TimelineHistoryFile, command};
use walkeep_proto::timeline::TimelineId;

use super::Connection;
use super::error::server_error;

/// All need a session that was opened for [`super::Purpose::PhysicalReplication`], unless something else is said.
impl Connection {
    /// Which cluster this is, and where it stands.
    pub async fn identify_system(&mut self) -> Result<SystemIdentification> {
        let row = self.query_row(command::IDENTIFY_SYSTEM).await.context("unable to identify the cluster")?;
        Ok(SystemIdentification::parse(&row)?)
    }

    /// The value of a setting, as SHOW writes it. Works in SQL sessions as well.
    pub async fn show(&mut self, setting: &str) -> Result<String> {
        let row = self.query_row(&command::show(setting)?).await;
        let row = row.with_context(|| format!("unable to ask for the setting {setting}"))?;
        let value = row.first().and_then(Option::as_ref).with_context(|| format!("{setting} has no value"))?;
        Ok(String::from_utf8_lossy(value).into_owned())
    }

    /// The history file of a timeline; `None` where the server has no such file, as for timeline 1.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<Option<TimelineHistoryFile>> {
        match self.query_row(&command::timeline_history(timeline)).await {
            Ok(row) => Ok(Some(TimelineHistoryFile::parse(&row)?)),
            Err(error) if server_error(&error).is_some_and(|e| e.code() == SqlState::UNDEFINED_FILE) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("unable to get the history of timeline {timeline}")),
        }
    }
}
