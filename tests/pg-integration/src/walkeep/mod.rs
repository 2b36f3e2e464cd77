//! The binaries under test, as an operator would run them for one cluster.
//!
//! Every command runs as the test user with an explicit configuration file; nothing of the machine's own `/etc` or of
//! the caller's environment is used.

mod agent;
mod restore;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use agent::Agent;
pub use restore::Restore;
use serde_json::Value;

use crate::binaries;
use crate::cluster::Cluster;
use crate::output::Output;
use crate::servers::Server;
use crate::user::{Scratch, TestUser, write_file};

/// Walkeep for one cluster: a repository, a configuration file, a state directory.
#[derive(Debug)]
pub struct Walkeep {
    scratch: Scratch,
    server: Server,
    pgdata: PathBuf,
    conninfo: String,
    repository: OsString,
    environment: Vec<(OsString, OsString)>,
}

impl Walkeep {
    /// Nothing runs yet; the repository will be a directory of its own.
    pub fn new(cluster: &Cluster) -> Self {
        let scratch = Scratch::new("keep");
        let repository = scratch.path().join("repository").into_os_string();
        Self {
            scratch,
            server: cluster.server().clone(),
            pgdata: cluster.data().to_owned(),
            conninfo: cluster.conninfo(),
            repository,
            environment: Vec::new(),
        }
    }

    /// A repository elsewhere: a directory or `s3://bucket/prefix`.
    #[must_use]
    pub fn repository_at(mut self, url: impl Into<OsString>) -> Self {
        self.repository = url.into();
        self
    }

    /// A variable of every command, e.g. `AWS_ACCESS_KEY_ID`. A running server's
    /// `archive_command` does not get it ([`Cluster::environment`] does that); restored servers do.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The usual beginning: `init`, and `archive_command` set in the running cluster.
    #[track_caller]
    pub fn set_up(cluster: &Cluster) -> Self {
        let walkeep = Self::new(cluster);
        walkeep.init(&[]).ok();
        walkeep.archive_from(cluster);
        walkeep
    }

    /// `walkeep init`, with more arguments. On success the state directory is moved beside the repository.
    #[track_caller]
    pub fn init(&self, extra: &[&str]) -> Output {
        let mut command = self.command(&["init", "--pgdata"]);
        command.arg(&self.pgdata).arg("--repo").arg(&self.repository).args(["--conninfo", &self.conninfo]).args(extra);
        // Whatever `init` itself does with its state must not go to the machine's /var.
        command.env("WALKEEP_STATE_DIR", self.state_dir());
        let output = Output::of(&mut command);
        if output.succeeded() {
            self.configure("state", "dir", self.state_dir().display().to_string());
        }
        output
    }

    /// Sets `key` in `[section]` of the configuration file.
    #[track_caller]
    pub fn configure(&self, section: &str, key: &str, value: impl Into<toml::Value>) {
        let path = self.config();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut document: toml::Table =
            toml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}\n{text}", path.display()));
        let table = document.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        let table = table.as_table_mut().unwrap_or_else(|| panic!("[{section}] is no table in {}", path.display()));
        table.insert(key.to_owned(), value.into());
        write_file(&path, toml::to_string(&document).expect("a table can be written as TOML"));
    }

    /// Points the running cluster's `archive_command` at this repository.
    #[track_caller]
    pub fn archive_from(&self, cluster: &Cluster) {
        cluster.set("archive_command", &self.archive_command());
    }

    /// What `archive_command` must be.
    pub fn archive_command(&self) -> String {
        format!("{} --config {} archive-push %p", binaries::path("walkeep").display(), self.config().display())
    }

    /// `walkeep` with arguments, to be run or spawned by the caller.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bare_command("walkeep");
        command.arg("--config").arg(self.config()).args(args);
        command
    }

    /// `walkeep-restore` with arguments; only what needs the repository's address gets it, so pass `--repo` yourself.
    pub fn restore_command(&self, args: &[&str]) -> Command {
        let mut command = self.bare_command("walkeep-restore");
        command.args(args);
        command
    }

    fn bare_command(&self, name: &str) -> Command {
        let mut command = TestUser::get().command(binaries::path(name));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs `walkeep` with arguments to its end, whatever that is.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        Output::of(&mut self.command(args))
    }

    /// Runs `walkeep … --json`, which must succeed, and returns the document.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        self.run(&[args, &["--json"]].concat()).ok().json()
    }

    /// Takes a base backup, which must succeed; returns what `backup --json` says.
    #[track_caller]
    pub fn backup(&self, extra: &[&str]) -> Value {
        self.json(&[&["backup"], extra].concat())
    }

    /// Runs `walkeep archive-push` for a file, as PostgreSQL would.
    #[track_caller]
    pub fn push(&self, file: &Path) -> Output {
        let mut command = self.command(&["archive-push"]);
        Output::of(command.arg(file))
    }

    /// Runs `walkeep verify`, which must find no damage; returns its report.
    #[track_caller]
    pub fn verify(&self) -> Value {
        self.json(&["verify"])
    }

    /// The backups, oldest first, as `list --json` gives them.
    #[track_caller]
    pub fn backups(&self) -> Vec<Value> {
        let mut listed = self.json(&["list"]);
        match listed["backups"].take() {
            Value::Array(backups) => backups,
            other => panic!("`list --json` has no backups but {other}"),
        }
    }

    /// Starts to describe a restore from this repository.
    pub fn restore(&self) -> Restore<'_> {
        Restore::new(self)
    }

    /// Starts `walkeep agent`.
    #[track_caller]
    pub fn agent(&self) -> Agent {
        Agent::spawn(self)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.path().join("walkeep.toml")
    }

    /// The state directory (RocksDB, spool, socket).
    pub fn state_dir(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// The repository's address.
    pub fn repository(&self) -> &OsString {
        &self.repository
    }

    /// The repository's directory, when it is one.
    pub fn repository_dir(&self) -> &Path {
        Path::new(&self.repository)
    }

    /// A directory that lives as long as this value.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(crate) const fn server(&self) -> &Server {
        &self.server
    }
}
