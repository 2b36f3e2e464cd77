//! The server process of a cluster: starting, stopping, killing.
//!
//! The postmaster is a child of the test, not of `pg_ctl`: its end can be waited for, and it does not outlive a test
//! run that is interrupted.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::Cluster;
use crate::user::TestUser;
use crate::wait::{SOON, try_poll, wait_until};

const LOG_LINES_SHOWN: usize = 120;

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for sessions to end, then a shutdown checkpoint.
    Smart,
    /// Ends sessions, then a shutdown checkpoint.
    Fast,
    /// No checkpoint: the next start recovers from WAL.
    Immediate,
}

/// The server did not come up.
#[derive(Debug, thiserror::Error)]
#[error("the server did not start ({end}); its log ends:\n{log}")]
pub struct StartFailure {
    /// `exit status: 1` and the like, or that it hung.
    pub end: String,
    /// The last lines of its log.
    pub log: String,
}

impl Cluster {
    /// Starts the server and returns when it accepts connections, be it as a hot standby.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(e) = self.try_start() {
            panic!("PostgreSQL {} in {}: {e}", self.major(), self.data.display())
        }
    }

    /// Starts the server if it can be started.
    pub fn try_start(&mut self) -> Result<(), StartFailure> {
        self.spawn();
        self.wait_ready(Duration::from_secs(120))
    }

    /// Starts the server process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "the server is running already");
        let log = |path: &PathBuf| -> File {
            let mut options = OpenOptions::new();
            options.create(true).append(true).mode(0o600);
            options.open(path).unwrap_or_else(|e| panic!("unable to open {}: {e}", path.display()))
        };
        let path = self.log_file();
        let mut command = TestUser::get().command(self.server.program("postgres"));
        command.arg("-D").arg(&self.data).arg("-p").arg(self.port.to_string());
        let sockets = format!("unix_socket_directories={}", self.sockets.display());
        // fsync=off: what is tested outlives a killed server, not a killed operating system.
        command.args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "logging_collector=off", "-c", &sockets]);
        for (name, value) in &self.command_line {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(log(&path)).stderr(log(&path));
        self.process = Some(command.spawn().unwrap_or_else(|e| panic!("unable to run postgres: {e}")));
    }

    /// Waits until a spawned server accepts connections.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<(), StartFailure> {
        let ended = try_poll(limit, || {
            if self.is_ready() {
                return Some(None);
            }
            let child = self.process.as_mut()?;
            child.try_wait().ok().flatten().map(Some)
        });
        match ended {
            Some(None) => Ok(()),
            Some(Some(status)) => {
                self.process = None;
                Err(StartFailure { end: status.to_string(), log: self.log_tail() })
            }
            None => {
                let log = self.log_tail();
                self.kill9();
                Err(StartFailure { end: format!("not ready after {} s, killed", limit.as_secs()), log })
            }
        }
    }

    /// Whether it accepts connections, by the line that the postmaster writes for `pg_ctl`.
    fn is_ready(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let Ok(text) = fs::read_to_string(self.data.join("postmaster.pid")) else { return false };
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        lines.first() == Some(&pid.to_string().as_str()) && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    /// Returns once the server has left recovery and takes writes.
    #[track_caller]
    pub fn wait_writable(&self) {
        let writable = || {
            matches!(self.try_session("postgres").map(|s| s.try_query("select pg_is_in_recovery()")),
            Ok(Ok(rows)) if rows == [[Some("f".to_owned())]])
        };
        wait_until("the server to leave recovery", Duration::from_secs(120), writable);
    }

    /// Promotes a standby.
    #[track_caller]
    pub fn promote(&self) {
        // A query that waits for the promotion can itself be what replay waits for.
        self.sql("select pg_promote(false)");
        self.wait_writable();
    }

    /// Stops the server and returns when it has ended.
    #[track_caller]
    pub fn stop(&mut self, mode: StopMode) {
        self.stop_within(mode, Duration::from_secs(120));
    }

    /// [`Cluster::stop`], which must not take longer.
    #[track_caller]
    pub fn stop_within(&mut self, mode: StopMode, limit: Duration) {
        let signal = match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        let child = self.process.as_ref().expect("the server is running");
        send(child.id(), signal);
        let status = self.wait_exit(limit);
        assert!(
            status.success() || mode == StopMode::Immediate,
            "the server ended badly: {status}\n{}",
            self.log_tail()
        );
    }

    /// Stops fast, starts again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(StopMode::Fast);
        self.start();
    }

    /// Waits for a server that ends by itself, e.g. after `recovery_target_action = shutdown`.
    #[track_caller]
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let child = self.process.as_mut().expect("the server is running");
        let Some(status) = try_poll(limit, || child.try_wait().ok().flatten()) else {
            panic!("the server did not end within {} s\n{}", limit.as_secs(), self.log_tail())
        };
        self.process = None;
        status
    }

    /// Kills the postmaster and everything below it (archive commands too) with SIGKILL, and returns when all are gone.
    pub fn kill9(&mut self) {
        let Some(mut child) = self.process.take() else { return };
        kill_tree(&mut child);
    }

    /// Whether the server process exists.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The postmaster's process id.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The server's log.
    pub fn log_file(&self) -> PathBuf {
        self.scratch.path().join("server.log")
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        let text =
            fs::read(self.log_file()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- log of PostgreSQL {} in {}\n{}\n--", self.major(), self.data.display(), self.log_tail());
        }
        if let Some(mut child) = self.process.take() {
            send(child.id(), Signal::QUIT);
            if try_poll(Duration::from_secs(10), || child.try_wait().ok().flatten()).is_none() {
                kill_tree(&mut child);
            }
        }
    }
}

/// Sends a signal; that the process is gone already is fine.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills a child of ours and all its descendants, and returns when none of them runs any more.
pub(crate) fn kill_tree(child: &mut Child) {
    let below = descendants(child.id());
    send(child.id(), Signal::KILL); // first, so that it starts no others
    for pid in &below {
        send(*pid, Signal::KILL);
    }
    let _ = child.wait();
    try_poll(SOON, || below.iter().all(|pid| has_ended(*pid)).then_some(()));
}

/// Whether nothing of a process runs any more. Its first thread may be a zombie while others still hold files and locks.
fn has_ended(pid: u32) -> bool {
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    process_state(pid).is_none_or(|(state, _)| state == 'Z' && threads() <= 1)
}

fn descendants(root: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<(u32, u32)> = pids
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid| process_state(pid).map(|(_, parent)| (pid, parent)))
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// State and parent of a process, from `/proc/<pid>/stat`.
fn process_state(pid: u32) -> Option<(char, u32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
