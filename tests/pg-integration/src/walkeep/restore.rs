//! Restores, and the clusters that come of them.

use std::path::PathBuf;
use std::process::Command;

use super::Walkeep;
use crate::cluster::Cluster;
use crate::output::Output;
use crate::user::Scratch;
use crate::workload::Marker;

/// A restore to be made. Ends with [`Restore::output`] (just run it), [`Restore::files`] (a stopped cluster),
/// [`Restore::start`] (a started one) or [`Restore::promoted`] (one that takes writes).
#[derive(Debug)]
pub struct Restore<'a> {
    walkeep: &'a Walkeep,
    scratch: Scratch,
    target: PathBuf,
    args: Vec<String>,
    command_line: Vec<(String, String)>,
}

impl<'a> Restore<'a> {
    pub(super) fn new(walkeep: &'a Walkeep) -> Self {
        let scratch = Scratch::new("back");
        let target = scratch.path().join("data");
        Self { walkeep, scratch, target, args: Vec::new(), command_line: Vec::new() }
    }

    /// More arguments of `walkeep-restore`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// To the moment of a marker, by its time.
    #[must_use]
    pub fn target_time(self, marker: &Marker) -> Self {
        self.args(&["--target-time", &marker.time])
    }

    /// To the moment of a marker, by its LSN.
    #[must_use]
    pub fn target_lsn(self, marker: &Marker) -> Self {
        self.args(&["--target-lsn", &marker.lsn.to_string()])
    }

    /// To the moment of a marker, by its transaction.
    #[must_use]
    pub fn target_xid(self, marker: &Marker) -> Self {
        self.args(&["--target-xid", &marker.xid.to_string()])
    }

    /// To the moment of a marker, by its restore point.
    #[must_use]
    pub fn target_name(self, marker: &Marker) -> Self {
        self.args(&["--target-name", &marker.name])
    }

    /// Into this directory instead of a new one. Its parent must belong to the test user.
    #[must_use]
    pub fn into_directory(mut self, target: impl Into<PathBuf>) -> Self {
        self.target = target.into();
        self
    }

    /// Maps every tablespace with a place of its own, of `cluster` to a directory of its own, so that both clusters can live on one machine.
    #[must_use]
    pub fn map_tablespaces(mut self, cluster: &Cluster) -> Self {
        let query = "select oid, spcname from pg_tablespace where pg_tablespace_location(oid) ~ '^/'";
        for row in cluster.query(query) {
            let [Some(oid), Some(name)] = row.as_slice() else { continue };
            let directory = self.scratch.subdirectory(&format!("tablespace-{name}"));
            self.args.extend(["--tablespace-map".to_owned(), format!("{oid}={}", directory.display())]);
        }
        self
    }

    /// A setting on the restored server's command line, e.g. `archive_mode`, which is `off` otherwise.
    #[must_use]
    pub fn command_line(mut self, name: &str, value: &str) -> Self {
        self.command_line.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The command, to be spawned by the caller.
    pub fn command(&self) -> Command {
        let mut command = self.walkeep.restore_command(&["--repo"]);
        command.arg(self.walkeep.repository()).arg("--target-dir").arg(&self.target).args(&self.args);
        command
    }

    /// Where it restores to.
    pub const fn target(&self) -> &PathBuf {
        &self.target
    }

    /// Runs it, whatever comes of it. The directory goes away with this value.
    #[track_caller]
    pub fn output(&self) -> Output {
        Output::of(&mut self.command())
    }

    /// Runs it, which must succeed, and returns the cluster, not yet started.
    #[track_caller]
    pub fn files(self) -> Cluster {
        self.output().ok();
        let mut cluster = Cluster::adopt(self.walkeep.server().clone(), self.scratch, self.target);
        for (name, value) in &self.command_line {
            cluster.command_line(name, value);
        }
        for (name, value) in &self.walkeep.environment {
            cluster.environment(name, value); // for `fetch-wal`
        }
        cluster
    }

    /// Runs it and starts the cluster; it may still be recovering, as a hot standby.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let mut cluster = self.files();
        cluster.start();
        cluster
    }

    /// Runs it with `--target-action promote`, starts the cluster and waits until it takes writes.
    #[track_caller]
    pub fn promoted(self) -> Cluster {
        let cluster = self.args(&["--target-action", "promote"]).start();
        cluster.wait_writable();
        cluster
    }
}
