//! The segment that was still being written: plans reach into its tail, and `fetch-wal` delivers what was planned with.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use insta::assert_snapshot;
use synthetic::recovery::{at, check_latest, fetch, latest, plan, refusal, to, windows, xid};
use synthetic::remote::{Call, Remote};
use synthetic::{Archive, SEGMENT, Wal, size, time};
use walkeep_chunkstore::console::{Progress, Show};
use walkeep_chunkstore::storage::{MemoryStorage, ObjectKey, Storage};
use walkeep_chunkstore::verify::{Sample, VerifyOptions, VerifyReport, verify};
use walkeep_proto::lsn::Lsn;
use walkeep_restore::fetch_wal::CANNOT_TELL;
use walkeep_restore::plan::{Request, Stop, human};
use walkeep_restore::target::RecoveryTarget;

const PAGE: u64 = 8192;

/// Damages every tail that the storage holds.
fn damage_tails(storage: &dyn Storage) {
    for info in storage.list("clusters/").unwrap().into_iter().filter(|info| info.key.as_str().contains(".tail-")) {
        let mut bytes = storage.get(&info.key, 1 << 20).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        storage.overwrite(&info.key, &bytes).unwrap();
    }
}

fn verified(archive: &Archive) -> VerifyReport {
    let options = VerifyOptions { sample: Sample::ALL, backup: None, jobs: 1 };
    let progress = Progress::start("verify", 0, Show::Nothing);
    verify(&archive.repository, &archive.layout, &options, &progress).unwrap()
}

/// Backup `b1` in segment 5, a commit at 100 in 6, and in the open segment 7 commits at 110 and 120, apart by some pages, and
/// a restore point at 130.
struct Open {
    storage: MemoryStorage,
    archive: Archive,
    wal: Wal,
    commits: [Lsn; 3],
    point: Lsn,
}

fn open() -> Open {
    let storage = MemoryStorage::new();
    let archive = Archive::new(storage.clone());
    let mut wal = Wal::default();
    let bounds = wal.backup(50);
    let first = wal.commit(100, 100);
    wal.switch();
    let second = wal.commit(101, 110);
    wal.fill(30_000);
    let third = wal.commit(102, 120);
    let point = wal.restore_point("here", 130);
    archive.push(&wal).backup("b1", 1, bounds);
    Open { storage, archive, wal, commits: [first, second, third], point }
}

const SEVEN: &str = "000000010000000000000007";

