//! WAL written by this test: what real servers seldom leave behind.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::ops::ControlFlow;

use proptest::prelude::*;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::error::EndOfWal;
use walkeep_proto::wal::join::{JoinError, Joint, join_crossing_record};
use walkeep_proto::wal::page::{WalBlockSize, WalFormat};
use walkeep_proto::wal::record::RecordProblem;
use walkeep_proto::wal::segment_scan::SegmentEnd;
use walkeep_proto::wal::{EndReason, RecordMeaning, ScanContext, SegmentScan, WalDecoder, WalError, scan_segment};

const SEGMENT: usize = 1 << 20;
const PAGE: usize = 8192;
const BASE: u64 = 5 << 20;
const VERSION: MajorVersion = MajorVersion::V17;

/// Writes WAL as PostgreSQL would: page headers, checksums, links.
struct Writer {
    bytes: Vec<u8>,
    previous: u64,
    timeline: u32,
    starts: Vec<u64>,
}

fn record(resource_manager: u8, info: u8, previous: u64, main: &[u8]) -> Vec<u8> {
    let mut body = vec![254];
    body.extend((main.len() as u32).to_le_bytes());
    body.extend(main);
    if main.is_empty() {
        body.clear();
    }
    let mut record = Vec::new();
    record.extend((24 + body.len() as u32).to_le_bytes());
    record.extend(9u32.to_le_bytes());
    record.extend(previous.to_le_bytes());
    record.extend([info, resource_manager, 0, 0]);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
    record.extend(checksum.to_le_bytes());
    record.extend(body);
    record
}

impl Writer {
    fn new() -> Self {
        Self { bytes: Vec::new(), previous: BASE - 64, timeline: 1, starts: Vec::new() }
    }

    fn position(&self) -> u64 {
        BASE + self.bytes.len() as u64
    }

