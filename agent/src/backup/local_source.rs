//! The data directory and the server on it: proven to belong together before a byte is copied.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkeep_chunkstore::repository::{ClusterIdentity, Tablespace};
use walkeep_proto::control_file::{CONTROL_FILE_BYTES, ControlFile};
use walkeep_proto::identity::Oid;
use walkeep_proto::tablespace_map::TablespaceMap;
use walkeep_proto::version::MajorVersion;

use crate::postgres::{Postmaster, Session};

/// How often a torn `pg_control` is read again. The server writes it in one call, so a few times are plenty.
const CONTROL_FILE_ATTEMPTS: u32 = 100;

/// How long a server may take from its process's start to its own idea of it, in seconds: huge shared memory, slow DNS.
const LONGEST_START: i64 = 600;

/// A cluster on this machine that can be backed up.
#[derive(Debug)]
pub struct LocalSource {
    /// Its data directory, links resolved.
    pub pgdata: PathBuf,
    /// Its major version.
    pub major: MajorVersion,
    /// The server's own words about its version.
    pub server_version: String,
    /// Its control file as it was at the check.
    pub control: ControlFile,
    /// Permission bits of the data directory.
    pub directory_mode: u32,
    /// Its tablespaces.
    pub tablespaces: Vec<Tablespace>,
}

impl LocalSource {
    /// Checks that the session's server runs on this data directory, and is the repository's cluster.
    pub fn check(session: &Session, pgdata: &Path, identity: &ClusterIdentity) -> Result<Self> {
        let pgdata = pgdata.canonicalize().with_context(|| format!("unable to open '{}'", pgdata.display()))?;
        let control = read_control_file(&pgdata)?;
        check_cluster(&control, &pgdata.display().to_string(), identity)?;
        let row = session.row(
            "SELECT current_setting('server_version_num'), version(), \
             (SELECT system_identifier FROM pg_control_system()), \
             floor(extract(epoch FROM pg_postmaster_start_time()))::bigint",
        )?;
        let [version_num, version, system_identifier, started] = row.as_slice() else {
            bail!("the server's answer has {} columns, expected 4", row.len());
        };
        let major = MajorVersion::from_server_version_num(version_num.parse().unwrap_or(0))?;
        if *system_identifier != control.system_identifier.to_string() || major != control.version {
            bail!(
                "the connection leads to cluster {system_identifier} of PostgreSQL {major}, but '{}' is {} of PostgreSQL {}",
                pgdata.display(),
                control.system_identifier,
                control.version
            );
        }
        check_same_server(&pgdata, started.parse().unwrap_or(0))?;
        check_no_pooler(session)?;
        let mode = std::fs::metadata(&pgdata).with_context(|| format!("unable to read '{}'", pgdata.display()))?;
        let tablespaces = tablespaces(&pgdata)?;
        Ok(Self {
            major,
            server_version: version.clone(),
            control,
            directory_mode: mode.permissions().mode() & 0o777,
            tablespaces,
            pgdata,
        })
    }
}

impl LocalSource {
    /// Looks at the tablespaces anew. Those that exist when the backup has started are its own: replay knows the later ones.
    pub fn refresh_tablespaces(&mut self) -> Result<()> {
        self.tablespaces = tablespaces(&self.pgdata)?;
        Ok(())
    }

    /// Refuses a stopped backup whose own map names a tablespace that was not copied.
    pub fn check_map(&self, tablespace_map: &str) -> Result<()> {
        let map = TablespaceMap::parse(tablespace_map.as_bytes(), self.major)
            .context("unable to understand the backup's tablespace map")?;
        for (oid, path) in &map.entries {
            if !self.tablespaces.iter().any(|tablespace| tablespace.oid == *oid) {
                let path = String::from_utf8_lossy(path);
                bail!("tablespace {oid} at '{path}' appeared while the backup started: take it again");
            }
        }
        Ok(())
    }
}

/// Reads `pg_control` until its checksum fits: the server may be writing it.
pub fn read_control_file(pgdata: &Path) -> Result<ControlFile> {
    let path = pgdata.join("global/pg_control");
    read_control_bytes(pgdata).and_then(|bytes| {
        ControlFile::parse(&bytes).with_context(|| format!("unable to understand '{}'", path.display()))
    })
}

