//! What this process knows of segments: which it is storing, which it has stored, and which files it has compared since.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::{Condvar, Mutex};
use walkeep_chunkstore::id::ChunkId;
use walkeep_proto::segment::SegmentFileName;

/// Most segments that are remembered: those that were stored last.
const REMEMBERED: usize = 256;
/// Most segments of the stream that wait for being compared; what comes then is compared when it is asked for.
const WAITING: usize = 256;
/// How long a segment is waited for that another thread is storing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What tells whether a file is still the one that was read: PostgreSQL never writes to a segment that is to be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMark {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl FileMark {
    /// The file at this path as it is now. Taken before the file is read.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).with_context(|| format!("unable to look at '{}'", path.display()))?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), length: metadata.len(), modified })
    }
}

/// A segment that is durable in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its content.
    pub content: ChunkId,
    /// The server's file that was found to have this content.
    pub compared: Option<FileMark>,
}

#[derive(Debug, Default)]
struct State {
    stored: BTreeMap<SegmentFileName, Stored>,
    /// Those in `stored`, in the order of storing: not that of names, for a backlog that is stored behind what the stream
    /// has stored would be forgotten at once.
    order: VecDeque<SegmentFileName>,
    /// With the server's file that is being stored, if it is one.
    under_way: BTreeMap<SegmentFileName, Option<FileMark>>,
    /// Segments that the stream has stored, for whoever compares them with the server's files.
    streamed: VecDeque<SegmentFileName>,
    stopped: bool,
}

impl State {
    /// Who claims a segment finds it when it is stored, so that none is stored that is remembered.
    fn remember(&mut self, segment: SegmentFileName, stored: Stored) {
        if self.stored.insert(segment, stored).is_none() {
            self.order.push_back(segment);
        }
        if self.order.len() > REMEMBERED
            && let Some(first) = self.order.pop_front()
        {
            self.stored.remove(&first);
        }
    }
}

/// Shared by the stream and by `archive-push` through the agent: each segment is stored once, by whoever comes first, and
/// pushing it again needs no look at the repository.
#[derive(Debug, Default)]
pub struct SegmentLedger {
    state: Mutex<State>,
    changed: Condvar,
}

/// Who comes to store a segment finds it stored, or has to store it.
pub(super) enum Claimed<'a> {
    Stored(Stored),
    Mine(Claim<'a>),
}

/// The right to store a segment, for one thread at a time. Given back when dropped.
pub(super) struct Claim<'a> {
    ledger: &'a SegmentLedger,
    segment: SegmentFileName,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.ledger.state.lock().under_way.remove(&self.segment);
        self.ledger.changed.notify_all();
    }
}

impl Claim<'_> {
    /// The segment is durable, and has this content.
    pub(super) fn stored(self, content: ChunkId) {
        let mut state = self.ledger.state.lock();
        let compared = state.under_way.get(&self.segment).copied().flatten();
        state.remember(self.segment, Stored { content, compared });
    }
}

impl SegmentLedger {
    /// Whether the segment is stored, or is being stored now, from another file than this one of the server: then its
    /// content has to be known for a comparison.
    pub(super) fn needs_content(&self, segment: SegmentFileName, file: Option<FileMark>) -> bool {
        let state = self.state.lock();
        let known = state.stored.get(&segment).map(|stored| stored.compared);
        known.or_else(|| state.under_way.get(&segment).copied()).is_some_and(|known| known.is_none() || known != file)
    }