    fn page_header(&mut self, flags: u16, remaining: usize) {
        if !self.bytes.len().is_multiple_of(PAGE) {
            return;
        }
        let long = self.bytes.len().is_multiple_of(SEGMENT);
        let address = self.position();
        self.bytes.extend(VERSION.wal_page_magic().to_le_bytes());
        self.bytes.extend((flags | if long { 2 } else { 0 }).to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((remaining as u64).to_le_bytes());
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    /// Writes up to `limit` bytes of `record`, with the page headers between them.
    fn put(&mut self, record: &[u8], limit: usize) {
        let mut rest = &record[..limit.min(record.len())];
        while !rest.is_empty() {
            let written = limit.min(record.len()) - rest.len();
            self.page_header(u16::from(written > 0), if written > 0 { record.len() - written } else { 0 });
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn record(&mut self, resource_manager: u8, info: u8, main: &[u8]) -> u64 {
        self.page_header(0, 0);
        let start = self.position();
        self.put(&record(resource_manager, info, self.previous, main), usize::MAX);
        self.previous = start;
        self.starts.push(start);
        start
    }

    /// A record of no special meaning with `length` bytes of main data.
    fn plain(&mut self, length: usize) -> u64 {
        self.record(21, 0, &vec![b'x'; length])
    }

    fn commit(&mut self, micros: i64) -> u64 {
        self.record(1, 0, &micros.to_le_bytes())
    }

    fn fill_to(&mut self, length: usize) {
        while self.bytes.len() + 200 < length {
            self.plain(100);
        }
    }

    /// Begins a record of `length` bytes of main data, leaves it at the end of the page, and gives it up.
    fn abandon(&mut self, length: usize, named: impl Fn(u64) -> u64) -> u64 {
        self.page_header(0, 0);
        let start = self.position();
        let begun = record(21, 0, self.previous, &vec![b'x'; length]);
        self.put(&begun, PAGE - self.bytes.len() % PAGE);
        self.page_header(8, 0);
        let mut main = named(start).to_le_bytes().to_vec();
        main.extend(5i64.to_le_bytes());
        self.record(0, 0xD0, &main);
        start
    }

    fn switch(&mut self) {
        self.record(0, 0x40, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
    }
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn decoder(start: u64) -> WalDecoder {
    let segment_size = WalSegmentSize::new(SEGMENT as u32).unwrap();
    let format = WalFormat { version: VERSION, segment_size, block_size: WalBlockSize::USUAL };
    WalDecoder::new(format, timeline(2), Lsn::new(start)).unwrap()
}

/// Starts of all records, and what stopped the reading.
fn read(bytes: &[u8]) -> (Vec<u64>, Option<WalError>) {
    let (mut starts, mut decoder) = (Vec::new(), decoder(BASE));
    let mut records = decoder.feed(bytes);
    loop {
        match records.next_record() {
            Ok(Some(record)) => starts.push(record.start.as_u64()),
            Ok(None) => return (starts, None),
            Err(error) => return (starts, Some(error)),
        }
    }
}

fn scan(bytes: &[u8], number: u64) -> SegmentScan {
    let segment_size = WalSegmentSize::new(SEGMENT as u32).unwrap();
    let number = segment_size.segment_at(Lsn::new(BASE + number * SEGMENT as u64));
    let segment = WalSegment { timeline: timeline(2), number };
    scan_segment(bytes, &ScanContext { segment, segment_size, system_identifier: None }).unwrap()
}

fn scans(bytes: &[u8]) -> Vec<SegmentScan> {
    bytes.chunks(SEGMENT).enumerate().map(|(number, bytes)| scan(bytes, number as u64)).collect()
}

fn end(bytes: &[u8]) -> EndOfWal {
    match read(bytes).1 {
        Some(WalError::EndOfWal(end)) => end,
        other => panic!("{other:?}"),
    }
}

#[test]
fn records_run_through_pages_and_whole_segments() {
    let mut wal = Writer::new();
    for length in [0, 1, 7, 8, 100, 8_000, 9_000, 40_000, 3 * SEGMENT, 5, 16 * SEGMENT, 30] {
        wal.plain(length);
    }
    assert_eq!(read(&wal.bytes), (wal.starts.clone(), None));
}

#[test]
fn headers_may_cross_pages() {
    for length in 8000..8200 {
        let mut wal = Writer::new();
        wal.plain(length);
        wal.plain(20);
        wal.plain(20);
        assert_eq!(read(&wal.bytes), (wal.starts.clone(), None), "{length}");
    }
}

#[test]
fn reading_may_begin_at_a_record_or_behind_a_continuation() {
    let mut wal = Writer::new();
    wal.plain(20_000);
    let second = wal.plain(300);
    wal.commit(4);
    let mut decoder = decoder(second);
    let mut records = decoder.feed(&wal.bytes[(second - BASE) as usize..]);
    assert_eq!(records.next_record().unwrap().unwrap().start, Lsn::new(second));
    let mut decoder = self::decoder(BASE + PAGE as u64);
    let mut records = decoder.feed(&wal.bytes[PAGE..]);
    assert_eq!(records.next_record().unwrap().unwrap().start, Lsn::new(second));
    assert_eq!(decoder.skipped().unwrap().length, 20_000 + 29 - (PAGE as u32 - 40));
    for start in [BASE + 8, BASE + 41, BASE + PAGE as u64 + 16] {
        let segment_size = WalSegmentSize::new(SEGMENT as u32).unwrap();
        let format = WalFormat { version: VERSION, segment_size, block_size: WalBlockSize::USUAL };
        assert!(matches!(WalDecoder::new(format, timeline(1), Lsn::new(start)), Err(WalError::Start { .. })));
    }
}

#[test]
fn a_switch_ends_the_segment() {
    let mut wal = Writer::new();
    wal.plain(100);
    wal.switch();
    wal.plain(100);
    let last = wal.bytes.len();
    assert_eq!(read(&wal.bytes), (wal.starts.clone(), None));
    // Whatever is behind the switch is never looked at.
    wal.bytes[SEGMENT / 2..SEGMENT].fill(0xEE);
    assert_eq!(read(&wal.bytes[..last]), (wal.starts.clone(), None));
    let scans = scans(&wal.bytes);
    assert_eq!(scans[0].end, SegmentEnd::Switch);
    assert_eq!(scans[0].last_record_end, Some(Lsn::new(BASE + SEGMENT as u64)));
    assert_eq!(join_crossing_record(&scans[0], &scans[1]), Ok(Joint::Nothing));
}

#[test]
fn an_abandoned_record_is_void_and_what_replaces_it_must_name_it() {
    let mut wal = Writer::new();
    wal.plain(100);
    wal.abandon(20_000, |start| start);
    wal.plain(100);
    assert_eq!(read(&wal.bytes), (wal.starts.clone(), None));
    let mut wal = Writer::new();
    wal.plain(100);
    let start = wal.abandon(20_000, |start| start + 8);
    let problem = RecordProblem::Overwrites { unfinished: Lsn::new(start), named: Some(Lsn::new(start + 8)) };
    let (starts, error) = read(&wal.bytes);
    assert_eq!(starts.len(), 1);
    assert!(matches!(error, Some(WalError::Malformed { problem: found, .. }) if found == problem));
}

#[test]
fn an_abandoned_record_may_cross_segments() {
    let mut wal = Writer::new();
    wal.fill_to(SEGMENT - 300);
    while SEGMENT - wal.bytes.len() > 160 {
        wal.plain(8);
    }
    let start = wal.abandon(20_000, |start| start);
    wal.fill_to(2 * SEGMENT);
    assert_eq!(read(&wal.bytes), (wal.starts.clone(), None));
    let scans = [scan(&wal.bytes[..SEGMENT], 0), scan(&wal.bytes[SEGMENT..], 1)];
    assert_eq!(scans[1].overwrites, Some(Lsn::new(start)));
    assert_eq!(join_crossing_record(&scans[0], &scans[1]), Ok(Joint::GivenUp { start: Some(Lsn::new(start)) }));
}

#[test]
fn the_end_is_named() {
    let mut wal = Writer::new();
    wal.plain(100);
    let second = wal.plain(100);
    let behind = wal.position();
    let mut zeroes = wal.bytes.clone();
    zeroes.resize(SEGMENT, 0);
    assert_eq!(end(&zeroes), EndOfWal { at: Lsn::new(behind), reason: EndReason::Zeroes });
    assert_eq!(scan(&zeroes, 0).valid_up_to, Lsn::new(behind));
    assert_eq!(scan(&zeroes, 0).end, SegmentEnd::Stopped(EndReason::Zeroes));

    let mut stale = wal.bytes.clone();
    stale.extend(record(21, 0, BASE - 4096, b"of an earlier life"));
    let reason = EndReason::PreviousLink { expected: Lsn::new(second), found: Lsn::new(BASE - 4096) };
    assert_eq!(end(&stale), EndOfWal { at: Lsn::new(behind), reason });

    let mut damaged = wal.bytes.clone();
    *damaged.last_mut().unwrap() = 0;
    let at = wal.bytes.len() - 20;
    damaged[at] ^= 1;
    assert!(matches!(end(&damaged), EndOfWal { at, reason: EndReason::Checksum { .. } } if at == Lsn::new(second)));

    // The next page is one of the segment's former life.
    let mut recycled = Writer::new();
    let start = recycled.plain(20_000);
    let address = PAGE + 8;
    recycled.bytes[address..address + 8].copy_from_slice(&(BASE - SEGMENT as u64).to_le_bytes());
    assert!(
        matches!(end(&recycled.bytes), EndOfWal { at, reason: EndReason::PageAddress { .. } } if at.as_u64() == start)
    );
    // The record claims more than its continuation has.
    let mut torn = Writer::new();
    torn.plain(20_000);
    torn.bytes[PAGE + 16] ^= 1;
    assert!(matches!(end(&torn.bytes).reason, EndReason::ContinuationLength { .. }));
    torn.bytes[PAGE + 2] = 0;
    assert!(matches!(end(&torn.bytes).reason, EndReason::ContinuationMissing { .. }));
}

#[test]
fn timelines_never_go_back() {
    let mut wal = Writer::new();
    wal.plain(9_000);
    wal.timeline = 2;
    wal.plain(9_000);
    assert_eq!(read(&wal.bytes).1, None);
    wal.timeline = 1;
    wal.plain(9_000);
    assert!(matches!(end(&wal.bytes).reason, EndReason::PageTimeline { .. }));
    let mut newer = Writer::new();
    newer.timeline = 3;
    newer.plain(1);
    assert!(matches!(end(&newer.bytes).reason, EndReason::PageTimeline { .. }));
}

#[test]
fn a_record_that_crosses_segments_is_put_together() {
    let mut wal = Writer::new();
    wal.fill_to(SEGMENT - 400);
    // Without main data a record has 24 bytes, and the commit will have 37.
    while SEGMENT - wal.bytes.len() > 36 {
        wal.record(21, 0, &[]);
    }
    let crossing = wal.commit(77);
    wal.fill_to(2 * SEGMENT);
    let scans = [scan(&wal.bytes[..SEGMENT], 0), scan(&wal.bytes[SEGMENT..], 1)];
    assert_eq!(scans[0].crossing.as_ref().unwrap().start, Lsn::new(crossing));
    let Joint::Record { start, facts } = join_crossing_record(&scans[0], &scans[1]).unwrap() else {
        panic!("the record crosses");
    };
    assert_eq!((start.as_u64(), facts.records, facts.transactions.commits), (crossing, 1, 1));
    let records = scans[0].facts.records + facts.records + scans[1].facts.records;
    assert_eq!(records, wal.starts.len() as u64);
    assert!(matches!(join_crossing_record(&scans[1], &scans[0]), Err(JoinError::NotAdjacent { .. })));
    let mut other = scans[1].clone();
    other.first_record.as_mut().unwrap().previous = Lsn::new(BASE);
    assert!(matches!(join_crossing_record(&scans[0], &other), Err(JoinError::Link { .. })));
    let mut other = scans[1].clone();
    other.continuation = None;
    assert!(matches!(join_crossing_record(&scans[0], &other), Err(JoinError::Length { .. })));
}

#[test]
fn a_record_through_a_whole_segment_is_named_but_not_kept() {
    let mut wal = Writer::new();
    wal.plain(50);
    let long = wal.plain(2 * SEGMENT);
    wal.fill_to(3 * SEGMENT);
    let scans = scans(&wal.bytes);
    let start = Some(Lsn::new(long));
    assert_eq!(join_crossing_record(&scans[0], &scans[1]), Ok(Joint::NotKept { start, continues: true }));
    assert_eq!(join_crossing_record(&scans[1], &scans[2]), Ok(Joint::NotKept { start: None, continues: false }));
    assert_eq!((scans[1].facts.records, scans[1].end), (0, SegmentEnd::Full));
}

#[test]
fn planning_finds_the_first_commit_after_a_time() {
    let mut wal = Writer::new();
    for micros in [10, 30, 20, 40] {
        wal.plain(9_000);
        wal.commit(micros);
    }
    let mut decoder = decoder(BASE);
    let found = decoder.feed(&wal.bytes).for_each_record(|record| {
        Ok(match record.meaning()? {
            RecordMeaning::TransactionEnd(end) if end.time.as_micros() > 15 => ControlFlow::Break(record.start),
            _ => ControlFlow::Continue(()),
        })
    });
    assert_eq!(found, Ok(Some(Lsn::new(wal.starts[3]))));
    assert_eq!(decoder.last_record(), Some(Lsn::new(wal.starts[3])));
}

#[test]
fn an_error_is_repeated() {
    let mut decoder = decoder(BASE);
    let first = decoder.feed(&[1; 8192]).next_record().map(|_| ());
    assert!(first.is_err());
    assert_eq!(decoder.feed(&[]).next_record().map(|_| ()), first);
    assert_eq!(decoder.feed(&[0; 100]).next_record().map(|_| ()), first);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_records_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..20_000), page in 0u64..200) {
        let mut decoder = decoder(BASE + page * PAGE as u64 + if page % 2 == 0 { 0 } else { 48 });
        let mut records = decoder.feed(&bytes);
        while let Ok(Some(record)) = records.next_record() {
            let _ = record.meaning();
        }
    }

    #[test]
    fn any_portions_give_the_same_records(
        lengths in proptest::collection::vec(0usize..12_000, 1..60),
        cuts in proptest::collection::vec(1usize..9_000, 1..60),
    ) {
        let mut wal = Writer::new();
        for length in lengths {
            wal.plain(length);
        }
        let (mut starts, mut decoder, mut rest) = (Vec::new(), decoder(BASE), &wal.bytes[..]);
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            let mut records = decoder.feed(now);
            while let Some(record) = records.next_record().unwrap() {
                starts.push(record.start.as_u64());
            }
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(starts, wal.starts);
        prop_assert_eq!(decoder.boundary(), Lsn::new(BASE + wal.bytes.len() as u64));
    }

    /// Main data of any content, behind a right checksum, under every manager and kind.
    #[test]
    fn any_main_data_has_a_meaning_or_an_error(
        manager in 0u8..5,
        info: u8,
        main in proptest::collection::vec(any::<u8>(), 0..150),
    ) {
        let mut wal = Writer::new();
        wal.record(manager, info, &main);
        let mut decoder = decoder(BASE);
        let mut records = decoder.feed(&wal.bytes);
        if let Ok(Some(record)) = records.next_record() {
            let _ = record.meaning();
        }
    }
}
