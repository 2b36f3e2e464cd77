//! Replication commands: what a walsender understands besides SHOW. Each is sent as a simple query.

use super::slot_name::SlotName;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

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

/// How long a slot lives, and from when on it keeps WAL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhysicalSlot {
    /// Whether it is dropped with the session that created it.
    pub temporary: bool,
    /// Whether it keeps WAL from its creation on: from the redo pointer of the last checkpoint. Else from the first
    /// status that a client of it sends.
    pub reserve_wal: bool,
}

/// Creates a physical slot: answered by [`super::CreatedSlot`]. The list of options in parentheses came with 15.
pub fn create_physical_slot(name: &SlotName, slot: PhysicalSlot, version: MajorVersion) -> String {
    let temporary = if slot.temporary { " TEMPORARY" } else { "" };
    let reserve = match (slot.reserve_wal, version) {
        (false, _) => "",
        (true, MajorVersion::V13 | MajorVersion::V14) => " RESERVE_WAL",
        (true, _) => " (RESERVE_WAL true)",
    };
    format!("CREATE_REPLICATION_SLOT \"{name}\"{temporary} PHYSICAL{reserve}")
}

/// Asks where a slot stands: answered by [`super::SlotPosition`]. Only from 15 on; before, SQL has to be asked.
pub fn read_slot(name: &SlotName) -> String {
    format!("READ_REPLICATION_SLOT \"{name}\"")
}

/// Drops a slot: at once, or when its present user has left it.
pub fn drop_slot(name: &SlotName, wait: bool) -> String {
    format!("DROP_REPLICATION_SLOT \"{name}\"{}", if wait { " WAIT" } else { "" })
}

/// Starts streaming from `start` on `timeline`, which need not be the server's newest; advances `slot` if there is one.
pub fn start_replication(slot: Option<&SlotName>, start: Lsn, timeline: TimelineId) -> String {
    let slot = slot.map(|name| format!("SLOT \"{name}\" ")).unwrap_or_default();
    format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_spelled_as_postgresql_reads_them() {
        let slot: SlotName = "walkeep".parse().unwrap();
        let timeline = TimelineId::new(4).unwrap();
        let start = Lsn::new(0x1_0300_0000);
        assert_eq!(show("wal_segment_size").unwrap(), "SHOW wal_segment_size");
        assert_eq!(timeline_history(timeline), "TIMELINE_HISTORY 4");
        assert_eq!(read_slot(&slot), "READ_REPLICATION_SLOT \"walkeep\"");
        assert_eq!(drop_slot(&slot, false), "DROP_REPLICATION_SLOT \"walkeep\"");
        assert_eq!(drop_slot(&slot, true), "DROP_REPLICATION_SLOT \"walkeep\" WAIT");
        assert_eq!(start_replication(None, start, timeline), "START_REPLICATION PHYSICAL 1/3000000 TIMELINE 4");
        assert_eq!(
            start_replication(Some(&slot), start, timeline),
            "START_REPLICATION SLOT \"walkeep\" PHYSICAL 1/3000000 TIMELINE 4"
        );
    }

    #[test]
    fn slots_are_created_in_the_servers_dialect() {
        let name: SlotName = "s".parse().unwrap();
        let create = |temporary, reserve_wal, version| {
            create_physical_slot(&name, PhysicalSlot { temporary, reserve_wal }, version)
        };
        for version in MajorVersion::ALL {
            let reserve = if version < MajorVersion::V15 { "RESERVE_WAL" } else { "(RESERVE_WAL true)" };
            let command = "CREATE_REPLICATION_SLOT \"s\"";
            assert_eq!(create(false, true, version), format!("{command} PHYSICAL {reserve}"));
            assert_eq!(create(true, true, version), format!("{command} TEMPORARY PHYSICAL {reserve}"));
            assert_eq!(create(false, false, version), format!("{command} PHYSICAL"));
        }
    }

    #[test]
    fn a_setting_is_a_name_and_nothing_more() {
        for setting in ["", "1", "x y", "x;", "x\"", "x'"] {
            assert!(show(setting).is_err(), "{setting}");
        }
        assert_eq!(show("pg_stat_statements.max").unwrap(), "SHOW pg_stat_statements.max");
    }
}
