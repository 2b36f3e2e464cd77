//! A base backup from the files of this host: `check → start → copy → stop`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use walkeep_proto::replication::base_backup::BackupPosition;
use walkeep_proto::segment::WalFileName;

use super::copy::{self, FileFeeder, Target, Watch};
use super::local_source::{LocalSource, read_control_file};
use super::parent::{self, ParentFiles};
use super::session::StoppedBackup;
use super::{Job, Settled, session, wal_proof};

/// Copies the data directory between the server's start and stop of a backup.
pub(super) fn copy(job: &Job<'_>, watch: &mut Watch<'_, '_>) -> Result<Settled> {
    let mut source = LocalSource::check(job.session, job.context.config.pgdata()?, job.identity)?;
    let probe = job.probe()?;
    // The server may take minutes for its checkpoint.
    let started = || session::start(job.session, source.major, &job.label(), job.checkpoint);
    let running = watch.keeper.during(started)?;
    source.refresh_tablespaces()?;
    // While the archiver works on the probe.
    let (index, nodes) = (job.index()?, job.nodes());
    // The restartpoint that a standby's backup starts at is on the control file's timeline.
    let start = BackupPosition { lsn: running.start_lsn, timeline: source.control.timeline };
    job.wait_for_probe(probe, start, watch.keeper)?;

    watch.keeper.check()?;
    parent::check_lists(&nodes, job.parent, &index);
    let options = job.copy_options(source.control.data_checksums());
    let copied = copy::with_trust(&index, || {
        let parents = ParentFiles::new(nodes.clone(), job.parent);
        let mut feeder = FileFeeder::plan(&source, parents)?;
        let target = Target { repository: &job.context.repository, index: Arc::clone(&index), nodes: &nodes };
        copy::run(&mut feeder, options, target, watch)
    })?;

    let stopped = running.stop(job.session)?;
    source.check_map(&stopped.tablespace_map)?;
    if job.is_standby {
        check_timeline(&source.pgdata, &stopped)?;
    }
    let errors = copied.suspects.clone().verdict(stopped.start_lsn, stopped.stop_lsn);
    store_histories(job, &source.pgdata, &stopped)?;
    Ok(Settled {
        kind: job.reading_kind(),
        server_version: source.server_version,
        data_checksums: source.control.data_checksums(),
        directory_mode: source.directory_mode,
        tablespaces: source.tablespaces,
        copied,
        errors,
        stopped,
    })
}

/// The WAL that the backup needs is looked for on one timeline.
fn check_timeline(pgdata: &Path, stopped: &StoppedBackup) -> Result<()> {
    let control = read_control_file(pgdata)?;
    ensure!(
        control.min_recovery_timeline == Some(stopped.timeline),
        "the standby went from timeline {} to {:?} during the backup: take it again",
        stopped.timeline,
        control.min_recovery_timeline
    );
    Ok(())
}

fn store_histories(job: &Job<'_>, pgdata: &Path, stopped: &StoppedBackup) -> Result<()> {
    let level = job.context.config.compression.level;
    wal_proof::store_histories(&job.archive, stopped.timeline, &|timeline| {
        let path = pgdata.join("pg_wal").join(WalFileName::History(timeline).to_string());
        if !path.try_exists().with_context(|| format!("unable to look for '{}'", path.display()))? {
            return Ok(None);
        }
        crate::archive::push_history(&job.archive, &path, timeline, level).map(|(_, history)| Some(history))
    })
}
