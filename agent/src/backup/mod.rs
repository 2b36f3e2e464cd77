//! A base backup of a running cluster from its own files.
//!
//! `check → start → plan → copy → stop → wait for WAL → commit`. Nothing is listed before the commit; a crash before it
//! leaves objects that the next backup adopts.

mod checks;
mod copy;
mod local_source;
mod page_check;
mod parent;
mod scan;
mod session;
mod wal_proof;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_chunkstore::console::Bytes;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::node::NodeStore;
use walkeep_chunkstore::repository::{
    BackupId, BackupKind, BackupManifest, BackupStatistics, BackupStatus, ClusterIdentity, Holder, Lease, LeaseKind,
};

use crate::context::Context;
use crate::daemon;
use crate::postgres::Session;
use crate::repository::Ask;
use copy::{Copied, CopyOptions};
use local_source::LocalSource;
use page_check::PageErrors;
use session::StoppedBackup;

pub use checks::{Finding, Severity, examine};
pub use local_source::{identity_of, read_control_file};
pub use wal_proof::{NotArchived, NotConfigured};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// Compare with nothing, even if there is an earlier backup.
    pub full_read: bool,
    /// `--note` pairs.
    pub notes: BTreeMap<String, String>,
}

/// How a copy advances: bytes done of bytes planned.
pub type OnProgress<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// Takes one base backup and commits it.
pub fn take(context: &Context, options: &BackupOptions, on_progress: OnProgress<'_>) -> Result<BackupManifest> {
    let started = Timestamp::now();
    let identity = context.identity()?;
    if context.storages.waits_for_mirror() {
        context.join_mirrors(Ask::Identity)?;
    }
    let pgdata = context.config.pgdata()?.to_owned();
    let lease = Lease::take(&context.repository, LeaseKind::Backup, context.config.cluster_name(), "backup", started)?;
    let abandoned = context.repository.storage().remove_abandoned(std::time::SystemTime::now())?;
    tracing::info!("{abandoned} files of crashed writers removed");
    let session = connect(context)?;
    let advance = Advance::default();
    let mut keeper = LeaseKeeper { lease, session: &session, advance: &advance, renewed: std::time::Instant::now() };
    let mut source = LocalSource::check(&session, &pgdata, &identity)?;
    wal_proof::check_settings(&session, daemon::is_streaming(&context.config.state.dir))?;
    let parent = if options.full_read { None } else { parent::choose(context, &identity)? };

    let id = BackupId::generate(started);
    let probe = wal_proof::switch_segment(&session, identity.wal_segment_size)?;
    let running = session::start(&session, &source, id.as_str())?;
    source.refresh_tablespaces()?;
    // While the archiver works on the probe.
    let (index, _) = ChunkIndex::open(&index_directory(context), &context.repository)?;
    let nodes = Arc::new(NodeStore::new(Arc::clone(&context.repository)));
    let archive = context.archive();
    wal_proof::wait_for_probe(&archive, &session, probe, context.config.archive_timeout())?;

    let copy_options = CopyOptions {
        page_size: identity.page_size,
        blocks_per_segment: identity.pages_per_segment,
        page_checksums: source.control.data_checksums(),
        compression_level: context.config.compression.level,
        jobs: context.config.jobs(),
    };
    keeper.check()?;
    let copied = copy::run(
        &source,
        copy_options,
        copy::Target { repository: &context.repository, index: Arc::new(index), nodes: &nodes },
        parent.as_ref(),
        &mut copy::Watch {
            keeper: &mut keeper,
            rates: &context.rates,
            on_progress: &|done, total| {
                advance.note(done, total);
                on_progress(done, total);
            },
        },
    )?;
    let stopped = running.stop(&session)?;
    source.check_map(&stopped.tablespace_map)?;
    let errors = copied.suspects.clone().verdict(stopped.start_lsn, stopped.stop_lsn);
    wal_proof::store_histories(&archive, &pgdata, stopped.timeline, context.config.compression.level)?;
    wal_proof::wait_for_range(
        &archive,
        &session,
        &stopped,
        identity.wal_segment_size,
        context.config.archive_timeout(),
    )?;
    keeper.renew()?;

    let taken =
        Taken { id, started, identity, source, parent: parent.map(|parent| parent.id), copied, errors, stopped };
    let manifest = taken.into_manifest(context.config.cluster_name(), options);
    context.repository.commit_backup(&context.layout, &manifest)?;
    Ok(manifest)
}

/// Everything that is known of a backup when it is about to be committed.
struct Taken {
    id: BackupId,
    started: Timestamp,
    identity: ClusterIdentity,
    source: LocalSource,
    parent: Option<BackupId>,
    copied: Copied,
    errors: PageErrors,
    stopped: StoppedBackup,
}

impl Taken {
    fn into_manifest(self, cluster: &str, options: &BackupOptions) -> BackupManifest {
        let Self { id, started, identity, source, parent, copied, errors, stopped } = self;
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
            id,
            cluster: cluster.to_owned(),
            system_identifier: identity.system_identifier,
            major: identity.major,
            server_version: source.server_version,
            page_size: identity.page_size,
            pages_per_segment: identity.pages_per_segment,
            wal_segment_size: identity.wal_segment_size,
            data_checksums: source.control.data_checksums(),
            directory_mode: source.directory_mode,
            kind: if parent.is_some() { BackupKind::Scan } else { BackupKind::FullRead },
            parent,
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
            tablespaces: source.tablespaces,
            file_lists: ingested.file_lists,
            statistics,
            notes: options.notes.clone(),
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
    lease: Lease,
    session: &'a Session,
    advance: &'a Advance,
    renewed: std::time::Instant,
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

impl LeaseKeeper<'_> {
    /// How often the lease is renewed: a fifth of its life.
    const INTERVAL: std::time::Duration = std::time::Duration::from_secs(180);

    /// Called between pieces of work.
    pub(crate) fn check(&mut self) -> Result<()> {
        anyhow::ensure!(
            !self.session.is_lost(),
            "the connection that started the backup is lost: PostgreSQL has ended it"
        );
        if self.renewed.elapsed() >= Self::INTERVAL { self.renew() } else { Ok(()) }
    }

    fn renew(&mut self) -> Result<()> {
        self.lease.renew(Timestamp::now(), self.advance.text())?;
        self.renewed = std::time::Instant::now();
        Ok(())
    }
}
