//! A base backup of a running cluster: from its own files, or from what the server sends.
//!
//! `check → start → copy → stop → wait for WAL → commit`. Nothing is listed before the commit; a crash before it leaves
//! objects that the next backup adopts.

mod checks;
mod copy;
mod incoming;
mod incremental;
mod local;
mod local_source;
mod page_check;
mod parent;
mod replication;
mod scan;
mod session;
mod wal_proof;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use crossbeam_channel::RecvTimeoutError;
use jiff::Timestamp;
use parking_lot::Mutex;
use walkeep_chunkstore::console::Bytes;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::node::NodeStore;
use walkeep_chunkstore::repository::{
    BackupId, BackupKind, BackupManifest, BackupStatistics, BackupStatus, ClusterIdentity, Holder, Lease, LeaseKind,
    Tablespace,
};
use walkeep_chunkstore::wal::WalArchive;
use walkeep_proto::replication::base_backup::{BackupPosition, Checkpoint};
use walkeep_proto::segment::WalFileName;

use crate::context::Context;
use crate::daemon;
use crate::postgres::Session;
use crate::repository::Ask;
use copy::{Copied, CopyOptions};
use page_check::PageErrors;
use parent::Earlier;
use session::StoppedBackup;

pub use checks::{Finding, Severity, examine};
pub use local_source::{identity_of, read_control_file};
pub use replication::identity_of_server;
pub use wal_proof::{NotArchived, NotConfigured};

/// How often is looked whether a backup is worth going on with while something is waited for.
const LOOK: Duration = Duration::from_secs(1);

/// Where a backup's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Source {
    /// The files of the data directory on this host.
    Local,
    /// The server, which sends them (`BASE_BACKUP`).
    Replication,
}

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Compare with nothing, even if there is an earlier backup.
    pub full_read: bool,
    /// Where the bytes come from; not given: from the files where the configuration names a data directory.
    pub source: Option<Source>,
    /// How the server begins.
    pub checkpoint: Checkpoint,
    /// `--note` pairs.
    pub notes: BTreeMap<String, String>,
}

/// How a copy advances: bytes done of bytes planned.
pub type OnProgress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Takes one base backup and commits it.
pub fn take(context: &Context, options: &BackupOptions, on_progress: OnProgress<'_>) -> Result<BackupManifest> {
    let started = Timestamp::now();
    let full_read_every = context.config.full_read_every()?;
    let identity = context.identity()?;
    if context.storages.waits_for_mirror() {
        context.join_mirrors(Ask::Identity)?;
    }
    let lease = Lease::take(&context.repository, LeaseKind::Backup, context.config.cluster_name(), "backup", started)?;
    let abandoned = context.repository.storage().remove_abandoned(std::time::SystemTime::now())?;
    tracing::info!("{abandoned} files of crashed writers removed");
    let session = connect(context)?;
    let advance = Advance::default();
    let keeper = LeaseKeeper::new(lease, &session, &advance);
    let earlier = if options.full_read { Earlier::default() } else { parent::choose(context, &identity)? };
    let job = Job {
        context,
        session: &session,
        identity: &identity,
        archive: context.archive(),
        id: BackupId::generate(started),
        parent: earlier.parent.as_ref(),
        read_everything: earlier.read_everything,
        full_read_every,
        checkpoint: options.checkpoint,
        is_standby: session.value("SELECT pg_is_in_recovery()")? == "t",
    };
    let is_streamed = daemon::is_streaming(&context.config.state.dir);
    wal_proof::check_settings(&session, is_streamed || job.is_standby)?;

    let mut watch = copy::Watch {
        keeper: &keeper,
        rates: &context.rates,
        on_progress: &|done, total| {
            advance.note(done, total);
            on_progress(done, total);
        },
    };
    let settled = match options.source.unwrap_or_else(|| usual_source(context)) {
        Source::Local => local::copy(&job, &mut watch)?,
        Source::Replication => replication::copy(&job, &mut watch)?,
    };
    let timeout = context.config.archive_timeout();
    let size = identity.wal_segment_size;
    wal_proof::wait_for_range(&job.archive, watch.keeper, &settled.stopped, size, job.is_standby, timeout)?;
    let manifest = job.manifest(started, settled, &options.notes);
    keeper.renew()?;
    context.repository.commit_backup(&context.layout, &manifest)?;
    Ok(manifest)
}

/// The files, where the configuration says where they are.
fn usual_source(context: &Context) -> Source {
    if context.config.cluster.pgdata.is_some() { Source::Local } else { Source::Replication }
}

/// One backup, whatever its source.
struct Job<'a> {
    context: &'a Context,
    session: &'a Session,
    identity: &'a ClusterIdentity,
    archive: WalArchive,
    id: BackupId,
    parent: Option<&'a BackupManifest>,
    /// When the newest backup was started that has read everything.
    read_everything: Option<Timestamp>,
    full_read_every: Duration,
    checkpoint: Checkpoint,
    is_standby: bool,
}

/// What was copied, and what is known of it.
struct Settled {
    kind: BackupKind,
    server_version: String,
    data_checksums: bool,
    directory_mode: u32,
    tablespaces: Vec<Tablespace>,
    copied: Copied,
    errors: PageErrors,
    stopped: StoppedBackup,
}

