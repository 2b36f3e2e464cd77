//! `global/pg_control`: what a cluster is and how far it got.
//!
//! Layout: `ControlFileData` in `catalog/pg_control.h`, as a 64-bit little-endian server writes it. The file is 8192
//! bytes of which the first 296 mean something; a read beside a running server can be torn, so callers read again when
//! the checksum does not match.

use crate::identity::SystemIdentifier;
use crate::lsn::Lsn;
use crate::page::{MAX_PAGE_BYTES, MIN_PAGE_BYTES};
use crate::segment::{IllegalSegmentSize, WalSegmentSize};
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

/// Bytes of the file on disk (`PG_CONTROL_FILE_SIZE`); behind the data it is zero.
pub const CONTROL_FILE_BYTES: usize = 8192;

/// Bytes of `ControlFileData`, checksum included: the same number for all supported versions.
const DATA_BYTES: usize = 296;

/// Byte offset of the `checkPoint` field.
const CHECKPOINT_OFFSET: usize = 32;

/// A checkpoint position at which no record can begin: records are aligned to 8 bytes.
const UNUSABLE_CHECKPOINT: u64 = 0xDEAD;

/// What the server was last doing (`DBState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    /// Starting up for the first time.
    Startup,
    /// Shut down cleanly.
    ShutDown,
    /// A standby that was shut down cleanly.
    ShutDownInRecovery,
    /// In the middle of its shutdown.
    ShuttingDown,
    /// Replaying WAL after a crash.
    InCrashRecovery,
    /// Replaying WAL of an archive or of a primary: standbys, and restores under way.
    InArchiveRecovery,
    /// Running as a primary, or crashed while it was.
    InProduction,
}

impl ClusterState {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Startup,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

/// How much the server writes to the WAL (`wal_level`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    /// Only what crash recovery needs: no base backup can be taken.
    Minimal,
    /// Enough for archiving and physical standbys.
    Replica,
    /// Also enough for logical decoding.
    Logical,
}

impl WalLevel {
    const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Minimal),
            1 => Some(Self::Replica),
            2 => Some(Self::Logical),
            _ => None,
        }
    }
}

/// The settings that a standby or a recovering server must not undercut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverySettings {
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: i32,
}

/// The content of `pg_control`, as far as backups and restores ask for it. Times are seconds since 1970, UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster's number.
    pub system_identifier: SystemIdentifier,
    /// The server version that the catalogue version stands for.
    pub version: MajorVersion,
    /// What the server was last doing.
    pub state: ClusterState,
    /// When the file was last written.
    pub time: i64,
    /// Where the last checkpoint's record begins.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it; the same one unless the checkpoint ended a recovery.
    pub prev_timeline: TimelineId,
    /// Whether `full_page_writes` was on at that checkpoint.
    pub full_page_writes: bool,
    /// When that checkpoint was made.
    pub checkpoint_time: i64,
    /// How far replay must get before the files are consistent; 0/0 if no archive recovery is under way.
    pub min_recovery_point: Lsn,
    /// The timeline of that position; `None` if there is no such position.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Where the base backup began from which recovery is under way; 0/0 if none is.
    pub backup_start_point: Lsn,
    /// Where a base backup taken from a standby ends; 0/0 if there is no such backup.
    pub backup_end_point: Lsn,
    /// Whether replay must reach a backup's end record.
    pub backup_end_required: bool,
    /// The server's `wal_level`.
    pub wal_level: WalLevel,
    /// The server's `wal_log_hints`.
    pub wal_log_hints: bool,
    /// Settings that recovery compares with its own.
    pub settings: RecoverySettings,
    /// Bytes of a data page: a power of two from 1 KiB to 32 KiB.
    pub block_size: u32,
    /// Pages in one file of a relation fork (`RELSEG_SIZE`).
    pub blocks_per_segment: u32,
    /// Bytes of a WAL page: a power of two.
    pub wal_block_size: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// 0 without data checksums, 1 with them.
    pub data_checksum_version: u32,
}

