//! The control socket: commands ask the agent. One line in, one JSON object out.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::status::Status;

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest question.
const MAXIMUM_LINE: u64 = 4096;
/// Longest answer.
const MAXIMUM_ANSWER: u64 = 16 << 20;
const STATUS: &str = "status";

/// The agent's side.
pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    stopped: AtomicBool,
}

impl Server {
    /// Listens in the state directory. The caller holds its lock: a socket that is there belongs to nobody.
    pub(super) fn bind(directory: &Path) -> Result<Self> {
        let path = super::socket(directory);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("unable to remove '{}'", path.display()));
            }
            _ => {}
        }
        let listen = || format!("unable to listen at '{}'", path.display());
        let listener = UnixListener::bind(&path).with_context(listen)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o660)).with_context(listen)?;
        Ok(Self { listener, path, stopped: AtomicBool::new(false) })
    }

    /// Answers, one question at a time, until [`Server::stop`].
    pub(super) fn run(&self, status: &(dyn Fn() -> Status + Sync)) {
        for connection in self.listener.incoming() {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            if let Err(error) = connection.map_err(Into::into).and_then(|connection| answer(&connection, status)) {
                tracing::debug!("control socket: {error:#}");
            }
        }
        // Whoever comes later finds no agent.
        let _ = std::fs::remove_file(&self.path);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
    }
}

fn answer(connection: &UnixStream, status: &(dyn Fn() -> Status + Sync)) -> Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(connection.take(MAXIMUM_LINE)).read_line(&mut line)?;
    let answer = match line.trim() {
        STATUS => serde_json::to_vec(&status())?,
        other => serde_json::to_vec(&serde_json::json!({ "error": format!("'{other}' is no question") }))?,
    };
    let mut connection = connection;
    connection.write_all(&answer)?;
    Ok(())
}

/// Asks the agent of this state directory for its status; `None` when none runs.
pub fn ask(directory: &Path) -> Result<Option<Status>> {
    let path = super::socket(directory);
    let asking = || format!("unable to ask the agent at '{}'", path.display());
    let mut connection = match UnixStream::connect(&path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        other => other.with_context(asking)?,
    };
    connection.set_read_timeout(Some(PATIENCE)).with_context(asking)?;
    connection.write_all(format!("{STATUS}\n").as_bytes()).with_context(asking)?;
    let mut answer = Vec::new();
    connection.take(MAXIMUM_ANSWER).read_to_end(&mut answer).with_context(asking)?;
    serde_json::from_slice(&answer).map(Some).with_context(asking)
}
