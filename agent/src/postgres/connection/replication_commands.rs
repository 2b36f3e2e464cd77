//! Replication commands with typed answers.

use anyhow::{Context, Result, ensure};
use walkeep_proto::replication::command::{self, PhysicalSlot};
use walkeep_proto::replication::{
    CreatedSlot, SlotName, SlotPosition, SqlState, SystemIdentification, TimelineHistoryFile, answer,
};
use walkeep_proto::segment::WalSegmentSize;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;

use super::error::server_error;
use super::{Connection, Purpose};

/// All need a session that was opened for [`Purpose::PhysicalReplication`], unless something else is said.
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

    /// The cluster's segment size. Works in SQL sessions as well.
    pub async fn wal_segment_size(&mut self) -> Result<WalSegmentSize> {
        let row = self.query_row(&command::show("wal_segment_size")?).await;
        Ok(answer::wal_segment_size(&row.context("unable to ask for the WAL segment size")?)?)
    }

    /// The history file of a timeline; `None` where the server has no such file, as for timeline 1.
    pub async fn timeline_history(&mut self, timeline: TimelineId) -> Result<Option<TimelineHistoryFile>> {
        match self.query_row(&command::timeline_history(timeline)).await {
            Ok(row) => Ok(Some(TimelineHistoryFile::parse(&row)?)),
            Err(error) if server_error(&error).is_some_and(|e| e.code() == SqlState::UNDEFINED_FILE) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("unable to get the history of timeline {timeline}")),
        }
    }

    /// Creates a physical slot.
    ///
    /// # Errors
    /// [`SqlState::DUPLICATE_OBJECT`] when it exists, [`SqlState::CONFIGURATION_LIMIT_EXCEEDED`] when there are as many
    /// as `max_replication_slots` allows.
    pub async fn create_physical_slot(&mut self, name: &SlotName, slot: PhysicalSlot) -> Result<CreatedSlot> {
        let sql = command::create_physical_slot(name, slot, self.major_version()?);
        let row = self.query_row(&sql).await;
        Ok(CreatedSlot::parse(&row.with_context(|| format!("unable to create replication slot '{name}'"))?)?)
    }

    /// Where a physical slot stands; `None` where there is none of this name.
    ///
    /// Works in SQL sessions of all versions, and from 15 on in replication sessions.
    pub async fn read_slot(&mut self, name: &SlotName) -> Result<Option<SlotPosition>> {
        let what = || format!("unable to read replication slot '{name}'");
        if self.facts.purpose == Purpose::Sql {
            // A slot's name needs no quoting. SQL does not know the timeline.
            let sql = format!(
                "SELECT slot_type, restart_lsn, NULL FROM pg_catalog.pg_replication_slots WHERE slot_name = '{name}'"
            );
            let result = self.query(&sql).await.with_context(what)?.pop().unwrap_or_default();
            return Ok(result.rows.first().map(|row| SlotPosition::parse(row)).transpose()?.flatten());
        }
        let version = self.major_version()?;
        ensure!(version >= MajorVersion::V15, "{}: PostgreSQL {version} tells it in SQL sessions only", what());
        Ok(SlotPosition::parse(&self.query_row(&command::read_slot(name)).await.with_context(what)?)?)
    }

    /// Drops a slot; `wait` until its user has left it.
    pub async fn drop_slot(&mut self, name: &SlotName, wait: bool) -> Result<()> {
        let dropped = self.query(&command::drop_slot(name, wait)).await;
        dropped.with_context(|| format!("unable to drop replication slot '{name}'"))?;
        Ok(())
    }
}
