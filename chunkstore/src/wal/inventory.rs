//! What the archive holds, from names alone.

use std::collections::BTreeMap;

use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::WalArchive;
use super::tail::{StoredTail, tail_length};
use crate::error::Result;
use crate::repository::layout::WalObjectName;
use crate::storage::{ObjectInfo, ObjectKey};

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

/// What the archive holds of a segment.
#[derive(Clone, Copy, Debug)]
pub enum Held<'a> {
    /// All of it.
    Whole(&'a StoredSegment),
    /// Its beginning.
    Tail(&'a StoredTail),
}

impl Held<'_> {
    /// Bytes that its object takes.
    pub const fn stored_bytes(self) -> u64 {
        match self {
            Self::Whole(stored) => stored.stored_bytes,
            Self::Tail(stored) => stored.stored_bytes,
        }
    }
}

/// The archive's segments and history files.
#[derive(Clone, Debug, Default)]
pub struct WalInventory {
    /// Complete segments by timeline and number.
    pub segments: BTreeMap<WalSegment, StoredSegment>,
    /// The longest tail of each segment of which there is nothing but tails.
    pub tails: BTreeMap<WalSegment, StoredTail>,
    /// Tails that a longer one or their whole segment supersedes: nothing reads them.
    pub superseded: Vec<ObjectKey>,
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
                Some(WalObjectName::Tail { .. }) => inventory.add_tail(&info, size),
                None => inventory.unknown.push(info.key),
            }
        }
        inventory.supersede_tails();
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

    fn add_tail(&mut self, info: &ObjectInfo, size: WalSegmentSize) {
        let placed = StoredTail::of(info).and_then(|(name, tail)| Some((name.segment(size)?, tail)));
        let inside = |(segment, tail): &(WalSegment, StoredTail)| tail_length(*segment, size, tail.end).is_some();
        let Some((segment, tail)) = placed.filter(inside) else {
            self.unknown.push(info.key.clone());
            return;
        };
        let tail = match self.tails.remove(&segment) {
            Some(other) => other.longer(tail, &mut self.superseded),
            None => tail,
        };
        self.tails.insert(segment, tail);
    }

    fn supersede_tails(&mut self) {
        let whole = self.tails.extract_if(.., |segment, _| self.segments.contains_key(segment));
        self.superseded.extend(whole.flat_map(|(_, tail)| tail.into_keys()));
    }

    /// Segments of which more than one content is known: two servers, or two states of one, wrote the same WAL.
    pub fn disputed(&self, size: WalSegmentSize) -> impl Iterator<Item = WalSegment> + '_ {
        let stored = self.segments.iter().filter(|(_, stored)| !stored.rivals.is_empty()).map(|(segment, _)| *segment);
        let refused = self.conflicts.iter().filter_map(move |key| match WalObjectName::parse(key.name()) {
            Some(WalObjectName::Conflict(WalFileName::Segment(name))) => name.segment(size),
            _ => None,
        });
        stored.chain(refused)
    }

    /// Whether the archive holds the whole segment, undisputed.
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

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn segment(timeline: u32, number: u64) -> WalSegment {
        WalSegment { timeline: TimelineId::new(timeline).unwrap(), number: SegmentNumber::new(number) }
    }

    fn holding(segments: &[(u32, u64)]) -> WalInventory {
        let mut inventory = WalInventory::default();
        for (timeline, number) in segments {
            inventory.add(segment(*timeline, *number), ObjectKey::new(format!("{timeline}-{number}")).unwrap(), 1);
        }
        inventory
    }

    #[test]
    fn a_hole_at_a_timeline_switch_is_one() {
        let size = WalSegmentSize::new(SIZE as u32).unwrap();
        // What is missing from segment 3 to 6, where timeline 2 goes on from `switch`.
        let missing = |switch: u64, segments: &[(u32, u64)]| {
            let history = format!("1\t0/{switch:X}\tx\n");
            let history = TimelineHistory::parse(segment(2, 0).timeline, history.as_bytes()).unwrap();
            let (first, last) = (SegmentNumber::new(3), SegmentNumber::new(6));
            let held = holding(segments);
            let missing = held.first_missing(&history, first, last, size);
            let end = held.contiguous_end(&history, first, size);
            assert_eq!(end.map(SegmentNumber::next), missing.map_or(Some(last.next()), |missing| Some(missing.number)));
            missing
        };
        let inside = 5 * SIZE + 500;
        assert_eq!(missing(inside, &[(1, 3), (1, 4), (2, 5), (2, 6)]), None);
        assert_eq!(missing(inside, &[(1, 3), (1, 4), (1, 5), (2, 6)]), Some(segment(2, 5)));
        assert_eq!(missing(inside, &[(1, 3), (2, 4), (2, 5), (2, 6)]), Some(segment(1, 4)));
        let between = 5 * SIZE;
        assert_eq!(missing(between, &[(1, 3), (1, 4), (2, 5), (2, 6)]), None);
        assert_eq!(missing(between, &[(1, 3), (2, 4), (2, 5), (2, 6)]), Some(segment(1, 4)));
        assert_eq!(missing(between, &[(1, 3), (1, 4), (1, 5), (2, 6)]), Some(segment(2, 5)));
    }
}
