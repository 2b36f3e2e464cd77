//! A PostgreSQL cluster of a test: its directory, its server process, and SQL.
//!
//! What identifies the running server (port, socket, log) is given on its command line and not in its files, so a
//! cluster that was restored from a backup of another one is started beside it unchanged.

mod network;
mod options;
mod process;
mod standby;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::str::FromStr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

pub use network::free_port;
pub use options::ClusterOptions;
pub use process::{StartFailure, StopMode};
pub(crate) use process::{kill_tree, send};
use walkeep_proto::version::MajorVersion;

use crate::servers::{Server, Tools};
use crate::sql::{Row, Session, SqlError};
use crate::user::Scratch;
use crate::wait::{SOON, wait_until};

/// A cluster, running or stopped. Dropping it stops the server and removes its files.
#[derive(Debug)]
pub struct Cluster {
    server: Server,
    scratch: Scratch,
    data: PathBuf,
    sockets: PathBuf,
    port: u16,
    command_line: Vec<(String, String)>,
    environment: Vec<(OsString, OsString)>,
    process: Option<Child>,
}

impl Cluster {
    /// A running cluster with the defaults of [`ClusterOptions`].
    #[track_caller]
    pub fn create(major: MajorVersion) -> Self {
        ClusterOptions::new(major).create()
    }

    /// Starts to describe another one.
    pub const fn options(major: MajorVersion) -> ClusterOptions {
        ClusterOptions::new(major)
    }

    /// A stopped cluster over a data directory that exists, e.g. a restored one. It keeps its socket and log in
    /// `scratch`, and does not archive unless [`Cluster::command_line`] says otherwise.
    pub fn adopt(server: Server, scratch: Scratch, data: PathBuf) -> Self {
        let mut cluster = Self::over(server, scratch, data);
        cluster.command_line("archive_mode", "off");
        cluster
    }

    fn over(server: Server, scratch: Scratch, data: PathBuf) -> Self {
        let sockets = scratch.subdirectory("s");
        assert!(sockets.as_os_str().len() < 80, "{} is too long for unix sockets", sockets.display());
        Self {
            server,
            scratch,
            data,
            sockets,
            port: unique_port(),
            command_line: Vec::new(),
            environment: Vec::new(),
            process: None,
        }
    }

    /// A setting on the server's command line at its next starts; it outranks the files.
    pub fn command_line(&mut self, name: &str, value: &str) {
        self.command_line.retain(|(known, _)| known != name);
        self.command_line.push((name.to_owned(), value.to_owned()));
    }

    /// A variable of the server at its next starts, and so of its `archive_command` and `restore_command`.
    pub fn environment(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.environment.push((name.into(), value.into()));
    }

    /// The server programs.
    pub const fn server(&self) -> &Server {
        &self.server
    }

    /// The programs that can judge it.
    pub const fn tools(&self) -> Tools {
        self.server.tools()
    }

    /// Its major version.
    pub const fn major(&self) -> MajorVersion {
        self.server.major()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// A directory beside the data directory that lives as long as the cluster.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// How libpq finds it.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user=postgres dbname=postgres", self.sockets.display(), self.port)
    }

    /// The server's unix socket.
    pub fn socket(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{}", self.port))
    }

    /// The variables that make PostgreSQL's client programs find it.
    pub fn client_environment(&self) -> Vec<(&'static str, String)> {
        let host = self.sockets.display().to_string();
        vec![("PGHOST", host), ("PGPORT", self.port.to_string()), ("PGUSER", "postgres".to_owned())]
    }

    /// A connection to `database`, which stays open until it is dropped.
    #[track_caller]
    pub fn session(&self, database: &str) -> Session {
        match self.try_session(database) {
            Ok(session) => session,
            Err(e) => panic!("unable to connect to '{database}': {e}"),
        }
    }

    /// A connection to `database`, if the server gives one.
    pub fn try_session(&self, database: &str) -> Result<Session, SqlError> {
        Session::connect(&self.sockets, self.port, database)
    }

    /// Runs statements in `postgres`; several in one text are one transaction.
    #[track_caller]
    pub fn sql(&self, text: &str) {
        self.session("postgres").sql(text);
    }

    /// Runs statements in `postgres` that may fail.
    pub fn try_sql(&self, text: &str) -> Result<(), SqlError> {
        self.try_session("postgres")?.try_sql(text)
    }

    /// The rows of a query in `postgres`.
    #[track_caller]
    pub fn query(&self, text: &str) -> Vec<Row> {
        self.session("postgres").query(text)
    }

    /// The single value of a query in `postgres`.
    #[track_caller]
    pub fn query_one<T: FromStr>(&self, text: &str) -> T {
        self.session("postgres").query_one(text)
    }

    /// Sets `name` with ALTER SYSTEM and returns once the postmaster has reloaded; some settings also need a restart.
    #[track_caller]
    pub fn set(&self, name: &str, value: &str) {
        self.sql(&format!("alter system set {name} = '{}'", value.replace('\'', "''")));
        self.reload();
    }

    /// Has the configuration files read again, and returns once the postmaster has done so.
    #[track_caller]
    pub fn reload(&self) {
        let loaded = || self.query_one::<String>("select extract(epoch from pg_conf_load_time())");
        let before = loaded();
        self.sql("select pg_reload_conf()");
        wait_until("the postmaster to reload", SOON, || loaded() != before);
    }

    /// Ends the current WAL segment and returns its name.
    #[track_caller]
    pub fn switch_wal(&self) -> String {
        // A segment without a record is not switched, hence one before.
        self.sql("select pg_create_restore_point('segment switch')");
        self.query_one("select pg_walfile_name(pg_switch_wal())")
    }

    /// Ends the current WAL segment and waits until `archive_command` has stored it and all before it.
    #[track_caller]
    pub fn archive_everything(&self) -> String {
        let segment = self.switch_wal();
        self.wait_archived(&segment, Duration::from_secs(120));
        segment
    }

    /// Waits until `archive_command` has succeeded for `segment`.
    #[track_caller]
    pub fn wait_archived(&self, segment: &str, limit: Duration) {
        let ready = self.data.join(format!("pg_wal/archive_status/{segment}.ready"));
        let archived = "select coalesce(max(last_archived_wal), '') from pg_stat_archiver \
                        where last_archived_wal ~ '^[0-9A-F]{24}$'";
        wait_until(&format!("{segment} to be archived"), limit, || {
            !ready.exists() && self.query_one::<String>(archived).as_str() >= segment
        });
    }

    /// Creates a tablespace and returns its directory.
    #[track_caller]
    pub fn create_tablespace(&self, name: &str) -> PathBuf {
        let directory = self.scratch.subdirectory(&format!("tablespace-{name}"));
        self.sql(&format!("create tablespace {name} location '{}'", directory.display()));
        directory
    }

    /// The file of a relation's main fork, by name as SQL spells it.
    #[track_caller]
    pub fn relation_file(&self, relation: &str) -> PathBuf {
        self.data.join(self.query_one::<String>(&format!("select pg_relation_filepath('{relation}')")))
    }
}

/// A port that no other cluster of this machine's tests is likely to use. Only the socket's name depends on it, and
/// sockets are in directories of their own, so a collision does no harm.
fn unique_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % 4000).unwrap_or_default();
    20_000 + process * 10 + NEXT.fetch_add(1, Ordering::Relaxed) % 10
}
