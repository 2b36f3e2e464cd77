//! Files that are being written: which are open, and when each is complete.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::Sender;
use parking_lot::Mutex;
use walkeep_chunkstore::{Error, Result};

/// Files kept open at once: half of the usual limit of a process.
const MAXIMUM_OPEN: usize = 512;

/// Bytes of one file after which they are sent on their way to disk, so that its end need not wait for all of them.
const EARLY_SYNC: usize = 64 << 20;

/// A file whose content is to be made durable: when it is complete, and now and then before.
pub(super) struct Complete {
    path: PathBuf,
    file: Option<Arc<File>>,
}

impl Complete {
    /// Makes the file's content durable.
    pub(super) fn sync(self) -> Result<()> {
        let Self { path, file } = self;
        let file = match file {
            Some(file) => file,
            None => open(&path)?,
        };
        file.sync_all().map_err(|e| Error::storage("fsync", path.display(), e))
    }
}

struct Slot {
    path: PathBuf,
    file: Option<Arc<File>>,
    /// Pieces that were asked for and are not written.
    pieces: usize,
    /// Whether all pieces were asked for.
    planned: bool,
    /// Bytes written since they were last sent to disk.
    dirty: usize,
}

#[derive(Default)]
struct Slots {
    files: HashMap<u32, Slot>,
    /// Open files, the longest open first. Files that are complete may still be named.
    open: VecDeque<u32>,
}

/// The files in the making. Shared by threads.
pub(super) struct Handles {
    slots: Mutex<Slots>,
    complete: Mutex<Option<Sender<Complete>>>,
}

impl Handles {
    /// An empty table that sends complete files to `complete`.
    pub(super) fn new(complete: Sender<Complete>) -> Self {
        Self { slots: Mutex::default(), complete: Mutex::new(Some(complete)) }
    }

    /// Lets the receivers of complete files come to their end.
    pub(super) fn close(&self) {
        self.complete.lock().take();
    }

    /// Takes in a file that was just created.
    pub(super) fn add(&self, number: u32, path: PathBuf, file: File) {
        let mut slots = self.slots.lock();
        slots.files.insert(number, Slot { path, file: Some(Arc::new(file)), pieces: 0, planned: false, dirty: 0 });
        slots.opened(number);
    }

    /// Counts pieces that will come.
    pub(super) fn expect(&self, number: u32, pieces: usize) {
        if let Some(slot) = self.slots.lock().files.get_mut(&number) {
            slot.pieces += pieces;
        }
    }

    /// Says that no more pieces than those expected will come.
    pub(super) fn planned(&self, number: u32) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.files.get_mut(&number) {
            slot.planned = true;
        }
        self.settle(&mut slots, number);
    }

    /// Writes one piece.
    pub(super) fn write(&self, number: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        let (file, path) = self.handle(number)?;
        file.write_all_at(bytes, offset).map_err(|e| Error::storage("write", path.display(), e))?;
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.files.get_mut(&number) {
            slot.pieces = slot.pieces.saturating_sub(1);
            slot.dirty += bytes.len();
            if slot.dirty >= EARLY_SYNC && (slot.pieces > 0 || !slot.planned) {
                slot.dirty = 0;
                self.send(Complete { path, file: Some(file) });
            }
        }
        self.settle(&mut slots, number);
        Ok(())
    }

    fn handle(&self, number: u32) -> Result<(Arc<File>, PathBuf)> {
        let mut slots = self.slots.lock();
        let unknown = || Error::Invalid(format!("file {number} gets more than was asked for"));
        let slot = slots.files.get_mut(&number).ok_or_else(unknown)?;
        let path = slot.path.clone();
        if let Some(file) = &slot.file {
            return Ok((Arc::clone(file), path));
        }
        let file = open(&path)?;
        slot.file = Some(Arc::clone(&file));
        slots.opened(number);
        Ok((file, path))
    }

    fn settle(&self, slots: &mut Slots, number: u32) {
        let done = slots.files.get(&number).is_some_and(|slot| slot.planned && slot.pieces == 0);
        if !done {
            return;
        }
        if let Some(slot) = slots.files.remove(&number) {
            self.send(Complete { path: slot.path, file: slot.file });
        }
    }

    fn send(&self, file: Complete) {
        if let Some(complete) = &*self.complete.lock() {
            // The receivers live until all files were sent.
            let _ = complete.send(file);
        }
    }
}

impl Slots {
    fn opened(&mut self, number: u32) {
        self.open.push_back(number);
        while self.open.len() > MAXIMUM_OPEN
            && let Some(oldest) = self.open.pop_front()
        {
            if let Some(slot) = self.files.get_mut(&oldest) {
                slot.file = None;
            }
        }
    }
}

fn open(path: &Path) -> Result<Arc<File>> {
    let opened = File::options().write(true).open(path);
    opened.map(Arc::new).map_err(|e| Error::Storage {
        operation: "open",
        object: path.display().to_string(),
        source: e,
    })
}
