//! `archive-push` by the agent: at once for what the stream has stored already, and ahead of the archiver, which asks for
//! one file at a time.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::wal::{Pushed, WalArchive};
use walkeep_proto::segment::WalFileName;

use crate::archive::{self, StoredFiles};
use crate::context::Context;

/// Files stored ahead of the archiver at once.
const AHEAD: usize = 2;
/// Files that are looked ahead for.
const LOOK_AHEAD: usize = 16;
/// How long a file is waited for that is being stored ahead.
const PATIENCE: Duration = Duration::from_secs(60);

/// What `archive-push` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAnswer {
    /// Whether the repository did not have it.
    pub new: bool,
    /// Bytes that it takes there, if it is new.
    pub stored_bytes: u64,
    /// Whether it had been stored before the archiver asked: by the stream, or ahead.
    pub ahead: bool,
}

#[derive(Clone, Debug)]
enum Progress {
    Waiting(PathBuf),
    UnderWay,
    Done(FileMark, PushAnswer),
}

/// What tells whether a file is still the one that was stored.
type FileMark = (u64, u64, u64, i64, i64);

fn mark(path: &Path) -> Result<FileMark> {
    let metadata = std::fs::metadata(path).with_context(|| format!("unable to look at '{}'", path.display()))?;
    Ok((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Progress>,
    queue: VecDeque<String>,
    stopped: bool,
}

/// Stores what the archiver hands over.
pub(super) struct Pusher<'a> {
    context: &'a Context,
    archive: WalArchive,
    stored: &'a StoredFiles,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(context: &'a Context, stored: &'a StoredFiles) -> Self {
        Self { context, archive: context.archive(), stored, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Stores one file; durable when it succeeds.
    pub(super) fn push(&self, path: &Path) -> Result<PushAnswer> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let known = self.claim(path, &name)?;
        if let Some(answer) = known {
            self.look_ahead(path, &name);
            return Ok(answer);
        }
        self.look_ahead(path, &name);
        let stored = self.store(path);
        self.state.lock().files.remove(&name);
        self.changed.notify_all();
        stored
    }

    /// What is known of a file; `None`: the caller stores it. Waits for one that is being stored ahead.
    fn claim(&self, path: &Path, name: &str) -> Result<Option<PushAnswer>> {
        let deadline = Instant::now() + PATIENCE;
        let mark = mark(path)?;
        let mut state = self.state.lock();
        loop {
            match state.files.get(name) {
                Some(Progress::Done(of, answer)) if *of == mark => {
                    let answer = PushAnswer { ahead: true, ..*answer };
                    state.files.remove(name);
                    return Ok(Some(answer));
                }
                Some(Progress::UnderWay) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        bail!("'{name}' is being stored for {} s", PATIENCE.as_secs());
                    }
                }
                Some(Progress::Waiting(_) | Progress::Done(..)) | None => {
                    state.files.insert(name.to_owned(), Progress::UnderWay);
                    state.queue.retain(|waiting| waiting != name);
                    return Ok(None);
                }
            }
        }
    }

    fn store(&self, path: &Path) -> Result<PushAnswer> {
        if self.context.storages.waits_for_mirror() {
            self.context.join_mirrors(crate::repository::Ask::WhatIsUnknown)?;
        }
        let identity = self.context.identity()?;
        let level = self.context.config.compression.level;
        let pushed = archive::push_known(&self.archive, &identity, path, level, self.stored)?;
        Ok(match pushed {
            Pushed::Stored(stored_bytes) => PushAnswer { new: true, stored_bytes, ahead: false },
            Pushed::AlreadyThere => PushAnswer { new: false, stored_bytes: 0, ahead: false },
        })
    }

    /// Queues the files that the archiver will ask for next: `archive_status` beside the file names them.
    fn look_ahead(&self, path: &Path, name: &str) {
        let Some(directory) = path.parent() else { return };
        let Ok(entries) = std::fs::read_dir(directory.join("archive_status")) else { return };
        let mut ready: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|entry| entry.strip_suffix(".ready").map(str::to_owned))
            .filter(|entry| entry != name && matches!(entry.parse(), Ok(WalFileName::Segment(_))))
            .collect();
        ready.sort();
        let mut state = self.state.lock();
        // What nobody asked for any more was archived without us.
        state.files.retain(|known, progress| !matches!(progress, Progress::Done(..)) || ready.contains(known));
        for next in ready.into_iter().take(LOOK_AHEAD) {
            if !state.files.contains_key(&next) {
                state.files.insert(next.clone(), Progress::Waiting(directory.join(&next)));
                state.queue.push_back(next);
            }
        }
        self.changed.notify_all();
    }

    /// Stores ahead until [`Pusher::stop`].
    pub(super) fn run(&self) {
        std::thread::scope(|scope| {
            for _ in 0..AHEAD {
                scope.spawn(|| while self.store_next() {});
            }
        });
    }

    /// False when the end has come.
    fn store_next(&self) -> bool {
        let (name, path) = {
            let mut state = self.state.lock();
            loop {
                if state.stopped {
                    return false;
                }
                match state.queue.pop_front() {
                    Some(name) => {
                        let Some(Progress::Waiting(path)) = state.files.get(&name).cloned() else { continue };
                        state.files.insert(name.clone(), Progress::UnderWay);
                        break (name, path);
                    }
                    None => self.changed.wait(&mut state),
                }
            }
        };
        let stored = mark(&path).and_then(|mark| Ok((mark, self.store(&path)?)));
        let mut state = self.state.lock();
        match stored {
            Ok((mark, answer)) => _ = state.files.insert(name, Progress::Done(mark, answer)),
            Err(error) => {
                // The archiver will ask for it, and is told why it fails then.
                tracing::debug!("'{name}' is not stored ahead: {error:#}");
                state.files.remove(&name);
            }
        }
        drop(state);
        self.changed.notify_all();
        true
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// The path as the agent can use it: the archiver's are relative to the data directory.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("unable to find '{}'", path.display()))
}
