//! Which backup is chosen, where recovery stops, and what is refused: over repositories made without PostgreSQL.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use insta::assert_snapshot;
use synthetic::{Archive, Wal, time, timeline};
use walkeep_chunkstore::catalogue::TimedRecordKind;
use walkeep_chunkstore::storage::MemoryStorage;
use walkeep_proto::lsn::Lsn;
use walkeep_restore::failure::exit_and_hints;
use walkeep_restore::plan::{self, Request, RestorePlan, Stop, TimelineSetting};
use walkeep_restore::target::RecoveryTarget;

fn to(target: RecoveryTarget) -> Request {
    Request { target, exclusive: false, timeline: None, backup: None, promote: true }
}

fn at(second: i64) -> Request {
    to(RecoveryTarget::Time(time(second)))
}

fn try_plan(archive: &Archive, request: &Request) -> Result<RestorePlan, anyhow::Error> {
    let catalogue = archive.catalogue();
    plan::plan(&catalogue, &catalogue.archived_wal(&archive.repository).unwrap(), request)
}

fn plan(archive: &Archive, request: &Request) -> RestorePlan {
    try_plan(archive, request).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The exit code and everything that is printed.
fn refusal(archive: &Archive, request: &Request) -> String {
    let error = try_plan(archive, request).expect_err("this cannot be reached");
    let (exit, hints) = exit_and_hints(&error);
    format!("{}: {}", exit.code(), walkeep_chunkstore::console::render(error.as_ref(), &hints))
}

fn xid(record: Option<&walkeep_chunkstore::catalogue::TimedRecord>) -> Option<u32> {
    match record?.kind {
        TimedRecordKind::Commit { xid } | TimedRecordKind::Abort { xid } => Some(xid),
        _ => None,
    }
}

/// Backup `b1`, commits at 100, 110, …, 190, backup `b2`, commits at 200, …, 290, and a segment's end.
struct Usual {
    archive: Archive,
    wal: Wal,
    commits: Vec<Lsn>,
    bounds: [(Lsn, Lsn); 2],
}

fn usual() -> Usual {
    let archive = Archive::new(MemoryStorage::new());
    let mut wal = Wal::default();
    wal.fill(3000);
    wal.commit(10, 40);
    let first = wal.backup(50);
    let mut commits = Vec::new();
    for index in 0..10 {
        wal.fill(300_000);
        commits.push(wal.commit(100 + index, 100 + 10 * i64::from(index)));
    }
    let second = wal.backup(195);
    for index in 10..20 {
        wal.fill(300_000);
        commits.push(wal.commit(100 + index, 100 + 10 * i64::from(index)));
    }
    wal.switch();
    archive.push(&wal).backup("b1", 1, first).backup("b2", 1, second);
    Usual { archive, wal, commits, bounds: [first, second] }
}

#[test]
fn a_time_becomes_the_position_of_the_first_later_transaction() {
    let Usual { archive, commits, .. } = usual();
    for (second, exclusive, backup, excluded) in [
        (125, false, "b1", 3),
        (130, false, "b1", 4),
        (130, true, "b1", 3),
        (194, false, "b1", 10),
        (195, false, "b2", 10),
        (255, false, "b2", 16),
        (289, false, "b2", 19),
        (290, true, "b2", 19),
    ] {
        let plan = plan(&archive, &Request { exclusive, ..at(second) });
        assert_eq!(plan.backup.id.as_str(), backup, "{second}");
        assert_eq!(plan.stop, Stop::Before(commits[excluded]), "{second}");
        assert_eq!(xid(plan.first_excluded.as_ref()), Some(100 + excluded as u32), "{second}");
        assert_eq!(
            xid(plan.last_included.as_ref()),
            (excluded > 0 && plan.backup.id.as_str() == "b1" || excluded > 10).then_some(99 + excluded as u32),
            "{second}"
        );
        assert_eq!(plan.timeline_setting, TimelineSetting::Number(timeline(1)));
    }
}

#[test]
fn the_time_of_the_last_commit_is_the_last_that_can_be_reached() {
    let Usual { archive, commits, .. } = usual();
    let plan = plan(&archive, &at(290));
    assert_eq!(xid(plan.last_included.as_ref()), Some(119));
    assert!(matches!(plan.stop, Stop::After(lsn) if lsn > commits[19]), "behind the switch record: {:?}", plan.stop);
    assert_snapshot!(refusal(&archive, &at(291)), @r"
    8: error: unable to reach time 2026-11-21 10:04:51.000000 UTC: the archived WAL of timeline 1 ends at 0/C00000; its last transaction, 119, committed at 2026-11-21 10:04:50.000000 UTC
    hint: use `--target latest` to restore everything that is archived
    ");
}

#[test]
fn a_later_record_of_another_kind_proves_that_nothing_is_missing() {
    let Usual { archive, mut wal, .. } = usual();
    let point = wal.restore_point("proof", 400);
    wal.switch();
    archive.push(&wal);
    let plan = plan(&archive, &at(350));
    assert_eq!(plan.stop, Stop::Before(point));
    assert_eq!(xid(plan.last_included.as_ref()), Some(119));
    assert!(try_plan(&archive, &at(400)).is_err());
}

#[test]
fn a_time_before_the_first_backup_names_the_minimum() {
    let Usual { archive, .. } = usual();
    assert_snapshot!(refusal(&archive, &at(49)), @r"
    8: error: unable to reach time 2026-11-21 10:00:49.000000 UTC: the earliest that a backup on timeline 1 reaches is 2026-11-21 10:00:50.000000 UTC (LSN 0/5011F8)
    hint: run `walkeep-restore windows` to see what can be restored
    ");
    let by_name = Request { backup: Some("b2".to_owned()), ..at(150) };
    assert_snapshot!(refusal(&archive, &by_name), @r"
    8: error: unable to reach time 2026-11-21 10:02:30.000000 UTC: the earliest that a backup on timeline 1 reaches is 2026-11-21 10:03:15.000000 UTC (LSN 0/8DC8A0)
    hint: run `walkeep-restore windows` to see what can be restored
    ");
}

#[test]
fn positions_are_taken_as_postgresql_takes_them() {
    let Usual { archive, wal, commits, bounds } = usual();
    let lsn = |lsn, exclusive| Request { exclusive, ..to(RecoveryTarget::Lsn(lsn)) };
    let inclusive = plan(&archive, &lsn(commits[5], false));
    assert_eq!((inclusive.stop, xid(inclusive.last_included.as_ref())), (Stop::After(commits[5]), Some(105)));
    let exclusive = plan(&archive, &lsn(commits[5], true));
    assert_eq!((exclusive.stop, xid(exclusive.last_included.as_ref())), (Stop::Before(commits[5]), Some(104)));
    assert_eq!(plan(&archive, &lsn(bounds[1].1, false)).backup.id.as_str(), "b2");
    let before = Lsn::new(bounds[1].1.as_u64() - 8);
    assert_eq!(plan(&archive, &lsn(before, false)).backup.id.as_str(), "b1");
    assert!(matches!(plan(&archive, &lsn(wal.lsn(), false)).stop, Stop::After(_)), "the very end is no record's start");
    assert_snapshot!(refusal(&archive, &lsn(wal.lsn().saturating_add(1), false)), @r"
    8: error: unable to reach LSN 0/C00001: the archived WAL of timeline 1 ends at 0/C00000; its last transaction, 119, committed at 2026-11-21 10:04:50.000000 UTC
    hint: run `walkeep-restore windows` to see what can be restored
    ");
    assert!(
        refusal(&archive, &lsn(Lsn::new(8), false)).contains("the earliest that a backup on timeline 1 reaches is LSN")
    );
}

#[test]
fn transactions_and_restore_points_are_looked_up() {
    let Usual { archive, mut wal, commits, .. } = usual();
    for exclusive in [false, true] {
        let plan = plan(&archive, &Request { exclusive, ..to(RecoveryTarget::Transaction(112)) });
        let stop = if exclusive { Stop::Before(commits[12]) } else { Stop::After(commits[12]) };
        assert_eq!((plan.stop, plan.backup.id.as_str()), (stop, "b2"));
        assert_eq!(xid(plan.last_included.as_ref()), Some(if exclusive { 111 } else { 112 }));
    }
    assert_eq!(plan(&archive, &to(RecoveryTarget::Transaction(105))).backup.id.as_str(), "b1");
    let aborted = wal.abort(500, 300);
    let first = wal.restore_point("again", 310);
    let second = wal.restore_point("again", 320);
    wal.switch();
    archive.push(&wal);
    assert_eq!(plan(&archive, &to(RecoveryTarget::Transaction(500))).stop, Stop::After(aborted));
    let named = plan(&archive, &to(RecoveryTarget::Name("again".to_owned())));
    assert_eq!(named.stop, Stop::After(first));
    assert!(named.notes[0].contains(&format!("--target-lsn {second}")), "{:?}", named.notes);
    assert_snapshot!(refusal(&archive, &to(RecoveryTarget::Name("gone".to_owned()))), @r"
    8: error: unable to reach restore point 'gone': it is not in the WAL of timeline 1 behind any usable backup, which ends at 0/D00000; its last transaction, 119, committed at 2026-11-21 10:04:50.000000 UTC
    hint: run `walkeep-restore windows` to see what can be restored
    ");
    assert!(refusal(&archive, &to(RecoveryTarget::Transaction(10))).starts_with("8: "), "before every backup");
}

#[test]
fn latest_and_immediate() {
    let Usual { archive, wal, bounds, .. } = usual();
    let latest = plan(&archive, &to(RecoveryTarget::Latest));
    assert_eq!((latest.stop, latest.reaches, latest.backup.id.as_str()), (Stop::EndOfWal, wal.lsn(), "b2"));
    assert_eq!(xid(latest.last_included.as_ref()), Some(119));
    let paused = plan(&archive, &Request { promote: false, ..to(RecoveryTarget::Latest) });
    assert!(matches!(paused.stop, Stop::After(_)), "a server that shall wait needs a position");
    let immediate = plan(&archive, &to(RecoveryTarget::Immediate));
    assert_eq!((immediate.stop, immediate.reaches), (Stop::Consistent, bounds[1].1));
    assert_eq!(immediate.timeline_setting, TimelineSetting::Current);
    let older = Request { backup: Some("b1".to_owned()), ..to(RecoveryTarget::Immediate) };
    assert_eq!(plan(&archive, &older).reaches, bounds[0].1);
    assert!(refusal(&archive, &Request { backup: Some("b9".to_owned()), ..at(0) }).starts_with("6: "));
    assert!(refusal(&archive, &Request { timeline: Some(timeline(9)), ..at(0) }).starts_with("6: "));
}

/// A gap hides what is behind it, and is named.
#[test]
fn gaps_are_named() {
    let archive = Archive::new(MemoryStorage::new());
    let Usual { wal, commits, bounds, .. } = usual();
    archive.push_but(&wal, &[2, 5]).backup("b1", 1, bounds[0]).backup("b2", 1, bounds[1]);
    assert_eq!(plan(&archive, &at(105)).backup.id.as_str(), "b1");
    assert_snapshot!(refusal(&archive, &at(155)), @r"
    8: error: unable to reach time 2026-11-21 10:02:35.000000 UTC: the archived WAL of timeline 1 ends at 0/6FFFB8; its last transaction, 102, committed at 2026-11-21 10:02:00.000000 UTC
    hint: WAL segment 000000010000000000000007 is missing, WAL goes on with 000000010000000000000008
    hint: behind it the next backup reaches from 2026-11-21 10:03:15.000000 UTC (LSN 0/8DC8A0) on
    hint: run `walkeep-restore windows` to see what can be restored
    ");
    assert_snapshot!(refusal(&archive, &to(RecoveryTarget::Latest)), @r"
    8: error: unable to reach latest: WAL segment 00000001000000000000000A is missing, WAL goes on with 00000001000000000000000B
    hint: accept the end of the unbroken WAL with --target-lsn 0/9FFFB8
    hint: or archive the missing segment if a server still has it in pg_wal; a new backup closes the gap for later
    ");
    let accepted = Request { ..to(RecoveryTarget::Lsn(plan_end(&archive))) };
    assert!(plan(&archive, &accepted).reaches < commits[18]);
}

fn plan_end(archive: &Archive) -> Lsn {
    let catalogue = archive.catalogue();
    let windows = catalogue.windows(&catalogue.archived_wal(&archive.repository).unwrap()).unwrap();
    windows.branches[0].windows.last().unwrap().to_lsn
}

#[test]
fn a_backup_without_its_own_wal_is_passed_over() {
    let Usual { wal, bounds, .. } = usual();
    let archive = Archive::new(MemoryStorage::new());
    archive.push_but(&wal, &[3]).backup("b1", 1, bounds[0]).backup("b2", 1, bounds[1]);
    assert_snapshot!(refusal(&archive, &at(250)), @r"
    8: error: unable to reach time 2026-11-21 10:04:10.000000 UTC: the archived WAL of timeline 1 ends at 0/7FFF70; its last transaction, 105, committed at 2026-11-21 10:02:30.000000 UTC
    hint: backup b2 cannot be used: WAL segment 000000010000000000000008 is not in the archive
    hint: WAL segment 000000010000000000000008 is missing, WAL goes on with 000000010000000000000009
    hint: run `walkeep-restore windows` to see what can be restored
    ");
}

/// A failover at 260: timeline 2 goes on; timeline 1 has the old primary's lost commits.
fn failover(lost: bool) -> (Archive, Wal, Wal) {
    let archive = Archive::new(MemoryStorage::new());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    wal.commit(100, 100);
    wal.fill(1_500_000);
    wal.commit(101, 110);
    wal.fill(200_000);
    let (mut two, history) = wal.branch(2);
    two.checkpoint(265);
    two.commit(200, 270);
    two.fill(2_500_000);
    two.commit(201, 300);
    two.switch();
    if lost {
        wal.commit(102, 280);
        wal.fill(1_200_000);
        wal.commit(103, 290);
        wal.switch();
    }
    archive.push(&wal).push(&two).push_history(2, &history).backup("b1", 1, bounds);
    (archive, wal, two)
}

#[test]
fn recovery_follows_a_failover() {
    let (archive, _, two) = failover(false);
    let latest = plan(&archive, &to(RecoveryTarget::Latest));
    assert_eq!((latest.timeline, latest.reaches), (timeline(2), two.lsn()));
    assert_eq!(latest.path.len(), 2);
    assert_eq!(latest.timeline_setting, TimelineSetting::Number(timeline(2)));
    assert_eq!(latest.wal.last_segment, "00000002000000000000000A");
    let between = plan(&archive, &at(285));
    assert_eq!((between.timeline, xid(between.last_included.as_ref())), (timeline(2), Some(200)));
    assert_eq!(xid(plan(&archive, &at(105)).last_included.as_ref()), Some(100), "both timelines agree there");
}

#[test]
fn a_time_on_two_timelines_is_the_users_to_choose() {
    let (archive, ..) = failover(true);
    assert_eq!(xid(plan(&archive, &at(105)).last_included.as_ref()), Some(100));
    assert_snapshot!(refusal(&archive, &at(285)), @r"
    2: error: time 2026-11-21 10:04:45.000000 UTC lies on several timelines: choose one with --timeline
    hint: --timeline 1: backup b1, stops at 0/8C3D48 of 2026-11-21 10:04:50.000000 UTC
    hint: --timeline 2: backup b1, stops at 0/A01460 of 2026-11-21 10:05:00.000000 UTC
    ");
    for (number, last) in [(1, 102), (2, 200)] {
        let plan = plan(&archive, &Request { timeline: Some(timeline(number)), ..at(285) });
        assert_eq!(xid(plan.last_included.as_ref()), Some(last));
    }
    let latest = plan(&archive, &to(RecoveryTarget::Latest));
    assert_eq!(latest.timeline, timeline(2), "the newest timeline of the backup's descendants");
}

/// PostgreSQL would read the old timeline's segment where the new one's is missing.
#[test]
fn a_branch_is_not_left_unnoticed() {
    let archive = Archive::new(MemoryStorage::new());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    wal.commit(100, 100);
    wal.fill(200_000);
    let (_, history) = wal.branch(2);
    wal.commit(101, 200);
    wal.switch();
    archive.push(&wal).push_history(2, &history).backup("b1", 1, bounds);
    assert_snapshot!(refusal(&archive, &to(RecoveryTarget::Latest)), @r"
    8: error: unable to reach latest: WAL segment 000000020000000000000006 is not in the archive, but 000000010000000000000006 is
    hint: PostgreSQL would read the other timeline's segment instead and leave the timeline asked for
    hint: archive 000000020000000000000006, or restore along the other timeline with --timeline 1
    hint: or accept the end of the unbroken WAL with --target-lsn 0/600000
    ");
}

#[test]
fn a_timeline_without_its_history_file_is_followed_as_current() {
    let archive = Archive::new(MemoryStorage::new());
    let (_, _, mut two) = failover(false);
    let bounds = two.backup(310);
    two.commit(300, 320);
    two.switch();
    archive.push(&two).backup("b2", 2, bounds);
    let plan = plan(&archive, &to(RecoveryTarget::Latest));
    assert_eq!(plan.timeline_setting, TimelineSetting::Current);
    assert_eq!(xid(plan.last_included.as_ref()), Some(300));
}

/// Commits carry the clock of their backend: order in the WAL and order in time differ.
#[test]
fn clocks_that_go_back_are_reported() {
    let archive = Archive::new(MemoryStorage::new());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    wal.commit(100, 100);
    wal.commit(101, 130);
    wal.commit(102, 110);
    wal.commit(103, 140);
    wal.switch();
    archive.push(&wal).backup("b1", 1, bounds);
    let plan = plan(&archive, &at(120));
    assert_eq!((xid(plan.last_included.as_ref()), xid(plan.first_excluded.as_ref())), (Some(100), Some(101)));
    assert_eq!(plan.left_behind.iter().map(|record| xid(Some(record))).collect::<Vec<_>>(), [Some(102)]);
}

/// Records that begin in one segment and end in the next are found, long ones too.
#[test]
fn records_across_segments_count() {
    for length in [100, 20_000, 1_500_000] {
        let archive = Archive::new(MemoryStorage::new());
        let mut wal = Wal::default();
        let bounds = wal.backup(50);
        wal.commit(100, 100);
        wal.fill_segment_but(60);
        let mut main = time(200).as_micros().to_le_bytes().to_vec();
        main.resize(length, 0);
        let crossing = wal.record(1, 0, 101, &main);
        assert_ne!(crossing.as_u64() >> 20, (wal.lsn().as_u64() - 1) >> 20, "it crosses");
        wal.commit(102, 300);
        wal.switch();
        archive.push(&wal).backup("b1", 1, bounds);
        assert_eq!(plan(&archive, &at(150)).stop, Stop::Before(crossing), "{length}");
        assert_eq!(xid(plan(&archive, &at(250)).last_included.as_ref()), Some(101), "{length}");
        assert_eq!(plan(&archive, &to(RecoveryTarget::Transaction(101))).stop, Stop::After(crossing), "{length}");
    }
}

#[test]
fn an_upgraded_cluster_ends_the_old_one() {
    let archive = Archive::new(MemoryStorage::new());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    wal.commit(100, 100);
    wal.switch();
    let mut upgraded = wal.clone();
    upgraded.become_another_cluster(78);
    upgraded.commit(900, 900);
    upgraded.switch();
    upgraded.commit(901, 910);
    upgraded.switch();
    archive.push(&wal).push(&upgraded).backup("b1", 1, bounds);
    let plan = plan(&archive, &to(RecoveryTarget::Latest));
    assert_eq!((plan.reaches, xid(plan.last_included.as_ref())), (wal.lsn(), Some(100)));
}

#[test]
fn plans_are_printed_whole() {
    let Usual { archive, .. } = usual();
    let plan = plan(&archive, &at(255));
    let text = plan::human(&plan).lines().filter(|line| !line.contains("last included")).collect::<Vec<_>>().join("\n");
    assert!(text.contains("before the record at "), "{text}");
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["first_excluded"]["xid"], 116);
    assert_eq!(json["backup"], "b2");
}

#[test]
fn windows_promise_what_plans_do() {
    let (archive, ..) = failover(true);
    let catalogue = archive.catalogue();
    let windows = catalogue.windows(&catalogue.archived_wal(&archive.repository).unwrap()).unwrap();
    assert_eq!(windows.branches.len(), 2);
    for branch in &windows.branches {
        for window in &branch.windows {
            for time in [window.from, window.to] {
                let target = to(RecoveryTarget::Time(time));
                plan(&archive, &Request { timeline: Some(branch.timeline), ..target });
            }
            let later = walkeep_proto::wal::PgTimestamp::new(window.to.as_micros() + 1);
            let target = Request { timeline: Some(branch.timeline), ..to(RecoveryTarget::Time(later)) };
            assert!(refusal(&archive, &target).starts_with("8: "));
        }
    }
}

#[test]
fn an_empty_cluster_says_so() {
    let archive = Archive::new(MemoryStorage::new());
    assert_snapshot!(refusal(&archive, &to(RecoveryTarget::Latest)), @"6: error: cluster 'main' has no backup");
}
