//! `[stream]`, checked.

use std::time::Duration;

use anyhow::{Result, bail};
use walkeep_proto::replication::SlotName;

use super::{Config, ConfigError, length_of_time};

/// `[stream]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// The retention slot's name, if there is to be one.
    pub slot: Option<SlotName>,
    /// Whether commits may wait for the agent.
    pub synchronous: bool,
    /// The stream's `application_name`.
    pub application_name: String,
    /// How often the open segment is stored.
    pub tail_interval: Duration,
    /// Whether a standby may be streamed from.
    pub standby: bool,
}

impl Config {
    /// How WAL is streamed; `None` where it is not.
    pub fn stream_settings(&self) -> Result<Option<StreamSettings>> {
        let section = &self.stream;
        if section.enabled == Some(false) {
            return Ok(None);
        }
        let tail_interval = section.tail_interval.as_deref().unwrap_or("5s");
        let tail_interval = length_of_time("[stream] tail_interval", tail_interval)?;
        if tail_interval.is_zero() {
            bail!(ConfigError("[stream] tail_interval is 0: expected a length of time like '5s'".to_owned()));
        }
        let slot = Some(section.slot.as_deref().unwrap_or("walkeep")).filter(|slot| !slot.is_empty());
        let slot = slot.map(str::parse::<SlotName>).transpose();
        let synchronous = section.synchronous.unwrap_or(false);
        let usual_name = if synchronous { "walkeep" } else { "walkeep_async" };
        Ok(Some(StreamSettings {
            slot: slot.map_err(|error| ConfigError(format!("[stream] slot {error}")))?,
            synchronous,
            application_name: section.application_name.clone().unwrap_or_else(|| usual_name.to_owned()),
            tail_interval,
            standby: section.standby.unwrap_or(false),
        }))
    }
}
