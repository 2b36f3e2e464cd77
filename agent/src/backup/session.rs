//! `pg_backup_start` and `pg_backup_stop`: one session holds the backup open.

use anyhow::{Context, Result, bail};
use walkeep_proto::backup_label::BackupLabel;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::base_backup::Checkpoint;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;

use crate::postgres::Session;

/// A backup that the server knows of. Dropping it without stopping ends it when the session closes.
#[derive(Debug)]
pub struct RunningBackup {
    major: MajorVersion,
    backend: String,
    /// Where replay will begin.
    pub start_lsn: Lsn,
}

/// A backup that was stopped: all that is needed to recover from it.
#[derive(Clone, Debug)]
pub struct StoppedBackup {
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where the cluster becomes consistent.
    pub stop_lsn: Lsn,
    /// Timeline of both.
    pub timeline: TimelineId,
    /// `backup_label`, byte for byte.
    pub backup_label: String,
    /// `tablespace_map`, byte for byte.
    pub tablespace_map: String,
}

/// Starts a backup. The functions were renamed in 15.
pub fn start(session: &Session, major: MajorVersion, label: &str, checkpoint: Checkpoint) -> Result<RunningBackup> {
    let fast = checkpoint == Checkpoint::Fast;
    let call = if major >= MajorVersion::V15 {
        format!("SELECT pg_backup_start('{label}', {fast})")
    } else {
        format!("SELECT pg_start_backup('{label}', {fast}, false)")
    };
    let start_lsn = session.value(&call).context("unable to start the backup")?;
    let start_lsn = start_lsn.parse().context("unable to understand the server's answer")?;
    Ok(RunningBackup { major, backend: session.value("SELECT pg_backend_pid()")?, start_lsn })
}

impl RunningBackup {
    /// Stops the backup. It does not wait for archiving: the repository itself is asked for the WAL later.
    pub fn stop(self, session: &Session) -> Result<StoppedBackup> {
        let backend = session.value("SELECT pg_backend_pid()").context("unable to stop the backup")?;
        if backend != self.backend {
            bail!("the session changed from backend {} to {backend}: something pools connections", self.backend);
        }
        let call = if self.major >= MajorVersion::V15 {
            "SELECT lsn, labelfile, spcmapfile FROM pg_backup_stop(false)"
        } else {
            "SELECT lsn, labelfile, spcmapfile FROM pg_stop_backup(false, false)"
        };
        let row = session.row(call).context("unable to stop the backup")?;
        let [stop_lsn, backup_label, tablespace_map] = row.as_slice() else {
            bail!("pg_backup_stop gave {} columns, expected 3", row.len());
        };
        let stop_lsn: Lsn = stop_lsn.parse().context("unable to understand the server's answer")?;
        StoppedBackup::of(self.start_lsn, stop_lsn, backup_label.clone(), tablespace_map.clone())
    }
}

impl StoppedBackup {
    /// Puts together what the server said at the start, at the stop, and in its label.
    pub fn of(start_lsn: Lsn, stop_lsn: Lsn, backup_label: String, tablespace_map: String) -> Result<Self> {
        let label = BackupLabel::parse(backup_label.as_bytes()).context("unable to understand the backup label")?;
        if label.start_wal_location != start_lsn {
            bail!("the backup started at {start_lsn}, its label says {}", label.start_wal_location);
        }
        if stop_lsn <= start_lsn {
            bail!("the backup starts at {start_lsn} and stops at {stop_lsn}");
        }
        Ok(Self { start_lsn, stop_lsn, timeline: label.start_timeline, backup_label, tablespace_map })
    }
}
