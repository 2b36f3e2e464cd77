//! The control socket: commands ask the agent. One line of JSON in, one JSON object out.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::push::PushAnswer;
use super::status::Status;

/// How long either side waits for the other to speak.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest question: a path is its longest part.
const MAXIMUM_LINE: u64 = 64 << 10;
/// Longest answer.
const MAXIMUM_ANSWER: u64 = 16 << 20;
/// Questions answered at once.
const CONNECTIONS: usize = 16;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Question {
    /// How things are.
    Status,
    /// Store this WAL file.
    ArchivePush {
        /// Where it is.
        path: PathBuf,
    },
}

/// An answer, or why there is none.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Answer<T> {
    Is(T),
    Error(String),
}

/// Who knows the answers.
pub(super) trait Answers: Sync {
    /// How things are.
    fn status(&self) -> Status;
    /// Stores a WAL file; durable when it succeeds.
    fn push(&self, path: &Path) -> Result<PushAnswer>;
}

/// The agent's side.
pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    stopped: AtomicBool,
    open: AtomicUsize,
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
        Ok(Self { listener, path, stopped: AtomicBool::new(false), open: AtomicUsize::new(0) })
    }

    /// Answers until [`Server::stop`]. A question that takes long holds up no other.
    pub(super) fn run(&self, answers: &dyn Answers) {
        std::thread::scope(|scope| {
            for connection in self.listener.incoming() {
                if self.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(connection) = connection else { continue };
                if self.open.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
                    // Closed unanswered: whoever asked to store a file stores it alone.
                    self.open.fetch_sub(1, Ordering::SeqCst);
                    continue;
                }
                scope.spawn(move || {
                    if let Err(error) = answer(&connection, answers) {
                        tracing::debug!("control socket: {error:#}");
                    }
                    self.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        // Whoever comes later finds no agent.
        let _ = std::fs::remove_file(&self.path);
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
    }
}

fn answer(connection: &UnixStream, answers: &dyn Answers) -> Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(connection.take(MAXIMUM_LINE)).read_line(&mut line)?;
    let told = |error: anyhow::Error| format!("{error:#}");
    let answer = match serde_json::from_str(&line) {
        Ok(Question::Status) => serde_json::to_vec(&Answer::Is(answers.status()))?,
        Ok(Question::ArchivePush { path }) => serde_json::to_vec(&match answers.push(&path) {
            Ok(answer) => Answer::Is(answer),
            Err(error) => Answer::Error(told(error)),
        })?,
        Err(error) => serde_json::to_vec(&Answer::<()>::Error(format!("'{}' is no question: {error}", line.trim())))?,
    };
    let mut connection = connection;
    connection.write_all(&answer)?;
    Ok(())
}

/// The agent refused or failed: it says why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AgentError(pub String);

/// Asks the agent of this state directory; `None` when none runs. An answer may take as long as `patience`.
pub(super) fn ask<T: DeserializeOwned>(directory: &Path, question: &Question, patience: Duration) -> Result<Option<T>> {
    let path = super::socket(directory);
    let asking = || format!("unable to ask the agent at '{}'", path.display());
    let mut connection = match UnixStream::connect(&path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => return Ok(None),
        other => other.with_context(asking)?,
    };
    connection.set_read_timeout(Some(patience)).with_context(asking)?;
    connection.set_write_timeout(Some(PATIENCE)).with_context(asking)?;
    let mut line = serde_json::to_vec(question).with_context(asking)?;
    line.push(b'\n');
    connection.write_all(&line).with_context(asking)?;
    let mut answer = Vec::new();
    connection.take(MAXIMUM_ANSWER).read_to_end(&mut answer).with_context(asking)?;
    match serde_json::from_slice(&answer).with_context(asking)? {
        Answer::Is(answer) => Ok(Some(answer)),
        Answer::Error(error) => Err(AgentError(error).into()),
    }
}

/// Asks the agent of this state directory for its status; `None` when none runs.
pub fn ask_status(directory: &Path) -> Result<Option<Status>> {
    ask(directory, &Question::Status, PATIENCE)
}

/// Whether the agent of this state directory streams WAL now.
pub fn is_streaming(directory: &Path) -> bool {
    let status = ask_status(directory).ok().flatten();
    status.and_then(|status| status.stream).is_some_and(|stream| stream.streaming)
}

/// Has the agent of this state directory store a WAL file; `None` when none runs. Success means that it is durable.
pub fn ask_push(directory: &Path, path: &Path, patience: Duration) -> Result<Option<PushAnswer>> {
    ask(directory, &Question::ArchivePush { path: path.to_owned() }, patience)
}
