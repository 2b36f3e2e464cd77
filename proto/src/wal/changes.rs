//! Which blocks a stretch of WAL changes.
//!
//! A superset of the truth is safe, a missing block is silent corruption: every block reference counts, and whatever
//! changes relation files in another way either sets a limit, marks a whole database, or makes the map unusable.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::identity::{BlockNumber, ForkNumber, Oid, RelFileLocator};
use crate::lsn::Lsn;

/// The changes of one fork of one relation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkChanges {
    /// The shortest length, in blocks, that the fork was cut to; 0 where its file was created or removed. Blocks from
    /// here on are changed even if they are not listed.
    pub limit: Option<BlockNumber>,
    /// The changed blocks, ascending, each once.
    pub blocks: Vec<BlockNumber>,
}

/// The changes of a stretch of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockChanges {
    /// By relation and fork.
    pub forks: BTreeMap<(RelFileLocator, ForkNumber), ForkChanges>,
    /// Databases of which every file must be taken as changed, as (database, tablespace).
    pub whole_databases: BTreeSet<(Oid, Oid)>,
    /// The first record that changes relation files in an unknown way; with it the map proves nothing.
    pub unknown: Option<Lsn>,
}

impl ForkChanges {
    /// Adds what happened after: a cut forgets the blocks behind it, later changes bring them back.
    fn append(&mut self, later: &Self) {
        if let Some(limit) = later.limit {
            self.cut(limit);
        }
        if self.blocks.last() < later.blocks.first() {
            self.blocks.extend_from_slice(&later.blocks);
        } else {
            self.blocks.extend_from_slice(&later.blocks);
            self.blocks.sort_unstable();
            self.blocks.dedup();
        }
    }

    fn cut(&mut self, limit: BlockNumber) {
        self.blocks.truncate(self.blocks.partition_point(|block| *block < limit));
        self.limit = Some(self.limit.map_or(limit, |earlier| earlier.min(limit)));
    }
}

impl BlockChanges {
    /// Adds the changes of the stretch that follows.
    pub fn append(&mut self, later: &Self) {
        for (fork, changes) in &later.forks {
            self.forks.entry(*fork).or_default().append(changes);
        }
        self.whole_databases.extend(&later.whole_databases);
        self.unknown = self.unknown.or(later.unknown);
    }
}

/// Gathers [`BlockChanges`] record by record.
#[derive(Debug, Default)]
pub(super) struct ChangeCollector {
    forks: Vec<Collected>,
    index: HashMap<(RelFileLocator, ForkNumber), usize>,
    last: usize,
    whole_databases: BTreeSet<(Oid, Oid)>,
    unknown: Option<Lsn>,
}

/// A fork's changes before they are in order: `tail` is unsorted and short compared with `changes.blocks`.
#[derive(Debug)]
struct Collected {
    key: (RelFileLocator, ForkNumber),
    changes: ForkChanges,
    tail: Vec<BlockNumber>,
}

impl Collected {
    fn settle(&mut self) {
        if self.tail.is_empty() {
            return;
        }
        self.changes.blocks.append(&mut self.tail);
        // Runs in order are found by the stable sort, which makes this close to a merge.
        self.changes.blocks.sort();
        self.changes.blocks.dedup();
    }
}

impl ChangeCollector {
    fn fork(&mut self, key: (RelFileLocator, ForkNumber)) -> Option<&mut Collected> {
        // Records come in runs on the same relation.
        if self.forks.get(self.last).is_none_or(|last| last.key != key) {
            self.last = *self.index.entry(key).or_insert(self.forks.len());
            if self.last == self.forks.len() {
                self.forks.push(Collected { key, changes: ForkChanges::default(), tail: Vec::new() });
            }
        }
        self.forks.get_mut(self.last)
    }

    /// A record changes or shows this block.
    pub(super) fn mark(&mut self, locator: RelFileLocator, fork: ForkNumber, block: BlockNumber) {
        if let Some(fork) = self.fork((locator, fork))
            && fork.tail.last() != Some(&block)
        {
            fork.tail.push(block);
            if fork.tail.len() >= fork.changes.blocks.len().max(1024) {
                fork.settle();
            }
        }
    }

    /// The fork was cut to `limit` blocks, or created or removed (0).
    pub(super) fn limit(&mut self, locator: RelFileLocator, fork: ForkNumber, limit: BlockNumber) {
        if let Some(fork) = self.fork((locator, fork)) {
            fork.settle();
            fork.changes.cut(limit);
        }
    }

    /// Every file of the database in this tablespace counts as changed.
    pub(super) fn whole_database(&mut self, database: Oid, tablespace: Oid) {
        self.whole_databases.insert((database, tablespace));
    }

    /// The record at `at` changes relation files in an unknown way.
    pub(super) fn unknown(&mut self, at: Lsn) {
        self.unknown.get_or_insert(at);
    }

    pub(super) fn finish(self) -> BlockChanges {
        let forks = self.forks.into_iter().map(|mut fork| {
            fork.settle();
            fork.changes.blocks.shrink_to_fit();
            (fork.key, fork.changes)
        });
        BlockChanges { forks: forks.collect(), whole_databases: self.whole_databases, unknown: self.unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOCATOR: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, relation: 16384 };

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Mark(BlockNumber),
        Limit(BlockNumber),
    }

    fn collect(events: &[Event]) -> BlockChanges {
        let mut collector = ChangeCollector::default();
        for event in events {
            match *event {
                Event::Mark(block) => collector.mark(LOCATOR, ForkNumber::Main, block),
                Event::Limit(limit) => collector.limit(LOCATOR, ForkNumber::Main, limit),
            }
        }
        collector.finish()
    }

    fn main_fork(changes: &BlockChanges) -> ForkChanges {
        changes.forks.get(&(LOCATOR, ForkNumber::Main)).cloned().unwrap_or_default()
    }

    #[test]
    fn a_cut_forgets_what_is_behind_it_and_later_changes_count_again() {
        let changes = collect(&[Event::Mark(9), Event::Mark(2), Event::Limit(5), Event::Mark(7), Event::Limit(8)]);
        assert_eq!(main_fork(&changes), ForkChanges { limit: Some(5), blocks: vec![2, 7] });
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![8 => (0u32..50).prop_map(Event::Mark), 1 => (0u32..50).prop_map(Event::Limit)];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        #[test]
        fn gathering_follows_the_order_of_events(events in events()) {
            let (mut marks, mut limit) = (BTreeSet::new(), None);
            for event in &events {
                match *event {
                    Event::Mark(block) => {
                        marks.insert(block);
                    }
                    Event::Limit(at) => {
                        marks.retain(|block| *block < at);
                        limit = Some(limit.map_or(at, |earlier: u32| earlier.min(at)));
                    }
                }
            }
            let expected = ForkChanges { limit, blocks: marks.into_iter().collect() };
            prop_assert_eq!(main_fork(&collect(&events)), expected);
        }
        #[test]
        fn appending_stretches_is_gathering_them_together(events in events(), cut in 0usize..80) {
            let (early, late) = events.split_at(cut.min(events.len()));
            let mut changes = collect(early);
            changes.append(&collect(late));
            prop_assert_eq!(changes, collect(&events));
        }
    }
}