/// The bytes of a `pg_control` whose checksum fits.
pub fn read_control_bytes(pgdata: &Path) -> Result<Vec<u8>> {
    let path = pgdata.join("global/pg_control");
    let mut attempts = 0;
    loop {
        let bytes = std::fs::read(&path).with_context(|| format!("unable to read '{}'", path.display()))?;
        attempts += 1;
        match ControlFile::parse(&bytes[..bytes.len().min(CONTROL_FILE_BYTES)]) {
            Ok(_) => return Ok(bytes),
            Err(error) if attempts == CONTROL_FILE_ATTEMPTS => {
                return Err(error).with_context(|| format!("unable to understand '{}'", path.display()));
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
        }
    }
}

/// The identity that a control file describes.
pub fn identity_of(control: &ControlFile, now: jiff::Timestamp) -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: control.system_identifier,
        major: control.version,
        page_size: control.block_size,
        pages_per_segment: control.blocks_per_segment,
        wal_segment_size: control.wal_segment_size,
        registered: now,
    }
}

/// Refuses a control file, found at `place`, of another cluster than the repository's.
pub fn check_cluster(control: &ControlFile, place: &str, identity: &ClusterIdentity) -> Result<()> {
    let found = identity_of(control, identity.registered);
    if found.is_same(identity) {
        return Ok(());
    }
    let problem = format!(
        "'{place}' has system identifier {} of PostgreSQL {}, the repository holds {} of PostgreSQL {}",
        found.system_identifier, found.major, identity.system_identifier, identity.major
    );
    Err(another_cluster(problem))
}

/// What leads elsewhere than to the repository's cluster.
pub fn another_cluster(problem: String) -> anyhow::Error {
    walkeep_chunkstore::Error::Conflict { object: "the cluster is another one".to_owned(), problem }.into()
}

/// A copy of the data directory has the same system identifier; the server's start time tells them apart.
fn check_same_server(pgdata: &Path, started: i64) -> Result<()> {
    let Some(postmaster) = Postmaster::of(pgdata)? else {
        bail!("the connection leads to a running server, but none runs on '{}'", pgdata.display());
    };
    // The file holds the process's start; the server counts from when shared memory and preloaded libraries were ready.
    let head_start = started - postmaster.started;
    if !(-2..=LONGEST_START).contains(&head_start) {
        bail!(
            "the connection leads to a server that started at {started}, the one on '{}' started at {} (seconds since 1970)",
            pgdata.display(),
            postmaster.started
        );
    }
    Ok(())
}

/// A backup must start and stop in one session; a pooler may hand out another one in between.
fn check_no_pooler(session: &Session) -> Result<()> {
    let pids = (0..3).map(|_| session.value("SELECT pg_backend_pid()")).collect::<Result<Vec<_>>>()?;
    if pids.iter().any(|pid| *pid != pids[0]) {
        bail!(
            "the connection goes through a pooler: a backup needs a session of its own, connect to the server directly"
        );
    }
    Ok(())
}

/// The tablespaces below `pg_tblspc`.
fn tablespaces(pgdata: &Path) -> Result<Vec<Tablespace>> {
    let directory = pgdata.join("pg_tblspc");
    let entries = std::fs::read_dir(&directory).with_context(|| format!("unable to list '{}'", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("unable to list '{}'", directory.display()))?;
        let name = entry.file_name();
        let Some(oid) = name.to_str().and_then(|name| name.parse::<Oid>().ok()) else { continue };
        let kind = entry.file_type().with_context(|| format!("unable to read '{}'", entry.path().display()))?;
        let location = if kind.is_symlink() {
            let target = std::fs::read_link(entry.path())
                .with_context(|| format!("unable to read link '{}'", entry.path().display()))?;
            let text = target.into_os_string().into_string();
            Some(text.map_err(|target| anyhow::anyhow!("tablespace {oid} at {target:?}: its path is no UTF-8"))?)
        } else {
            None
        };
        found.push(Tablespace { oid, location });
    }
    found.sort_by_key(|tablespace| tablespace.oid);
    check_tablespaces(pgdata, &found)?;
    Ok(found)
}

/// A tablespace inside the data directory would be copied twice and restored over itself.
fn check_tablespaces(pgdata: &Path, tablespaces: &[Tablespace]) -> Result<()> {
    for tablespace in tablespaces {
        let Some(location) = &tablespace.location else { continue };
        let resolved = match Path::new(location).canonicalize() {
            // It was dropped just now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("unable to open tablespace {} at '{location}'", tablespace.oid))?,
        };
        if resolved.starts_with(pgdata) {
            bail!("tablespace {} at '{location}' lies inside the data directory: move it out", tablespace.oid);
        }
    }
    Ok(())
}