#[test]
fn every_target_in_a_tail_can_be_reached() {
    let Open { archive, wal, commits, point, .. } = open();
    assert_eq!(check_latest(&archive, "without").wal.tail_end_lsn, None);
    archive.push_tail(&wal, wal.lsn());
    let found = check_latest(&archive, "with");
    assert_eq!((found.stop, found.reaches, xid(found.last_included.as_ref())), (Stop::EndOfWal, wal.lsn(), Some(102)));
    assert_eq!((found.wal.tail_end_lsn, found.wal.last_segment.as_str()), (Some(wal.lsn()), SEVEN));
    assert!(human(&found).contains(&format!("archived up to {}", wal.lsn())), "{}", human(&found));
    assert_eq!(serde_json::to_value(&found).unwrap()["wal"]["tail_end_lsn"], wal.lsn().to_string());
    for (request, stop) in [
        (at(105), Stop::Before(commits[1])),
        (at(115), Stop::Before(commits[2])),
        (at(120), Stop::Before(point)),
        (to(RecoveryTarget::Lsn(commits[2])), Stop::After(commits[2])),
        (to(RecoveryTarget::Lsn(wal.lsn())), Stop::After(point)),
        (to(RecoveryTarget::Transaction(101)), Stop::After(commits[1])),
        (to(RecoveryTarget::Name("here".to_owned())), Stop::After(point)),
        (Request { promote: false, ..latest() }, Stop::After(point)),
    ] {
        let found = plan(&archive, &request);
        assert_eq!((found.stop, found.wal.tail_end_lsn), (stop, Some(wal.lsn())), "{request:?}");
    }
    let whole = plan(&archive, &to(RecoveryTarget::Transaction(100)));
    assert_eq!((whole.stop, whole.wal.tail_end_lsn), (Stop::After(commits[0]), None), "that one needs no tail");
    assert!(refusal(&archive, &at(131)).contains(&format!("ends at {}", wal.lsn())));
    assert_snapshot!(windows(&archive).to_string(), @r"
    timeline 1
      from 2026-11-21T10:00:50Z (0/500750)
        to 2026-11-21T10:02:00Z (0/7074A8), the last transaction
           the end is in a tail of WAL segment 000000010000000000000007
           backups b1
    ");
}

/// Within records and their headers, at page boundaries and in page headers: what is planned is what is replayed.
#[test]
fn a_tail_may_end_anywhere() {
    let Open { wal, commits, .. } = open();
    let start = size().segment_at(commits[1]).start(size());
    let mut ends: Vec<Lsn> = [40, 41, 48, 60, 76, 77, 80].map(|offset| start.saturating_add(offset)).into();
    for page in 1..=3 {
        let beyond = [-8_i64, -1, 0, 1, 8, 20, 23, 24, 25, 40];
        ends.extend(beyond.map(|beyond| Lsn::new((start.as_u64() + PAGE * page).saturating_add_signed(beyond))));
    }
    ends.extend([0, 2, 4, 10, 24, 30, 35, 36, 37, 40, 44].map(|into| commits[2].saturating_add(into)));
    for end in ends {
        let Open { archive, .. } = open();
        archive.push_tail(&wal, end);
        let plan = check_latest(&archive, &end.to_string());
        assert!(plan.reaches <= end.saturating_add(7), "{} of {end}", plan.reaches);
        let last = if end >= commits[2].saturating_add(36) {
            102
        } else if end >= commits[1].saturating_add(36) {
            101
        } else {
            100
        };
        assert_eq!(xid(plan.last_included.as_ref()), Some(last), "{end}");
        let report = verified(&archive);
        assert_eq!((report.damage, report.notes, report.tails), (Vec::new(), Vec::new(), 1), "{end}");
    }
}

/// The record that crosses into the tail counts when all of it is there, however long it is.
#[test]
fn a_record_may_cross_into_a_tail() {
    for length in [100, 20_000, 60_000, 1_500_000] {
        let mut wal = Wal::default();
        let bounds = wal.backup(50);
        wal.commit(100, 100);
        wal.fill_segment_but(60);
        let mut main = time(200).as_micros().to_le_bytes().to_vec();
        main.resize(length, b'x');
        let crossing = wal.record(1, 0, 101, &main);
        let whole = wal.lsn();
        wal.commit(102, 300);
        let start = size().segment_before(whole).start(size());
        assert!(crossing < start, "it crosses");
        let rest = whole.saturating_sub(start);
        let mut ends =
            vec![40, 41, 64, PAGE, PAGE + 1, PAGE + 24, rest / 2, rest - 16, rest, rest + 1, rest + 36, rest + 40];
        ends.retain(|end| (40..=rest + 40).contains(end));
        for end in ends {
            let archive = Archive::new(MemoryStorage::new());
            archive.push(&wal).push_tail(&wal, start.saturating_add(end)).backup("b1", 1, bounds);
            let what = format!("{length}, cut at {end} of {rest}");
            let plan = check_latest(&archive, &what);
            let last = if end >= rest + 36 {
                102
            } else if end >= rest {
                101
            } else {
                100
            };
            assert_eq!(xid(plan.last_included.as_ref()), Some(last), "{what}");
            if last > 100 {
                let target = plan_of_transaction(&archive);
                assert_eq!(target, Stop::After(crossing), "{what}");
            }
        }
    }
}

fn plan_of_transaction(archive: &Archive) -> Stop {
    plan(archive, &to(RecoveryTarget::Transaction(101))).stop
}

#[test]
fn a_whole_segment_supersedes_its_tails() {
    let Open { archive, mut wal, .. } = open();
    let ends = [wal.lsn().as_u64() - 20_000, wal.lsn().as_u64()].map(Lsn::new);
    for end in ends {
        archive.push_tail(&wal, end);
    }
    assert_eq!(plan(&archive, &latest()).wal.tail_end_lsn, Some(ends[1]), "the longer one");
    wal.commit(103, 140);
    wal.switch();
    archive.push(&wal);
    let found = check_latest(&archive, "whole");
    assert_eq!(
        (found.reaches, found.wal.tail_end_lsn, xid(found.last_included.as_ref())),
        (wal.lsn(), None, Some(103))
    );
    assert_eq!(windows(&archive).branches[0].windows[0].tail, None);
    let (_, bytes) = wal.segments().nth(2).unwrap();
    assert!(fetch(&archive, SEVEN).unwrap() == bytes);
    let report = verified(&archive);
    assert_eq!((report.damage, report.tails), (Vec::new(), 0));
    assert!(report.notes[0].contains("superseded: 2"), "{:?}", report.notes);
}

#[test]
fn a_damaged_tail_ends_what_can_be_reached_and_nothing_else() {
    let Open { storage, archive, wal, commits, .. } = open();
    archive.push_tail(&wal, Lsn::new(wal.lsn().as_u64() - 20_000)).push_tail(&wal, wal.lsn());
    damage_tails(&storage);
    assert_snapshot!(refusal(&archive, &latest()), @r"
    5: error: unable to reach latest: the tail of WAL segment 000000010000000000000007 is damaged
    hint: accept the end of the unbroken WAL with --target-lsn 0/700000
    hint: or archive the missing segment if a server still has it in pg_wal; a new backup closes the gap for later
    ");
    assert_eq!(plan(&archive, &to(RecoveryTarget::Lsn(commits[0]))).stop, Stop::After(commits[0]));
    assert!(refusal(&archive, &at(115)).contains("is damaged"));
    assert_eq!(fetch(&archive, SEVEN), Err(CANNOT_TELL));
    assert!(windows(&archive).branches[0].windows[0].gap.as_ref().unwrap().contains("is damaged"));
    let report = verified(&archive);
    assert_eq!(report.damage.len(), 1, "{:?}", report.damage);
    assert!(report.damage[0].object.contains(".tail-"), "{:?}", report.damage);
}

#[test]
fn a_disputed_tail_is_nobody_s() {
    let Open { storage, archive, wal, .. } = open();
    archive.push_tail(&wal, wal.lsn());
    let tails = |storage: &MemoryStorage| -> Vec<_> {
        let listed = storage.list("clusters/main/wal/").unwrap().into_iter();
        listed.filter(|info| info.key.as_str().contains(".tail-")).map(|info| info.key).collect()
    };
    let first = tails(&storage).remove(0);
    // As another host would store it that shares only the bucket.
    let name = first.as_str().split_at(first.as_str().len() - 16).0;
    let second = ObjectKey::new(format!("{name}0123456789abcdef")).unwrap();
    storage.put_if_absent(&second, &storage.get(&first, 1 << 20).unwrap()).unwrap();
    assert!(refusal(&archive, &latest()).starts_with("7: "), "{}", refusal(&archive, &latest()));
    assert_eq!(fetch(&archive, SEVEN), Err(CANNOT_TELL));
    assert_eq!(verified(&archive).damage.len(), 1);
}

/// A tail that does not continue the segment before it: another server's, whatever its own records say.
#[test]
fn a_tail_that_does_not_fit_is_told() {
    let Open { archive, .. } = open();
    let mut other = Wal::default();
    other.backup(51);
    other.commit(1, 99);
    other.fill(2000);
    other.switch();
    other.commit(900, 115);
    archive.push_tail(&other, other.lsn());
    assert_snapshot!(refusal(&archive, &latest()), @r"
    5: error: unable to reach latest: the tail of WAL segment 000000010000000000000007 does not continue the WAL before it, or breaks off inside
    hint: accept the end of the unbroken WAL with --target-lsn 0/700000
    hint: or archive the missing segment if a server still has it in pg_wal; a new backup closes the gap for later
    ");
    assert_eq!(verified(&archive).damage, Vec::new(), "nothing is wrong with the object itself");
}

#[test]
fn a_backup_may_begin_in_a_tail() {
    let mut wal = Wal::default();
    wal.commit(1, 10);
    wal.switch();
    let start = wal.checkpoint(50);
    wal.fill(2000);
    wal.record(0, 0x50, 0, &start.as_u64().to_le_bytes());
    let stop = wal.lsn();
    wal.commit(100, 100);
    let archive = |end: Option<Lsn>| {
        let archive = Archive::new(MemoryStorage::new());
        archive.push(&wal).backup("b1", 1, (start, stop));
        if let Some(end) = end {
            archive.push_tail(&wal, end);
        }
        archive
    };
    let found = check_latest(&archive(Some(wal.lsn())), "all");
    assert_eq!((found.reaches, xid(found.last_included.as_ref())), (wal.lsn(), Some(100)));
    let short = refusal(&archive(Some(Lsn::new(stop.as_u64() - 16))), &latest());
    assert!(short.contains("before the backup's end"), "{short}");
    let nothing = refusal(&archive(Some(start)), &latest());
    assert!(nothing.contains("there is only a tail of WAL segment 000000010000000000000006"), "{nothing}");
    assert!(refusal(&archive(None), &latest()).contains("000000010000000000000006 is not in the archive"));
}

#[test]
fn a_tail_in_the_middle_is_a_gap() {
    let Open { archive, mut wal, commits, .. } = open();
    let end = wal.lsn();
    archive.push_tail(&wal, end);
    wal.switch();
    wal.commit(103, 140);
    let later = wal.lsn();
    archive.push_tail(&wal, later);
    assert_snapshot!(refusal(&archive, &latest()), @r"
    8: error: unable to reach latest: there is only a tail of WAL segment 000000010000000000000007, WAL goes on with 000000010000000000000008
    hint: accept the end of the unbroken WAL with --target-lsn 0/7074A8
    hint: or archive the missing segment if a server still has it in pg_wal; a new backup closes the gap for later
    ");
    assert_eq!(plan(&archive, &to(RecoveryTarget::Lsn(commits[2]))).stop, Stop::After(commits[2]));
    wal.switch();
    archive.push_but(&wal, &[2]);
    assert!(refusal(&archive, &latest()).contains("only a tail of WAL segment 000000010000000000000007"));
    // Without the segment before it a tail is of no use.
    let Open { archive, .. } = open();
    archive.push_tail(&wal, later);
    let missing = refusal(&archive, &latest());
    assert!(missing.contains(&format!("{SEVEN} is missing, WAL goes on with 000000010000000000000008")), "{missing}");
}

#[test]
fn an_upgraded_cluster_leaves_a_tail_behind() {
    let Open { archive, wal, .. } = open();
    archive.push_tail(&wal, wal.lsn());
    let mut upgraded = wal.clone();
    upgraded.switch();
    upgraded.become_another_cluster(78);
    upgraded.commit(900, 900);
    archive.push_tail(&upgraded, upgraded.lsn());
    let foreign = plan(&archive, &latest());
    assert_eq!((foreign.reaches, xid(foreign.last_included.as_ref())), (wal.lsn(), Some(102)));
    upgraded.switch();
    archive.push(&upgraded);
    let foreign = plan(&archive, &latest());
    assert_eq!((foreign.reaches, xid(foreign.last_included.as_ref())), (wal.lsn(), Some(102)));
}

#[test]
fn a_tail_is_fetched_with_one_listing_and_one_read() {
    let remote = Remote::default();
    let archive = Archive::new(remote.clone());
    let Open { wal, .. } = open();
    archive.push(&wal);
    for end in [10_000, 20_000, 29_000] {
        archive.push_tail(&wal, size().segment_before(wal.lsn()).start(size()).saturating_add(end));
    }
    remote.forget();
    assert_eq!(fetch(&archive, SEVEN).unwrap().len(), SEGMENT);
    assert_eq!((remote.count(Call::List), remote.count(Call::Get), remote.count(Call::Head)), (1, 1, 0));
    remote.forget();
    archive.push_tail(&wal, wal.lsn());
    assert_eq!((remote.count(Call::List), remote.count(Call::Get), remote.count(Call::Put)), (0, 0, 1));
}
