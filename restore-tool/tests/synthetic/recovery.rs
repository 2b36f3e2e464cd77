//! Plans over repositories made without PostgreSQL, and what PostgreSQL would make of them.

use std::fs;
use std::sync::Arc;

use walkeep_chunkstore::catalogue::{TimedRecord, TimedRecordKind, Windows};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::{SegmentHeader, WalDecoder};
use walkeep_restore::failure::exit_and_hints;
use walkeep_restore::fetch_wal::{self, ABSENT, DELIVERED};
use walkeep_restore::plan::{self, Request, RestorePlan};
use walkeep_restore::target::RecoveryTarget;

use super::{Archive, SEGMENT, size, time, timeline};

pub fn to(target: RecoveryTarget) -> Request {
    Request { target, exclusive: false, timeline: None, backup: None, promote: true }
}

pub fn at(second: i64) -> Request {
    to(RecoveryTarget::Time(time(second)))
}

pub fn latest() -> Request {
    to(RecoveryTarget::Latest)
}

pub fn along(number: u32, request: Request) -> Request {
    Request { timeline: Some(timeline(number)), ..request }
}

pub fn try_plan(archive: &Archive, request: &Request) -> Result<RestorePlan, anyhow::Error> {
    let catalogue = archive.catalogue();
    plan::plan(&catalogue, &catalogue.archived_wal(&archive.repository).unwrap(), request)
}

pub fn plan(archive: &Archive, request: &Request) -> RestorePlan {
    try_plan(archive, request).unwrap_or_else(|error| panic!("{error:#}"))
}

/// The exit code and everything that is printed.
pub fn refusal(archive: &Archive, request: &Request) -> String {
    let error = try_plan(archive, request).expect_err("this cannot be reached");
    let (exit, hints) = exit_and_hints(&error);
    format!("{}: {}", exit.code(), walkeep_chunkstore::console::render(error.as_ref(), &hints))
}

pub fn windows(archive: &Archive) -> Windows {
    let catalogue = archive.catalogue();
    catalogue.windows(&catalogue.archived_wal(&archive.repository).unwrap()).unwrap()
}

pub fn xid(record: Option<&TimedRecord>) -> Option<u32> {
    match record?.kind {
        TimedRecordKind::Commit { xid } | TimedRecordKind::Abort { xid } => Some(xid),
        _ => None,
    }
}

/// Runs `fetch-wal`; the delivered file, or the exit code.
pub fn fetch(archive: &Archive, file: &str) -> Result<Vec<u8>, u8> {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("RECOVERYXLOG");
    let request = fetch_wal::Request { file, path: &target, cluster: Some("main") };
    match fetch_wal::run(|| Ok(Arc::clone(&archive.repository)), &request) {
        DELIVERED => Ok(fs::read(&target).unwrap()),
        code => Err(code),
    }
}

/// Where PostgreSQL gets to by the plan: it asks for one segment after the other, of the newest timeline first, and stops
/// where records end.
pub fn replayed(archive: &Archive, plan: &RestorePlan) -> Lsn {
    let catalogue = archive.catalogue();
    let history = catalogue.history(plan.timeline).unwrap();
    let (mut position, mut end) = (plan.backup.start_lsn, plan.backup.start_lsn);
    let (mut decoder, mut read): (Option<WalDecoder>, TimelineId) = (None, TimelineId::FIRST);
    loop {
        let number = size().segment_at(position);
        let begun = |timeline: &TimelineId| size().segment_at(history.start_of(*timeline).unwrap()) <= number;
        let asked = history.timelines().rev().filter(|timeline| begun(timeline) && *timeline >= read);
        let delivered = asked.map(|timeline| (timeline, WalSegment { timeline, number })).find_map(
            |(timeline, segment)| match fetch(archive, &segment.file_name(size())) {
                Ok(bytes) => Some((timeline, bytes)),
                Err(code) => {
                    assert_eq!(code, ABSENT);
                    None
                }
            },
        );
        let Some((timeline, bytes)) = delivered else { return end };
        assert_eq!(bytes.len(), SEGMENT);
        read = timeline;
        let decoder = decoder.get_or_insert_with(|| {
            let format = SegmentHeader::parse(&bytes).unwrap().format();
            WalDecoder::new(format, plan.timeline, position).unwrap()
        });
        let mut records = decoder.feed(&bytes[size().offset_of(position) as usize..]);
        loop {
            match records.next_record() {
                Ok(Some(record)) => end = record.end,
                Ok(None) => break,
                Err(_) => return end,
            }
        }
        position = decoder.position();
    }
}

/// Plans and windows name the end that PostgreSQL will find.
pub fn check_latest(archive: &Archive, what: &str) -> RestorePlan {
    let plan = plan(archive, &latest());
    assert_eq!(plan.reaches, replayed(archive, &plan), "{what}");
    let windows = windows(archive);
    let branch = windows.branches.iter().rev().find(|branch| branch.windows.iter().any(|w| w.to_lsn == plan.reaches));
    assert!(branch.is_some(), "{what}: {windows}");
    plan
}