/// Why the bytes are no control file that this crate reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// Fewer bytes than the data has.
    #[error("pg_control has {0} bytes: expected at least {DATA_BYTES}")]
    TooShort(usize),
    /// More bytes than the file has.
    #[error("pg_control has {0} bytes: expected at most {CONTROL_FILE_BYTES}")]
    TooLong(usize),
    /// The version numbers belong to no supported server.
    #[error(
        "pg_control has control version {control} and catalog version {catalog}: \
         expected those of a release of PostgreSQL 13 to 18 on a little-endian machine"
    )]
    UnsupportedVersion {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// The bytes are damaged, or were read while the server wrote them.
    #[error("pg_control stores the checksum {stored:08X}, but its bytes have {computed:08X}: torn read or damage")]
    ChecksumMismatch {
        /// What the file says.
        stored: u32,
        /// What the bytes say.
        computed: u32,
    },
    /// The WAL segment size is impossible.
    #[error("pg_control is malformed: {0}")]
    SegmentSize(#[from] IllegalSegmentSize),
    /// The named field has a value that no server writes.
    #[error("pg_control is malformed: {field} is {value}")]
    Malformed {
        /// The field in PostgreSQL's words.
        field: &'static str,
        /// Its value.
        value: u32,
    },
}

impl ControlFile {
    /// Reads the file, or at least the 296 bytes of it that mean something, and checks its CRC-32C.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let (fields, version) = checked(bytes)?;
        let state = fields.u32_at(16);
        let wal_level = fields.u32_at(172);
        let block_size = fields.u32_at(216);
        if !block_size.is_power_of_two() || !(MIN_PAGE_BYTES..=MAX_PAGE_BYTES).contains(&(block_size as usize)) {
            return Err(malformed("blcksz", block_size));
        }
        let blocks_per_segment = fields.u32_at(220);
        if blocks_per_segment == 0 {
            return Err(malformed("relseg_size", blocks_per_segment));
        }
        let wal_block_size = fields.u32_at(224);
        if !wal_block_size.is_power_of_two() || !(1 << 10..=64 << 10).contains(&wal_block_size) {
            return Err(malformed("xlog_blcksz", wal_block_size));
        }
        Ok(Self {
            system_identifier: SystemIdentifier::new(fields.u64_at(0)),
            version,
            state: ClusterState::from_number(state).ok_or_else(|| malformed("state", state))?,
            time: fields.u64_at(24).cast_signed(),
            checkpoint: fields.lsn_at(CHECKPOINT_OFFSET),
            redo: fields.lsn_at(40),
            timeline: fields.timeline_at(48).ok_or_else(|| malformed("ThisTimeLineID", 0))?,
            prev_timeline: fields.timeline_at(52).ok_or_else(|| malformed("PrevTimeLineID", 0))?,
            full_page_writes: fields.bool_at(56),
            checkpoint_time: fields.u64_at(104).cast_signed(),
            min_recovery_point: fields.lsn_at(136),
            min_recovery_timeline: fields.timeline_at(144),
            backup_start_point: fields.lsn_at(152),
            backup_end_point: fields.lsn_at(160),
            backup_end_required: fields.bool_at(168),
            wal_level: WalLevel::from_number(wal_level).ok_or_else(|| malformed("wal_level", wal_level))?,
            wal_log_hints: fields.bool_at(176),
            settings: RecoverySettings {
                max_connections: fields.u32_at(180).cast_signed(),
                max_worker_processes: fields.u32_at(184).cast_signed(),
                max_wal_senders: fields.u32_at(188).cast_signed(),
                max_prepared_transactions: fields.u32_at(192).cast_signed(),
                max_locks_per_transaction: fields.u32_at(196).cast_signed(),
            },
            block_size,
            blocks_per_segment,
            wal_block_size,
            wal_segment_size: WalSegmentSize::new(fields.u32_at(228))?,
            data_checksum_version: fields.u32_at(252),
        })
    }

    /// Whether every page of a relation carries a checksum.
    pub const fn data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }
}

