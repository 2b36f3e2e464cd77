//! Replication commands: what a walsender understands besides SHOW. Each is sent as a simple query.

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Which cluster this is, and where it stands: answered by [`super::SystemIdentification`].
pub const IDENTIFY_SYSTEM: &str = "IDENTIFY_SYSTEM";

/// A setting's name could be more than a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name of a setting: expected letters, digits, underscores and dots")]
pub struct IllegalSettingName(String);

/// Asks for the value of a setting; a walsender knows it with or without a database.
pub fn show(setting: &str) -> Result<String, IllegalSettingName> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    if setting.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && setting.bytes().all(legal) {
        Ok(format!("SHOW {setting}"))
    } else {
        Err(IllegalSettingName(setting.chars().take(80).collect()))
    }
}

/// Asks for a timeline's history file: answered by [`super::TimelineHistoryFile`].
///
/// Timeline 1 has none, and the server says so with [`super::SqlState::UNDEFINED_FILE`].
pub fn timeline_history(timeline: TimelineId) -> String {
    format!("TIMELINE_HISTORY {timeline}")
}

/// Starts streaming from `start` on `timeline`, which need not be the server's newest. No slot takes part: one would be
/// advanced to what is durable here.
pub fn start_replication(start: Lsn, timeline: TimelineId) -> String {
    format!("START_REPLICATION PHYSICAL {start} TIMELINE {timeline}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spelled_as_postgresql_reads_them() {
        let timeline = TimelineId::new(4).unwrap();
        let start = Lsn::new(0x1_0300_0000);
        assert_eq!(show("wal_segment_size").unwrap(), "SHOW wal_segment_size");
        assert_eq!(timeline_history(timeline), "TIMELINE_HISTORY 4");
        assert_eq!(start_replication(start, timeline), "START_REPLICATION PHYSICAL 1/3000000 TIMELINE 4");
    }

    #[test]
    fn a_setting_is_a_name_and_nothing_more() {
        for setting in ["", "1", "x y", "x;", "x\"", "x'"] {
            assert!(show(setting).is_err(), "{setting}");
        }
        assert_eq!(show("pg_stat_statements.max").unwrap(), "SHOW pg_stat_statements.max");
    }
}