impl Job<'_> {
    /// What `backup_label` calls the backup.
    fn label(&self) -> String {
        format!("walkeep {}", self.id)
    }

    /// Closes the current segment: its arrival will prove that archiving works. A standby has none to close.
    fn probe(&self) -> Result<Option<WalFileName>> {
        if self.is_standby {
            return Ok(None);
        }
        wal_proof::switch_segment(self.session, self.identity.wal_segment_size).map(Some)
    }

    /// Waits for the proof that archiving works. On a standby it is the segment that the backup starts in.
    fn wait_for_probe(
        &self,
        probe: Option<WalFileName>,
        start: BackupPosition,
        keeper: &LeaseKeeper<'_>,
    ) -> Result<()> {
        let size = self.identity.wal_segment_size;
        let closed = || wal_proof::closed_by_primary(self.session, start.lsn, start.timeline, size);
        let closed = if self.is_standby { closed()? } else { None };
        let Some(probe) = probe.or(closed) else { return Ok(()) };
        wal_proof::wait_for_probe(&self.archive, keeper, probe, self.context.config.archive_timeout())
    }

    fn index(&self) -> Result<Arc<ChunkIndex>> {
        let (index, _) = ChunkIndex::open(&index_directory(self.context), &self.context.repository)?;
        Ok(Arc::new(index))
    }

    fn nodes(&self) -> Arc<NodeStore> {
        Arc::new(NodeStore::new(Arc::clone(&self.context.repository)))
    }

    fn copy_options(&self, page_checksums: bool) -> CopyOptions {
        CopyOptions {
            page_size: self.identity.page_size,
            blocks_per_segment: self.identity.pages_per_segment,
            page_checksums,
            compression_level: self.context.config.compression.level,
            jobs: self.context.config.jobs(),
        }
    }

    /// What a backup is that has read everything.
    fn reading_kind(&self) -> BackupKind {
        if self.parent.is_some() { BackupKind::Scan } else { BackupKind::FullRead }
    }

    fn manifest(&self, started: Timestamp, settled: Settled, notes: &BTreeMap<String, String>) -> BackupManifest {
        let Settled { kind, server_version, data_checksums, directory_mode, tablespaces, copied, errors, stopped } =
            settled;
        let Copied { ingested, read_bytes, .. } = copied;
        let statistics = BackupStatistics {
            files: ingested.files,
            logical_bytes: ingested.logical_bytes,
            read_bytes,
            new_bytes: ingested.new_bytes,
            stored_bytes: ingested.stored_bytes,
            node_bytes: ingested.node_bytes,
            changed_pages: ingested.changed_pages,
            pages: ingested.pages,
        };
        BackupManifest {
            id: self.id.clone(),
            cluster: self.context.config.cluster_name().to_owned(),
            system_identifier: self.identity.system_identifier,
            major: self.identity.major,
            server_version,
            page_size: self.identity.page_size,
            pages_per_segment: self.identity.pages_per_segment,
            wal_segment_size: self.identity.wal_segment_size,
            data_checksums,
            directory_mode,
            kind,
            parent: self.parent.map(|parent| parent.id.clone()),
            status: if errors.total == 0 { BackupStatus::Ok } else { BackupStatus::PageErrors },
            page_errors: errors.listed,
            page_error_count: errors.total,
            timeline: stopped.timeline,
            start_lsn: stopped.start_lsn,
            stop_lsn: stopped.stop_lsn,
            started,
            stopped: Timestamp::now(),
            backup_label: stopped.backup_label,
            tablespace_map: stopped.tablespace_map,
            tablespaces,
            file_lists: ingested.file_lists,
            statistics,
            notes: notes.clone(),
            host: Holder::this_process().host,
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Opens a session to the configured cluster.
pub fn connect(context: &Context) -> Result<Session> {
    Session::connect(&context.config.conninfo()?).context("unable to connect to PostgreSQL")
}

/// Where this cluster's copy of the index lives.
pub fn index_directory(context: &Context) -> PathBuf {
    let repository = context.repository.id().to_string().to_lowercase();
    context.config.state.dir.join("index").join(repository).join(context.config.cluster_name())
}

/// Renews the lease now and then, and stops the copy when the lease or the session is lost.
pub(crate) struct LeaseKeeper<'a> {
    /// The lease, and when it was renewed.
    lease: Mutex<(Lease, Instant)>,
    session: &'a Session,
    advance: &'a Advance,
}

/// How far the copy is, for those who look at the lease.
#[derive(Debug, Default)]
struct Advance {
    done: AtomicU64,
    total: AtomicU64,
}

impl Advance {
    fn note(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// Nothing before the copy has begun.
    fn text(&self) -> Option<String> {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        (total > 0).then(|| format!("{} of {}", Bytes(done), Bytes(total)))
    }
}

impl<'a> LeaseKeeper<'a> {
    /// How often the lease is renewed: a fifth of its life.
    const INTERVAL: Duration = Duration::from_secs(180);

    fn new(lease: Lease, session: &'a Session, advance: &'a Advance) -> Self {
        Self { lease: Mutex::new((lease, Instant::now())), session, advance }
    }

    /// Called between pieces of work, and now and then while something is waited for.
    pub(crate) fn check(&self) -> Result<()> {
        anyhow::ensure!(
            !self.session.is_lost(),
            "the connection that started the backup is lost: PostgreSQL has ended it"
        );
        self.renew_if_due()
    }

    /// The same where the session is busy.
    fn renew_if_due(&self) -> Result<()> {
        let is_due = self.lease.lock().1.elapsed() >= Self::INTERVAL;
        if is_due { self.renew() } else { Ok(()) }
    }

    fn renew(&self) -> Result<()> {
        let mut lease = self.lease.lock();
        lease.0.renew(Timestamp::now(), self.advance.text())?;
        lease.1 = Instant::now();
        Ok(())
    }

    /// Does what occupies the session, for as long as it takes, and renews the lease meanwhile.
    fn during<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let (done, waiting) = crossbeam_channel::bounded::<()>(0);
            let working = scope.spawn(move || {
                let _done = done;
                work()
            });
            while waiting.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                self.renew_if_due()?;
            }
            working.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the thread that waits for the server died")))
        })
    }
}
