//! `archive-push` by the agent: at once for what the stream has stored already, and ahead of the archiver, which asks for
//! one file at a time.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use anyhow::Result;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::wal::{Pushed, WalArchive};
use walkeep_proto::segment::{SegmentFileName, WalFileName};

use crate::archive::{self, FileMark, SegmentLedger};
use crate::context::Context;
use crate::repository::Ask;

/// Files stored ahead of the archiver at once.
const AHEAD: usize = 2;
/// Files that are looked ahead for.
const LOOK_AHEAD: usize = 16;

/// What `archive-push` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAnswer {
    /// Whether the repository did not have it when the archiver asked.
    pub new: bool,
    /// Bytes that it takes there, if it is new.
    pub stored_bytes: u64,
    /// Whether all was done before the archiver asked: stored, and compared with what the stream had stored.
    pub ahead: bool,
}

#[derive(Default)]
struct State {
    /// Files that wait for being stored ahead.
    queue: VecDeque<PathBuf>,
    /// A file that was asked for: those that wait beside it are asked for next.
    asked: Option<PathBuf>,
    stopped: bool,
}

/// Stores what the archiver hands over.
pub(super) struct Pusher<'a> {
    context: &'a Context,
    archive: WalArchive,
    ledger: &'a SegmentLedger,
    state: Mutex<State>,
    changed: Condvar,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(context: &'a Context, ledger: &'a SegmentLedger) -> Self {
        Self { context, archive: context.archive(), ledger, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Stores one file; durable when it succeeds.
    pub(super) fn push(&self, path: &Path) -> Result<PushAnswer> {
        self.look_ahead(path);
        let file = FileMark::of(path)?;
        match segment_at(path) {
            Some(segment) if self.ledger.has_compared(segment, file) => {
                Ok(PushAnswer { new: false, stored_bytes: 0, ahead: true })
            }
            _ => self.store(path, file),
        }
    }

    fn store(&self, path: &Path, file: FileMark) -> Result<PushAnswer> {
        if self.context.storages.waits_for_mirror() {
            self.context.join_mirrors(Ask::WhatIsUnknown)?;
        }
        let identity = self.context.identity()?;
        let level = self.context.config.compression.level;
        let pushed = archive::push_known(&self.archive, &identity, path, level, self.ledger, Some(file))?;
        Ok(match pushed {
            Pushed::Stored(stored_bytes) => PushAnswer { new: true, stored_bytes, ahead: false },
            Pushed::AlreadyThere => PushAnswer { new: false, stored_bytes: 0, ahead: false },
        })
    }

    /// Has the files looked for that the archiver will ask for after this one.
    fn look_ahead(&self, asked: &Path) {
        self.state.lock().asked = Some(asked.to_owned());
        self.changed.notify_one();
    }

    /// Works ahead until [`Pusher::stop`].
    pub(super) fn run(&self) {
        std::thread::scope(|scope| {
            for _ in 0..AHEAD {
                scope.spawn(|| {
                    while let Some(path) = self.next() {
                        self.store_ahead(&path);
                    }
                });
            }
            self.compare_streamed();
        });
    }

    /// What to store ahead; `None` when the end has come.
    fn next(&self) -> Option<PathBuf> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(asked) = state.asked.take() {
                drop(state);
                let waiting = self.waiting_beside(&asked);
                state = self.state.lock();
                state.queue = waiting;
                self.changed.notify_one();
            }
            if let Some(path) = state.queue.pop_front() {
                return Some(path);
            }
            if state.asked.is_none() {
                self.changed.wait(&mut state);
            }
        }
    }

    /// The oldest segments that wait for the archiver, as `archive_status` beside them names them, and that nobody has
    /// looked at.
    fn waiting_beside(&self, asked: &Path) -> VecDeque<PathBuf> {
        let Some(directory) = asked.parent() else { return VecDeque::new() };
        let Ok(entries) = std::fs::read_dir(directory.join("archive_status")) else { return VecDeque::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut ready: Vec<SegmentFileName> = names
            .filter_map(|name| segment_named(name.strip_suffix(".ready")?))
            .filter(|segment| segment_at(asked) != Some(*segment) && self.ledger.is_unseen(*segment))
            .collect();
        ready.sort_unstable();
        ready.into_iter().take(LOOK_AHEAD).map(|segment| directory.join(segment.to_string())).collect()
    }

    /// Compares what the stream has stored with the server's own files, if they are on this host.
    fn compare_streamed(&self) {
        let Some(pgdata) = &self.context.config.cluster.pgdata else { return };
        while let Some(segment) = self.ledger.next_streamed() {
            if let Some(path) = archive::ready_file(&pgdata.join("pg_wal"), segment) {
                self.store_ahead(&path);
            }
        }
    }

    fn store_ahead(&self, path: &Path) {
        if let Err(error) = FileMark::of(path).and_then(|file| self.store(path, file)) {
            // The archiver will ask for it, and is told why it fails then.
            tracing::debug!("'{}' is not stored ahead: {error:#}", path.display());
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
        self.ledger.stop();
    }
}

fn segment_at(path: &Path) -> Option<SegmentFileName> {
    segment_named(path.file_name()?.to_str()?)
}

fn segment_named(name: &str) -> Option<SegmentFileName> {
    match name.parse() {
        Ok(WalFileName::Segment(segment)) => Some(segment),
        _ => None,
    }
}
