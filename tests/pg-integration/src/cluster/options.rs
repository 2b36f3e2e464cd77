//! How a test cluster is made.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;

use walkeep_proto::version::MajorVersion;

use super::Cluster;
use crate::output::Output;
use crate::servers::Server;
use crate::user::{Scratch, TestUser};

/// What every test cluster has in `postgresql.conf`; later settings win. Archiving is on from the start, because it
/// cannot be switched on without a restart, and goes nowhere until a command is set.
const SETTINGS: &[(&str, &str)] = &[
    ("shared_buffers", "16MB"),
    ("max_connections", "30"),
    ("max_prepared_transactions", "10"),
    ("wal_level", "replica"),
    ("max_wal_senders", "10"),
    ("archive_mode", "on"),
    ("archive_command", ""),
    ("log_line_prefix", "%m [%p] "),
    ("log_checkpoints", "on"),
    ("log_timezone", "UTC"),
    ("timezone", "UTC"),
];

/// A cluster to be made: checksums on, 16 MiB segments, C locale, UTF-8, trust authentication over a unix socket only.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    major: MajorVersion,
    checksums: bool,
    wal_segment_mb: u32,
    group_access: bool,
    settings: Vec<(String, String)>,
    initdb_args: Vec<String>,
}

impl ClusterOptions {
    /// The defaults.
    pub const fn new(major: MajorVersion) -> Self {
        Self {
            major,
            checksums: true,
            wal_segment_mb: 16,
            group_access: false,
            settings: Vec::new(),
            initdb_args: Vec::new(),
        }
    }

    /// Page checksums on or off.
    #[must_use]
    pub const fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// The WAL segment size, a power of two from 1 to 1024. Small ones make WAL scenarios fast.
    #[must_use]
    pub const fn wal_segment_mb(mut self, size: u32) -> Self {
        self.wal_segment_mb = size;
        self
    }

    /// Lets the group read the data directory (`initdb -g`).
    #[must_use]
    pub const fn group_access(mut self) -> Self {
        self.group_access = true;
        self
    }

    /// A line of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more argument of `initdb`.
    #[must_use]
    pub fn initdb_arg(mut self, arg: &str) -> Self {
        self.initdb_args.push(arg.to_owned());
        self
    }

    /// Makes the cluster and starts it.
    #[track_caller]
    pub fn create(self) -> Cluster {
        let mut cluster = self.initdb();
        cluster.start();
        cluster
    }

    /// Makes the cluster, stopped.
    #[track_caller]
    pub fn initdb(self) -> Cluster {
        let server = Server::of(self.major);
        let scratch = Scratch::new(&format!("pg{}", self.major));
        let data = scratch.path().join("data");
        let mut command = TestUser::get().command(server.program("initdb"));
        command.arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
        command.arg(format!("--wal-segsize={}", self.wal_segment_mb));
        match (self.checksums, self.major >= MajorVersion::V18) {
            (true, _) => _ = command.arg("--data-checksums"),
            (false, true) => _ = command.arg("--no-data-checksums"),
            (false, false) => {}
        }
        if self.group_access {
            command.arg("--allow-group-access");
        }
        Output::of(command.args(&self.initdb_args)).ok();

        let own = self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = String::from("\n# the test harness's\n");
        for (name, value) in SETTINGS.iter().copied().chain(own) {
            writeln!(text, "{name} = '{}'", value.replace('\'', "''")).expect("writing to a String cannot fail");
        }
        let conf = data.join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(&conf).expect("initdb wrote postgresql.conf");
        file.write_all(text.as_bytes()).expect("postgresql.conf can be extended");
        Cluster::over(server, scratch, data)
    }
}
