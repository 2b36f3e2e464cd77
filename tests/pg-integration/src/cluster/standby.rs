//! A second server of the same cluster.

use std::process::Command;

use super::{Cluster, StopMode};
use crate::output::Output;
use crate::user::{Scratch, write_file};

impl Cluster {
    /// A standby that streams from this primary, as a cold copy of it; both run afterwards.
    #[track_caller]
    pub fn standby(&mut self) -> Self {
        self.stop(StopMode::Fast);
        let standby = self.copy();
        self.start();
        let mut standby = standby.following(self);
        standby.start();
        standby
    }

    /// A copy of the stopped cluster's files, stopped.
    #[track_caller]
    pub fn copy(&self) -> Self {
        assert!(self.process.is_none(), "only a stopped cluster can be copied");
        let scratch = Scratch::new(&format!("pg{}copy", self.major()));
        let data = scratch.path().join("data");
        Output::of(Command::new("cp").arg("-a").arg(&self.data).arg(&data)).ok();
        let mut copy = Self::over(self.server.clone(), scratch, data);
        copy.command_line.clone_from(&self.command_line);
        copy.environment.clone_from(&self.environment);
        copy
    }

    /// Makes a stopped cluster a standby of `primary` at its next start.
    #[must_use]
    pub fn following(mut self, primary: &Self) -> Self {
        self.follow(primary);
        self
    }

    /// [`Cluster::following`] in place.
    pub fn follow(&mut self, primary: &Self) {
        write_file(&self.data.join("standby.signal"), String::new());
        let conninfo = format!("host={} port={} user=postgres", primary.sockets.display(), primary.port);
        self.command_line("primary_conninfo", &conninfo);
        self.command_line("recovery_target_timeline", "latest");
    }

    /// Waits until a standby has replayed everything that `primary` has written.
    #[track_caller]
    pub fn wait_caught_up(&self, primary: &Self) {
        let written: String = primary.query_one("select pg_current_wal_lsn()");
        let replayed = format!("select pg_last_wal_replay_lsn() >= '{written}'");
        crate::wait::wait_until("the standby to catch up", crate::wait::SOON, || {
            self.query_one::<String>(&replayed) == "t"
        });
    }
}
