//! `pgbench`: known tables, known load.

use std::process::{Child, Command, Stdio};

use crate::cluster::Cluster;
use crate::output::Output;
use crate::seed::Seed;
use crate::user::TestUser;

fn pgbench(cluster: &Cluster) -> Command {
    let mut command = TestUser::get().command(cluster.tools().client("pgbench"));
    command.envs(cluster.client_environment());
    command
}

/// Creates pgbench's tables in `postgres`: 100 000 accounts, 15 MB, per unit of `scale`.
#[track_caller]
pub fn pgbench_init(cluster: &Cluster, scale: u32) {
    Output::of(pgbench(cluster).args(["-i", "-q", "-s", &scale.to_string(), "postgres"])).ok();
}

/// Runs `transactions` transactions on each of two connections.
#[track_caller]
pub fn pgbench_run(cluster: &Cluster, transactions: u32, seed: Seed) {
    let seed = format!("--random-seed={seed}");
    Output::of(pgbench(cluster).args(["-n", "-c", "2", "-t", &transactions.to_string(), &seed, "postgres"])).ok();
}

/// Starts a load on two connections that goes on until it is stopped or dropped, or the server goes away.
#[track_caller]
pub fn pgbench_load(cluster: &Cluster, seed: Seed) -> BackgroundLoad {
    let mut command = pgbench(cluster);
    command.args(["-n", "-c", "2", "-T", "3600", &format!("--random-seed={seed}"), "postgres"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    BackgroundLoad { child: command.spawn().expect("pgbench can be started") }
}

/// [`pgbench_load`] of about so many transactions per second: enough to be in the way, little enough to archive.
#[track_caller]
pub fn pgbench_trickle(cluster: &Cluster, seed: Seed, per_second: u32) -> BackgroundLoad {
    let mut command = pgbench(cluster);
    command.args(["-n", "-c", "2", "-T", "3600", &format!("--random-seed={seed}")]);
    command.args([&format!("--rate={per_second}"), "postgres"]).stdout(Stdio::null()).stderr(Stdio::null());
    BackgroundLoad { child: command.spawn().expect("pgbench can be started") }
}

/// A running `pgbench`.
#[derive(Debug)]
pub struct BackgroundLoad {
    child: Child,
}

impl BackgroundLoad {
    /// Ends it.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for BackgroundLoad {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
