//! The running agent.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use super::Walkeep;
use crate::cluster::{kill_tree, send};
use crate::wait::{SOON, try_poll, wait_until};

/// A `walkeep agent` process; killed on drop.
#[derive(Debug)]
pub struct Agent {
    child: Option<Child>,
    log: PathBuf,
}

impl Agent {
    #[track_caller]
    pub(super) fn spawn(walkeep: &Walkeep) -> Self {
        Self::run(walkeep, walkeep.command(&["agent"]))
    }

    /// An agent that is run by `command`, e.g. within another program.
    #[track_caller]
    pub fn run(walkeep: &Walkeep, mut command: Command) -> Self {
        let log = walkeep.scratch().path().join("agent.log");
        let open = || File::options().create(true).append(true).open(&log).unwrap_or_else(|e| panic!("agent log: {e}"));
        command.stdout(open()).stderr(open());
        let child = command.spawn().unwrap_or_else(|e| panic!("unable to run the agent: {e}"));
        Self { child: Some(child), log }
    }

    /// Waits until `walkeep status` gets its answer from an agent; without one it compares by itself, and succeeds too.
    #[track_caller]
    pub fn wait_ready(&mut self, walkeep: &Walkeep) {
        wait_until("the agent to answer `walkeep status`", SOON, || {
            assert!(self.is_running(), "the agent ended:\n{}", self.log());
            let answer = walkeep.run(&["status", "--json"]);
            answer.succeeded() && answer.json()["agent"].is_object()
        });
    }

    /// Whether the process exists.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The process id, for signals and `/proc`.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// SIGTERM, which drains, and wait for the end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the agent was started");
        send(child.id(), Signal::TERM);
        let Some(status) = try_poll(SOON, || child.try_wait().ok().flatten()) else {
            kill_tree(&mut child);
            panic!("the agent did not end after SIGTERM:\n{}", self.log())
        };
        status
    }

    /// SIGHUP: reload.
    pub fn reload(&self) {
        if let Some(pid) = self.pid() {
            send(pid, Signal::HUP);
        }
    }

    /// SIGKILL, now.
    pub fn kill9(mut self) {
        if let Some(mut child) = self.child.take() {
            kill_tree(&mut child);
        }
    }

    /// Waits for an agent that ends by itself.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("the agent was started");
        try_poll(limit, || child.try_wait().ok().flatten())
            .unwrap_or_else(|| panic!("the agent did not end:\n{}", self.log()))
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- log of the agent\n{}\n--", self.log());
        }
        if let Some(mut child) = self.child.take() {
            kill_tree(&mut child);
        }
    }
}