/// The whole file with a checkpoint position that no server can start from, and a checksum that matches.
///
/// With `backup_label` beside it the position is not read; without it startup fails at once, where the real position
/// would let it go ahead and corrupt the cluster.
pub fn with_unusable_checkpoint(bytes: &[u8]) -> Result<Vec<u8>, ControlFileError> {
    let (_, version) = checked(bytes)?;
    let mut image = bytes.to_vec();
    image.resize(CONTROL_FILE_BYTES, 0);
    image[CHECKPOINT_OFFSET..CHECKPOINT_OFFSET + 8].copy_from_slice(&UNUSABLE_CHECKPOINT.to_le_bytes());
    let end = checksum_offset(version);
    let checksum = crc32c::crc32c(&image[..end]);
    image[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
    Ok(image)
}

/// Byte offset of the checksum, which covers everything before it.
const fn checksum_offset(version: MajorVersion) -> usize {
    match version {
        MajorVersion::V13 | MajorVersion::V14 | MajorVersion::V15 | MajorVersion::V16 | MajorVersion::V17 => 288,
        MajorVersion::V18 => 292,
    }
}

fn malformed(field: &'static str, value: u32) -> ControlFileError {
    ControlFileError::Malformed { field, value }
}

/// `ControlFileData` as it lies in the file. Every offset that the code names is a constant inside it.
struct Fields<'a>(&'a [u8; DATA_BYTES]);

impl Fields<'_> {
    fn u32_at(&self, at: usize) -> u32 {
        let bytes = self.0;
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from(self.u32_at(at + 4)) << 32 | u64::from(self.u32_at(at))
    }

    fn lsn_at(&self, at: usize) -> Lsn {
        Lsn::new(self.u64_at(at))
    }

    fn timeline_at(&self, at: usize) -> Option<TimelineId> {
        TimelineId::new(self.u32_at(at))
    }

    fn bool_at(&self, at: usize) -> bool {
        self.0[at] != 0
    }
}

/// Checks size, versions and checksum, in this order: the version tells where the checksum is.
fn checked(bytes: &[u8]) -> Result<(Fields<'_>, MajorVersion), ControlFileError> {
    let fields = Fields(bytes.first_chunk().ok_or(ControlFileError::TooShort(bytes.len()))?);
    if bytes.len() > CONTROL_FILE_BYTES {
        return Err(ControlFileError::TooLong(bytes.len()));
    }
    let (control, catalog) = (fields.u32_at(8), fields.u32_at(12));
    let version = MajorVersion::from_catalog_version(catalog)
        .filter(|version| version.control_version() == control)
        .ok_or(ControlFileError::UnsupportedVersion { control, catalog })?;
    let end = checksum_offset(version);
    let (stored, computed) = (fields.u32_at(end), crc32c::crc32c(&bytes[..end]));
    if stored != computed {
        return Err(ControlFileError::ChecksumMismatch { stored, computed });
    }
    Ok((fields, version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_control_file_or_an_error(bytes: Vec<u8>) {
            let _ = ControlFile::parse(&bytes);
            let _ = with_unusable_checkpoint(&bytes);
        }
        #[test]
        fn any_fields_behind_a_right_checksum_are_a_control_file_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), DATA_BYTES),
            version in prop::sample::select(&MajorVersion::ALL[..]),
        ) {
            bytes[8..12].copy_from_slice(&version.control_version().to_le_bytes());
            bytes[12..16].copy_from_slice(&version.catalog_version().to_le_bytes());
            let end = checksum_offset(version);
            let checksum = crc32c::crc32c(&bytes[..end]);
            bytes[end..end + 4].copy_from_slice(&checksum.to_le_bytes());
            let parsed = ControlFile::parse(&bytes);
            let mismatch = matches!(parsed, Err(ControlFileError::ChecksumMismatch { .. }));
            prop_assert!(!mismatch);
            prop_assert_eq!(with_unusable_checkpoint(&bytes).unwrap().len(), CONTROL_FILE_BYTES);
        }
    }
}
