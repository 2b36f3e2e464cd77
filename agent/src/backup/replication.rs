//! A base backup that the server sends: `check → BASE_BACKUP → unpack → compare with its manifest`.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use jiff::Timestamp;
use walkeep_chunkstore::index::ChunkIndex;
use walkeep_chunkstore::node::NodeStore;
use walkeep_chunkstore::repository::{BackupKind, ClusterIdentity, PageError, Tablespace};
use walkeep_proto::backup_label::{BackupFrom, BackupLabel, without_incremental};
use walkeep_proto::control_file::ControlFile;
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::relation_file::RelationFile;
use walkeep_proto::replication::base_backup::{BackupTablespace, BaseBackupOptions, has_one_copy};
use walkeep_proto::replication::{ServerMessage, SqlState};
use walkeep_proto::segment::{WalFileName, WalSegmentSize};
use walkeep_proto::version::MajorVersion;

use super::copy::{self, ArchiveFeeder, Target, Watch};
use super::incoming::{Begun, Incoming, Wanted};
use super::incremental::{self, Base, Merger, NotIncremental};
use super::local_source::check_cluster;
use super::page_check::PageErrors;
use super::parent::{self, ParentIndex};
use super::session::StoppedBackup;
use super::{Job, LeaseKeeper, Settled, wal_proof};
use crate::postgres::Session;
use crate::postgres::connection::{BackupEnd, Connection, Purpose, server_error};
use crate::postgres::conninfo::{Conninfo, HostAddress};

/// zstd level that a server is asked for: the cheapest, it has other work to do.
const COMPRESSION: u8 = 1;

/// What the server says about itself.
pub(super) struct Server {
    pub(super) major: MajorVersion,
    version: String,
    pub(super) data_checksums: bool,
    directory_mode: u32,
}

/// What a copy over the wire needs, whatever the server sends.
struct Wire<'a> {
    job: &'a Job<'a>,
    server: Server,
    conninfo: Conninfo,
    /// The segment whose arrival proves that archiving works.
    probe: Option<WalFileName>,
    index: Arc<ChunkIndex>,
    nodes: Arc<NodeStore>,
    parents: ParentIndex,
}

/// Has the server send what has changed, or everything.
pub(super) fn copy(job: &Job<'_>, watch: &mut Watch<'_, '_>) -> Result<Settled> {
    let wire = Wire::prepare(job)?;
    if let Some(base) = Base::choose(job, &wire.server, &wire.conninfo) {
        match wire.copy_changes(base, watch) {
            Err(error) if is_about_parent(&error) => incremental::tell(&error),
            other => return other,
        }
    }
    wire.copy_everything(watch)
}

/// Whether everything can be had where the changes alone cannot.
fn is_about_parent(error: &anyhow::Error) -> bool {
    use walkeep_chunkstore::Error;
    let unusable = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<NotIncremental>() || matches!(cause.downcast_ref(), Some(Error::UnusableParent { .. }))
    };
    error.chain().any(unusable)
}

impl<'a> Wire<'a> {
    fn prepare(job: &'a Job<'a>) -> Result<Self> {
        let server = Server::ask(job.session, job.identity)?;
        let conninfo = conninfo(job)?;
        let probe = job.probe()?;
        // While the archiver works on the probe.
        let (index, nodes) = (job.index()?, job.nodes());
        parent::check_lists(&nodes, job.parent, &index);
        let parents = ParentIndex::new(&nodes, job.parent);
        Ok(Self { job, server, conninfo, probe, index, nodes, parents })
    }

    fn copy_everything(&self, watch: &mut Watch<'_, '_>) -> Result<Settled> {
        copy::with_trust(&self.index, || {
            let (incoming, begun) = self.start(None, watch.keeper)?;
            self.receive(incoming, begun, None, watch)
        })
    }

    fn copy_changes(&self, base: Base<'_>, watch: &mut Watch<'_, '_>) -> Result<Settled> {
        let manifest = base.manifest(&self.parents).map_err(NotIncremental::of)?;
        let (incoming, begun) =
            self.start(Some(manifest.into()), watch.keeper).map_err(|error| match server_error(&error) {
                Some(_) => NotIncremental::of(error).into(),
                None => error,
            })?;
        let merger = base.begin(self.job.session, begun.start, &self.parents).map_err(NotIncremental::of)?;
        self.receive(incoming, begun, Some(merger), watch)
    }