    /// Waits while another thread stores the segment, and has the caller store it, from this file of the server if it is
    /// one, if it is not stored then.
    pub(super) fn claim(&self, segment: SegmentFileName, file: Option<FileMark>) -> Result<Claimed<'_>> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        loop {
            if let Some(stored) = state.stored.get(&segment) {
                return Ok(Claimed::Stored(*stored));
            }
            if let Entry::Vacant(free) = state.under_way.entry(segment) {
                free.insert(file);
                return Ok(Claimed::Mine(Claim { ledger: self, segment }));
            }
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                bail!("segment {segment} is being stored for {} s", PATIENCE.as_secs());
            }
        }
    }

    /// Whether the segment is not being stored now, and no file of the server was found to be it.
    pub fn is_unseen(&self, segment: SegmentFileName) -> bool {
        let state = self.state.lock();
        let is_compared = state.stored.get(&segment).is_some_and(|stored| stored.compared.is_some());
        !is_compared && !state.under_way.contains_key(&segment)
    }

    /// Whether this very file was found to be what is stored.
    pub fn has_compared(&self, segment: SegmentFileName, file: FileMark) -> bool {
        self.state.lock().stored.get(&segment).is_some_and(|stored| stored.compared == Some(file))
    }

    /// The file with this mark has the content that is stored.
    pub(super) fn note_compared(&self, segment: SegmentFileName, file: FileMark) {
        if let Some(stored) = self.state.lock().stored.get_mut(&segment) {
            stored.compared = Some(file);
        }
    }

    /// The stream has stored a segment: the server's own file can be compared before anybody asks.
    pub fn streamed(&self, segment: SegmentFileName) {
        let mut state = self.state.lock();
        if state.streamed.len() < WAITING {
            state.streamed.push_back(segment);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the next one that the stream has stored; `None` after [`SegmentLedger::stop`].
    pub fn next_streamed(&self) -> Option<SegmentFileName> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(segment) = state.streamed.pop_front() {
                return Some(segment);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Ends [`SegmentLedger::next_streamed`].
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }
}

/// The file below the server's `pg_wal`, if the server has handed it to its archiver.
pub fn ready_file(wal_directory: &Path, segment: SegmentFileName) -> Option<PathBuf> {
    let name = segment.to_string();
    let is_ready = wal_directory.join("archive_status").join(format!("{name}.ready")).exists();
    is_ready.then(|| wal_directory.join(name))
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use walkeep_chunkstore::id::RepositoryKeys;

    use super::*;

    fn segment(number: u32) -> SegmentFileName {
        format!("0000000100000000{number:08X}").parse().unwrap()
    }

    fn content(of: &[u8]) -> ChunkId {
        RepositoryKeys::derive(&[1; 32]).chunk_id(of)
    }

    fn mine(ledger: &SegmentLedger, number: u32) -> Claim<'_> {
        match ledger.claim(segment(number), None).unwrap() {
            Claimed::Mine(claim) => claim,
            Claimed::Stored(stored) => unreachable!("{stored:?}"),
        }
    }

    #[test]
    fn who_comes_second_waits_and_finds_it_stored() {
        let ledger = SegmentLedger::default();
        let claim = mine(&ledger, 1);
        assert!(ledger.needs_content(segment(1), None) && !ledger.needs_content(segment(2), None));
        let both = Barrier::new(2);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                both.wait();
                matches!(ledger.claim(segment(1), None).unwrap(), Claimed::Stored(stored) if stored.content == content(b"a"))
            });
            both.wait();
            claim.stored(content(b"a"));
            assert!(second.join().unwrap());
        });
    }

    #[test]
    fn who_fails_lets_the_next_one_try() {
        let ledger = SegmentLedger::default();
        let claim = mine(&ledger, 1);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| matches!(ledger.claim(segment(1), None).unwrap(), Claimed::Mine(_)));
            drop(claim);
            assert!(second.join().unwrap());
        });
        assert!(!ledger.needs_content(segment(1), None));
    }

    #[test]
    fn only_the_very_file_that_was_compared_counts() {
        let ledger = SegmentLedger::default();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "before").unwrap();
        let before = FileMark::of(&file).unwrap();
        ledger.note_compared(segment(1), before);
        assert!(!ledger.has_compared(segment(1), before), "nothing is stored");
        mine(&ledger, 1).stored(content(b"a"));
        assert!(ledger.is_unseen(segment(1)) && ledger.needs_content(segment(1), Some(before)));
        assert!(!ledger.has_compared(segment(1), before));
        ledger.note_compared(segment(1), before);
        assert!(!ledger.is_unseen(segment(1)) && !ledger.needs_content(segment(1), Some(before)));
        assert!(ledger.has_compared(segment(1), before));
        std::fs::write(&file, "later and longer").unwrap();
        let later = FileMark::of(&file).unwrap();
        assert!(!ledger.has_compared(segment(1), later) && ledger.needs_content(segment(1), Some(later)));
    }

    #[test]
    fn a_file_that_is_stored_needs_no_comparison() {
        let ledger = SegmentLedger::default();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mark = FileMark::of(file.path()).unwrap();
        let Claimed::Mine(claim) = ledger.claim(segment(1), Some(mark)).unwrap() else {
            unreachable!("nobody else is there")
        };
        assert!(!ledger.needs_content(segment(1), Some(mark)) && ledger.needs_content(segment(1), None));
        claim.stored(content(b"a"));
        assert!(ledger.has_compared(segment(1), mark));
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let ledger = SegmentLedger::default();
        for number in 0..=u32::try_from(REMEMBERED).unwrap() {
            mine(&ledger, number).stored(content(b"a"));
        }
        assert!(!ledger.needs_content(segment(0), None) && ledger.needs_content(segment(1), None));
    }

    #[test]
    fn a_backlog_is_remembered_behind_newer_segments() {
        let ledger = SegmentLedger::default();
        let newer = u32::try_from(REMEMBERED).unwrap();
        for number in (newer..2 * newer).chain(0..2) {
            mine(&ledger, number).stored(content(b"a"));
        }
        assert!(ledger.needs_content(segment(0), None) && ledger.needs_content(segment(1), None));
        assert!(!ledger.needs_content(segment(newer), None) && !ledger.needs_content(segment(newer + 1), None));
    }

    #[test]
    fn what_is_streamed_comes_in_order_until_the_end() {
        let ledger = SegmentLedger::default();
        ledger.streamed(segment(2));
        ledger.streamed(segment(3));
        assert_eq!(ledger.next_streamed(), Some(segment(2)));
        ledger.stop();
        assert_eq!(ledger.next_streamed(), None);
    }

    #[test]
    fn only_what_the_archiver_is_to_have_is_ready() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("archive_status")).unwrap();
        assert_eq!(ready_file(directory.path(), segment(1)), None);
        let name = segment(1).to_string();
        std::fs::write(directory.path().join("archive_status").join(format!("{name}.ready")), "").unwrap();
        assert_eq!(ready_file(directory.path(), segment(1)), Some(directory.path().join(name)));
    }
}
