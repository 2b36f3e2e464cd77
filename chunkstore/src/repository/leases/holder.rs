//! Who holds a lease: enough to tell on its own host whether that process still runs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The process that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// Kernel's boot id: a process id means nothing after a restart.
    pub boot_id: String,
    /// Process id.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: process ids are used again.
    pub started_ticks: u64,
    /// System user, for people; unknown for leases of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Holder {
    /// This process.
    pub fn this_process() -> Self {
        let pid = std::process::id();
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let started_ticks = started_ticks(pid).unwrap_or(0);
        Self { host, boot_id: boot_id(), pid, started_ticks, user: Some(user()) }
    }

    /// Whether the process is certainly gone: only its own host can tell.
    pub(super) fn is_dead(&self) -> bool {
        let here = Self::this_process();
        if self.host != here.host {
            return false;
        }
        self.boot_id != here.boot_id || started_ticks(self.pid) != Some(self.started_ticks)
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, host, .. } = self;
        match &self.user {
            Some(user) => write!(f, "process {pid} of {user} on {host}"),
            None => write!(f, "process {pid} on {host}"),
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)), counted behind the command name's closing parenthesis.
fn started_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The name that `/etc/passwd` gives this process's user, else its number.
fn user() -> String {
    let id = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    name.unwrap_or(id)
}
