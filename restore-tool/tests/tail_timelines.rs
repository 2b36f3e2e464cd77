//! Tails where timelines part: which of them recovery finds, and which lead astray.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use insta::assert_snapshot;
use synthetic::recovery::{along, at, check_latest, fetch, latest, plan, refusal, replayed, windows, xid};
use synthetic::{Archive, Wal, timeline};
use walkeep_chunkstore::storage::MemoryStorage;
use walkeep_proto::lsn::Lsn;
use walkeep_restore::fetch_wal::ABSENT;
use walkeep_restore::plan::TimelineSetting;

/// A promotion in an open segment: timeline 2 begins in it, at the end of `one`; `lost` is what the old primary went on with.
struct Failover {
    one: Wal,
    two: Wal,
    lost: Wal,
    history: Vec<u8>,
    bounds: (Lsn, Lsn),
}

fn failover() -> Failover {
    let mut one = Wal::default();
    let bounds = one.backup(50);
    one.commit(100, 100);
    one.fill(20_000);
    let (mut two, history) = one.branch(2);
    two.checkpoint(265);
    two.commit(200, 270);
    let mut lost = one.clone();
    lost.commit(102, 280);
    Failover { one, two, lost, history, bounds }
}

impl Failover {
    fn archive(&self) -> Archive {
        let archive = Archive::new(MemoryStorage::new());
        archive.push(&self.one).push_history(2, &self.history).backup("b1", 1, self.bounds);
        archive
    }
}

fn branches(archive: &Archive) -> Vec<u32> {
    windows(archive).branches.iter().map(|branch| branch.timeline.get()).collect()
}

#[test]
fn the_newest_timeline_s_tail_comes_first() {
    let failover = failover();
    let archive = failover.archive();
    archive.push_tail(&failover.one, failover.one.lsn()).push_tail(&failover.two, failover.two.lsn());
    let found = check_latest(&archive, "both");
    assert_eq!((found.timeline, found.reaches), (timeline(2), failover.two.lsn()));
    assert_eq!(found.wal.last_segment, "000000020000000000000006");
    assert_eq!((xid(found.last_included.as_ref()), branches(&archive)), (Some(200), vec![2]));
    // Each under its own name.
    for (wal, name) in [(&failover.one, "000000010000000000000006"), (&failover.two, "000000020000000000000006")] {
        let (_, bytes) = wal.up_to(wal.lsn());
        assert!(fetch(&archive, name).unwrap().starts_with(bytes), "{name}");
    }
    assert_eq!(fetch(&archive, "000000020000000000000007"), Err(ABSENT));
}

#[test]
fn what_the_old_primary_wrote_beyond_the_switch_is_a_branch() {
    let failover = failover();
    let archive = failover.archive();
    archive.push_tail(&failover.lost, failover.lost.lsn()).push_tail(&failover.two, failover.two.lsn());
    assert_eq!(branches(&archive), [1, 2]);
    assert_eq!(check_latest(&archive, "newest").timeline, timeline(2));
    assert!(refusal(&archive, &at(268)).starts_with("2: "), "{}", refusal(&archive, &at(268)));
    let old = plan(&archive, &along(1, latest()));
    assert_eq!((old.reaches, xid(old.last_included.as_ref())), (failover.lost.lsn(), Some(102)));
    assert_eq!(replayed(&archive, &old), old.reaches);
    // The same with the whole segment of the old primary and no more than a tail of the new one.
    let mut lost = failover.lost.clone();
    lost.switch();
    archive.push(&lost);
    let found = check_latest(&archive, "whole");
    assert_eq!((found.timeline, found.reaches, branches(&archive)), (timeline(2), failover.two.lsn(), vec![1, 2]));
}

#[test]
fn the_old_timeline_s_tail_serves_until_the_new_one_has_the_segment() {
    let failover = failover();
    let archive = failover.archive();
    archive.push_tail(&failover.one, failover.one.lsn());
    let found = check_latest(&archive, "only the old one");
    assert_eq!((found.timeline, found.reaches), (timeline(1), failover.one.lsn()));
    assert_eq!((found.timeline_setting, found.path.len()), (TimelineSetting::Number(timeline(1)), 1));
    assert!(found.notes[0].contains("timeline 2"), "{:?}", found.notes);
    let mut two = failover.two;
    two.switch();
    archive.push(&two);
    let found = check_latest(&archive, "the new one");
    assert_eq!((found.timeline, found.reaches, found.wal.tail_end_lsn), (timeline(2), two.lsn(), None));
    assert_eq!(branches(&archive), [2]);
}

/// PostgreSQL would replay what the new timeline does not have.
#[test]
fn a_tail_beyond_the_switch_leads_astray() {
    let failover = failover();
    let archive = failover.archive();
    archive.push_tail(&failover.lost, failover.lost.lsn());
    assert_snapshot!(refusal(&archive, &latest()), @r"
    8: error: unable to reach latest: WAL segment 000000020000000000000006 is not in the archive, but a tail of 000000010000000000000006 is
    hint: PostgreSQL would read the other timeline's segment instead and leave the timeline asked for
    hint: archive 000000020000000000000006, or restore along the other timeline with --timeline 1
    hint: or accept the end of the unbroken WAL with --target-lsn 0/600000
    ");
    assert_eq!(plan(&archive, &along(1, latest())).reaches, failover.lost.lsn());
}
