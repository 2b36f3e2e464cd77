//! What the stream remembers across restarts: losses that were found. It can be deleted: then they are found again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use walkeep_chunkstore::storage::files;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};

use super::status::{Gap, Shared, SideBranch};

/// Most entries of each kind that are kept: the newest.
const KEPT: usize = 100;

/// Losses, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// WAL that nobody has any more.
    pub gaps: Vec<Gap>,
    /// WAL that the server went on without.
    pub side_branches: Vec<SideBranch>,
}

impl Record {
    fn path(directory: &Path) -> PathBuf {
        directory.join("losses.json")
    }

    /// Reads the record. One that cannot be read is reported and taken for empty.
    pub fn load(directory: &Path) -> Self {
        let path = Self::path(directory);
        let read = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::default(),
            Err(error) => Err(error.to_string()),
            Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
        };
        read.unwrap_or_else(|error| {
            tracing::warn!("unable to use '{}', losses are looked for again: {error}", path.display());
            Self::default()
        })
    }

    /// Durable on return.
    pub fn save(&self, directory: &Path) -> Result<()> {
        let path = Self::path(directory);
        files::replace_file(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("unable to write '{}'", path.display()))
    }

    /// Adds a gap unless it is known.
    pub fn add_gap(&mut self, gap: Gap) -> bool {
        let is_known =
            self.gaps.iter().any(|known| (known.timeline, known.from, known.to) == (gap.timeline, gap.from, gap.to));
        if !is_known {
            self.gaps.push(gap);
            let excess = self.gaps.len().saturating_sub(KEPT);
            self.gaps.drain(..excess);
        }
        !is_known
    }

    /// Adds a side branch unless it is known.
    pub fn add_side_branch(&mut self, branch: SideBranch) -> bool {
        let is_known = self.side_branches.iter().any(|known| {
            (known.timeline, known.left_at) == (branch.timeline, branch.left_at)
                && known.held_up_to >= branch.held_up_to
        });
        if !is_known {
            self.side_branches.push(branch);
            let excess = self.side_branches.len().saturating_sub(KEPT);
            self.side_branches.drain(..excess);
        }
        !is_known
    }

    /// The segments that gaps touch.
    pub fn lost(&self, size: WalSegmentSize) -> BTreeSet<WalSegment> {
        let of_gap = |gap: &Gap| {
            let numbers = size.segment_at(gap.from).get()..=size.segment_before(gap.to).get();
            let timeline = gap.timeline;
            numbers.map(move |number| WalSegment { timeline, number: SegmentNumber::new(number) })
        };
        self.gaps.iter().flat_map(of_gap).collect()
    }
}

/// The record, on disk and in the status: any thread of the stream may find a loss.
pub(super) struct Losses {
    directory: PathBuf,
    shared: Arc<Shared>,
    record: Mutex<Record>,
}

impl Losses {
    /// What is known from earlier lives of the agent.
    pub(super) fn load(directory: PathBuf, shared: Arc<Shared>) -> Self {
        let record = Record::load(&directory);
        let losses = Self { directory, shared, record: Mutex::default() };
        losses.show(&record);
        *losses.record.lock() = record;
        losses
    }

    /// [`Record::add_gap`].
    pub(super) fn add_gap(&self, gap: Gap) -> bool {
        let mut record = self.record.lock();
        let is_new = record.add_gap(gap);
        // One that is known may not have been saved: the disk was full.
        self.keep(&record);
        is_new
    }

    /// [`Record::add_side_branch`].
    pub(super) fn add_side_branch(&self, branch: SideBranch) -> bool {
        let mut record = self.record.lock();
        let is_new = record.add_side_branch(branch);
        if is_new {
            self.keep(&record);
        }
        is_new
    }

    /// [`Record::lost`].
    pub(super) fn segments(&self, size: WalSegmentSize) -> BTreeSet<WalSegment> {
        self.record.lock().lost(size)
    }

    fn keep(&self, record: &Record) {
        self.show(record);
        if let Err(error) = record.save(&self.directory) {
            tracing::warn!("{error:#}");
        }
    }

    fn show(&self, record: &Record) {
        let (gaps, side_branches) = (record.gaps.clone(), record.side_branches.clone());
        self.shared.update(|status| (status.gaps, status.side_branches) = (gaps, side_branches));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walkeep_proto::lsn::Lsn;
    use walkeep_proto::timeline::TimelineId;

    fn gap(from: u64, to: u64) -> Gap {
        let found = jiff::Timestamp::UNIX_EPOCH;
        let (from, to) = (Lsn::new(from << 20), Lsn::new(to << 20));
        Gap { timeline: TimelineId::FIRST, from, to, found, reason: "removed".to_owned() }
    }

    #[test]
    fn losses_are_remembered_once() {
        let directory = tempfile::tempdir().unwrap();
        let mut record = Record::load(directory.path());
        assert!(record.add_gap(gap(3, 5)));
        assert!(!record.add_gap(gap(3, 5)));
        record.save(directory.path()).unwrap();
        let read = Record::load(directory.path());
        assert_eq!(read, record);
        let lost = read.lost(WalSegmentSize::new(1 << 20).unwrap());
        assert_eq!(lost.iter().map(|segment| segment.number.get()).collect::<Vec<_>>(), [3, 4]);
        for number in 10..10 + 2 * KEPT as u64 {
            record.add_gap(gap(number, number + 1));
        }
        assert_eq!(record.gaps.len(), KEPT);
        assert_eq!(record.gaps.last(), Some(&gap(9 + 2 * KEPT as u64, 10 + 2 * KEPT as u64)), "the newest are kept");
        std::fs::write(directory.path().join("losses.json"), "{").unwrap();
        assert_eq!(Record::load(directory.path()), Record::default());
    }
}