    /// Copies what comes.
    fn receive(
        &self,
        incoming: Incoming<'_>,
        begun: Begun,
        merger: Option<Merger>,
        watch: &mut Watch<'_, '_>,
    ) -> Result<Settled> {
        let Self { job, server, .. } = self;
        // The server waits when a little has come.
        job.wait_for_probe(self.probe, begun.start, watch.keeper)?;
        watch.keeper.check()?;
        let kind = if merger.is_some() { BackupKind::Incremental } else { job.reading_kind() };
        let tablespaces: Vec<Tablespace> = begun.tablespaces.iter().filter_map(tablespace).collect();
        let start = begun.start;
        let options = job.copy_options(server.data_checksums);
        let mut feeder = ArchiveFeeder::new(incoming, begun, &self.parents, merger, options.jobs);
        let repository = &job.context.repository;
        let target = Target { repository, index: Arc::clone(&self.index), nodes: &self.nodes };
        let mut copied = copy::run(&mut feeder, options, target, watch)?;

        let streamed = feeder.finish(std::mem::take(&mut copied.ingested.sums))?;
        let control =
            ControlFile::parse(&streamed.control).context("unable to understand the server's global/pg_control")?;
        check_cluster(&control, "global/pg_control", job.identity)?;
        let end = streamed.end;
        ensure!(
            end.position.timeline == start.timeline,
            "the server went from timeline {} to {} during the backup: take it again",
            start.timeline,
            end.position.timeline
        );
        let backup_label = without_incremental(&streamed.backup_label);
        let stopped = StoppedBackup::of(start.lsn, end.position.lsn, backup_label, streamed.tablespace_map)?;
        let came_from = BackupLabel::parse(stopped.backup_label.as_bytes())?.backup_from;
        ensure!(
            (came_from == BackupFrom::Standby) == job.is_standby,
            "the backup came from another server than the session leads to, {came_from:?}: name one host in conninfo"
        );
        let errors = copied.suspects.clone().verdict(stopped.start_lsn, stopped.stop_lsn);
        let errors = with_servers_complaint(errors, &end);
        store_histories(job, &self.conninfo, &stopped)?;
        Ok(Settled {
            kind,
            server_version: server.version.clone(),
            data_checksums: control.data_checksums(),
            directory_mode: server.directory_mode,
            tablespaces,
            copied,
            errors,
            stopped,
        })
    }

    /// Starts the backup; with the manifest of an earlier one, of what has changed since. What crosses a network is
    /// compressed by the server, if it can.
    fn start<'k>(&self, manifest: Option<Bytes>, keeper: &'k LeaseKeeper<'k>) -> Result<(Incoming<'k>, Begun)> {
        let (conninfo, rates) = (&self.conninfo, &self.job.context.rates);
        let crosses_network = conninfo.hosts.iter().any(|host| matches!(host.address, HostAddress::Tcp { .. }));
        let max_rate = rates.read_limit().map(|rate| u32::try_from(rate / 1024).unwrap_or(u32::MAX));
        let options = BaseBackupOptions {
            label: self.job.label(),
            checkpoint: self.job.checkpoint,
            max_rate,
            // With both, MAX_RATE would count what is left behind the compression.
            compression: (crosses_network && has_one_copy(self.server.major) && max_rate.is_none())
                .then_some(COMPRESSION),
            incremental: manifest.is_some(),
        };
        let mut wanted = Wanted { options, manifest };
        match Incoming::start(conninfo.clone(), wanted.clone(), self.job.identity, keeper) {
            Err(error) if wanted.options.compression.is_some() && cannot_compress(&error) => {
                tracing::info!("the server does not compress: {error:#}");
                wanted.options.compression = None;
                Incoming::start(conninfo.clone(), wanted, self.job.identity, keeper)
            }
            other => other,
        }
    }
}

impl Server {
    /// Asks, and refuses a server whose backup could not be the repository's.
    pub(super) fn ask(session: &Session, identity: &ClusterIdentity) -> Result<Self> {
        let row = session.row(
            "SELECT current_setting('server_version_num'), version(), current_setting('data_checksums'), \
             current_setting('data_directory_mode'), current_setting('block_size')",
        )?;
        let [version_num, version, checksums, mode, block_size] = row.as_slice() else {
            bail!("the server's answer has {} columns, expected 5", row.len());
        };
        let major = MajorVersion::from_server_version_num(version_num.parse().unwrap_or(0))?;
        ensure!(
            major == identity.major && *block_size == identity.page_size.to_string(),
            "the server is PostgreSQL {major} with pages of {block_size} bytes, the repository holds PostgreSQL {} with {}",
            identity.major,
            identity.page_size
        );
        check_tablespaces(session, major)?;
        let mode = u32::from_str_radix(mode, 8).context("unable to understand data_directory_mode")?;
        Ok(Self { major, version: version.clone(), data_checksums: checksums == "on", directory_mode: mode & 0o777 })
    }
}

