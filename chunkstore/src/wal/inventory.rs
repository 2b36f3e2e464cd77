//! What the archive holds, from names alone.

use std::collections::BTreeMap;

use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::WalArchive;
use crate::error::Result;
use crate::repository::layout::WalObjectName;
use crate::storage::ObjectKey;

/// A segment in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSegment {
    /// Its object.
    pub key: ObjectKey,
    /// Bytes the object takes.
    pub stored_bytes: u64,
    /// Further objects with other content under the same name: the segment cannot be used until somebody decides.
    pub rivals: Vec<ObjectKey>,
}

/// The archive's complete segments and history files.
#[derive(Clone, Debug, Default)]
pub struct WalInventory {
    /// Segments by timeline and number.
    pub segments: BTreeMap<WalSegment, StoredSegment>,
    /// Timelines with a history file.
    pub histories: Vec<TimelineId>,
    /// Objects that record a refused second content.
    pub conflicts: Vec<ObjectKey>,
    /// Objects of none of the known forms.
    pub unknown: Vec<ObjectKey>,
}

impl WalArchive {
    /// Lists the archive.
    pub fn inventory(&self, size: WalSegmentSize) -> Result<WalInventory> {
        let mut inventory = WalInventory::default();
        for info in self.repository().storage().list(&self.layout().wal())? {
            match WalObjectName::parse(info.key.name()) {
                Some(WalObjectName::File(WalFileName::Segment(name), _)) => match name.segment(size) {
                    Some(segment) => inventory.add(segment, info.key, info.size),
                    None => inventory.unknown.push(info.key),
                },
                Some(WalObjectName::File(WalFileName::History(timeline), _)) => inventory.histories.push(timeline),
                Some(WalObjectName::File(..)) => {}
                Some(WalObjectName::Conflict(_)) => inventory.conflicts.push(info.key),
                None => inventory.unknown.push(info.key),
            }
        }
        inventory.histories.sort_unstable();
        inventory.histories.dedup();
        Ok(inventory)
    }
}

impl WalInventory {
    fn add(&mut self, segment: WalSegment, key: ObjectKey, stored_bytes: u64) {
        match self.segments.get_mut(&segment) {
            Some(first) => first.rivals.push(key),
            None => {
                self.segments.insert(segment, StoredSegment { key, stored_bytes, rivals: Vec::new() });
            }
        }
    }

    /// Whether the archive holds the segment, undisputed.
    pub fn holds(&self, segment: WalSegment) -> bool {
        self.segments.get(&segment).is_some_and(|stored| stored.rivals.is_empty())
    }

    /// The first segment from `first` to `last` along a history that is missing.
    ///
    /// A segment in which a timeline was left is needed from the timeline that goes on, which holds its beginning too.
    pub fn first_missing(
        &self,
        history: &TimelineHistory,
        first: SegmentNumber,
        last: SegmentNumber,
        size: WalSegmentSize,
    ) -> Option<WalSegment> {
        let mut number = first;
        while number <= last {
            let segment = segment_on(history, number, size);
            if !self.holds(segment) {
                return Some(segment);
            }
            number = number.next();
        }
        None
    }

    /// The last segment of the unbroken run along a history that begins at `first`.
    pub fn contiguous_end(
        &self,
        history: &TimelineHistory,
        first: SegmentNumber,
        size: WalSegmentSize,
    ) -> Option<SegmentNumber> {
        let mut last = None;
        let mut number = first;
        while self.holds(segment_on(history, number, size)) {
            last = Some(number);
            number = number.next();
        }
        last
    }
}

/// The segment of this number that recovery reads along a history: of the newest timeline that has begun by its end.
pub fn segment_on(history: &TimelineHistory, number: SegmentNumber, size: WalSegmentSize) -> WalSegment {
    let last_byte = walkeep_proto::lsn::Lsn::new(number.end(size).as_u64().saturating_sub(1));
    WalSegment { timeline: history.timeline_at(last_byte), number }
}