/// Before 16, a base backup with a tablespace map leaves out the tablespaces that lie in the data directory itself.
fn check_tablespaces(session: &Session, major: MajorVersion) -> Result<()> {
    if major >= MajorVersion::V16 {
        return Ok(());
    }
    let rows = session
        .rows("SELECT spcname FROM pg_tablespace WHERE spcname !~ '^pg_' AND pg_tablespace_location(oid) !~ '^/'")?;
    if let Some(name) = rows.into_iter().flatten().flatten().next() {
        bail!("tablespace '{name}' is in place: PostgreSQL {major} does not send it, use --source local");
    }
    Ok(())
}

/// The identity that a server tells of itself.
pub fn identity_of_server(session: &Session) -> Result<ClusterIdentity> {
    let number = |name: &str| -> Result<u32> {
        // Sizes in the unit that a control file has them in: bytes, and pages for segment_size.
        let value = session.value(&format!("SELECT setting FROM pg_settings WHERE name = '{name}'"))?;
        value.parse().with_context(|| format!("unable to understand {name} = {value}"))
    };
    let system_identifier = session.value("SELECT system_identifier FROM pg_control_system()")?;
    Ok(ClusterIdentity {
        // SQL has no unsigned numbers of 64 bits.
        system_identifier: SystemIdentifier::new(
            system_identifier.parse::<i64>().context("unable to understand the system identifier")?.cast_unsigned(),
        ),
        major: MajorVersion::from_server_version_num(number("server_version_num")?)?,
        page_size: number("block_size")?,
        pages_per_segment: number("segment_size")?,
        wal_segment_size: WalSegmentSize::new(number("wal_segment_size")?)?,
        registered: Timestamp::now(),
    })
}

fn conninfo(job: &Job<'_>) -> Result<Conninfo> {
    let mut conninfo =
        Conninfo::resolve(&job.context.config.conninfo()?).context("unable to understand the connection string")?;
    // Not the stream's own name: nobody may take a backup for a standby.
    conninfo.application_name = Some("walkeep_backup".to_owned());
    Ok(conninfo)
}

/// A server that was built without zstd says so before it does anything.
fn cannot_compress(error: &anyhow::Error) -> bool {
    let refused = [SqlState::SYNTAX_ERROR, SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_PARAMETER_VALUE];
    server_error(error).is_some_and(|error| refused.contains(&error.code()))
}

/// Runs one piece of work on a replication connection of its own.
pub(super) fn on_connection<T>(conninfo: &Conninfo, work: impl AsyncFnOnce(&mut Connection) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("unable to start a replication connection")?;
    let done = runtime.block_on(async {
        let mut connection = Connection::connect(conninfo, Purpose::PhysicalReplication)
            .await
            .context("unable to open a replication connection")?;
        let done = work(&mut connection).await;
        connection.close().await;
        done
    });
    // A name may still be looked up, which nobody can interrupt.
    runtime.shutdown_background();
    done
}

/// A tablespace as the backup's root names it; none for the data directory.
fn tablespace(row: &BackupTablespace) -> Option<Tablespace> {
    let (oid, location) = row.place.as_ref()?;
    // An in-place tablespace has no place of its own.
    let location = location.starts_with('/').then(|| location.clone());
    Some(Tablespace { oid: *oid, location })
}

/// A server that complains about page checksums has found damage, even where nothing is found here.
fn with_servers_complaint(errors: PageErrors, end: &BackupEnd) -> PageErrors {
    // Among them: what it leaves out because it is no file.
    for warning in &end.warnings {
        tracing::warn!("the server says: {warning}");
    }
    let Some(complaint) = &end.damage else { return errors };
    tracing::warn!("the server says: {complaint}");
    if errors.total > 0 {
        return errors;
    }
    let mut listed: Vec<PageError> = end.warnings.iter().filter_map(page_error).collect();
    if listed.is_empty() {
        listed.push(PageError { path: "(unknown)".to_owned(), block: 0, problem: complaint.to_string() });
    }
    PageErrors { total: listed.len() as u64, listed }
}

/// A warning about one block, whatever language it is in: it quotes the file, and the first number behind is the block.
fn page_error(warning: &ServerMessage) -> Option<PageError> {
    let mut quoted = warning.message.split('"');
    let path = quoted.nth(1)?.trim_start_matches("./").to_owned();
    RelationFile::parse(&path)?;
    let digits = quoted.next()?.split(|c: char| !c.is_ascii_digit()).find(|digits| !digits.is_empty())?;
    Some(PageError { path, block: digits.parse().ok()?, problem: warning.message.clone() })
}

fn store_histories(job: &Job<'_>, conninfo: &Conninfo, stopped: &StoppedBackup) -> Result<()> {
    let level = job.context.config.compression.level;
    wal_proof::store_histories(&job.archive, stopped.timeline, &|timeline| {
        let file = on_connection(conninfo, async |connection| connection.timeline_history(timeline).await)?;
        let Some(file) = file else { return Ok(None) };
        crate::archive::push_history_text(&job.archive, timeline, &file.content, level)
            .map(|(_, history)| Some(history))
    })
}
