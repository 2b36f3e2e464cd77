//! One real WAL segment of every supported major, against what PostgreSQL's own tools say about it.
//!
//! How the files were made: `fixtures/wal/README.md`.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use walkeep_proto::identity::ForkNumber;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::segment_scan::SegmentEnd;
use walkeep_proto::wal::{
    DecodedRecord, PgTimestamp, RecordMeaning, ScanContext, SegmentHeader, SegmentScan, WalDecoder, WalError,
    scan_segment,
};

struct Fixture {
    directory: PathBuf,
    name: String,
    bytes: Vec<u8>,
}

fn decompress(path: &Path) -> Vec<u8> {
    zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap()
}

impl Fixture {
    fn load(version: MajorVersion) -> Self {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/wal").join(version.to_string());
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let file = names.into_iter().find(|name| name.starts_with("0000")).unwrap();
        let bytes = decompress(&directory.join(&file));
        Self { name: file.trim_end_matches(".zst").to_owned(), directory, bytes }
    }

    fn header(&self) -> SegmentHeader {
        SegmentHeader::parse(&self.bytes).unwrap()
    }

    fn segment(&self) -> WalSegment {
        WalSegment::from_file_name(&self.name, self.header().segment_size).unwrap()
    }

    fn scan(&self) -> Result<SegmentScan, WalError> {
        self.scan_bytes(&self.bytes)
    }

    fn scan_bytes(&self, bytes: &[u8]) -> Result<SegmentScan, WalError> {
        let header = self.header();
        let system_identifier = Some(header.system_identifier);
        let (segment, segment_size) = (self.segment(), header.segment_size);
        scan_segment(bytes, &ScanContext { segment, segment_size, system_identifier })
    }

    fn decoder(&self) -> WalDecoder {
        let header = self.header();
        WalDecoder::new(header.format(), self.segment().timeline, header.page_address).unwrap()
    }

    /// The records, as the listings write them.
    fn listing(&self, portions: &[&[u8]]) -> Vec<String> {
        let mut decoder = self.decoder();
        let mut lines = Vec::new();
        for portion in portions {
            let mut records = decoder.feed(portion);
            while let Some(record) = records.next_record().unwrap() {
                lines.push(line(&record));
            }
        }
        lines
    }

    /// The lines of the file `name` that begin with `word`, without it.
    fn facts(&self, word: &str) -> Vec<String> {
        let text = String::from_utf8(decompress(&self.directory.join("facts.zst"))).unwrap();
        text.lines().filter_map(|line| line.strip_prefix(word)).map(|rest| rest.trim().to_owned()).collect()
    }
}

fn line(record: &DecodedRecord<'_>) -> String {
    let (manager, length) = (record.resource_manager, record.total_length);
    let mut line = format!("{} {} {manager} {} {length}", record.start, record.previous, record.xid);
    for block in record.block_refs {
        let fork = match block.fork {
            ForkNumber::Main => "main",
            ForkNumber::FreeSpaceMap => "fsm",
            ForkNumber::VisibilityMap => "vm",
            ForkNumber::Init => "init",
        };
        let (place, image) = (block.locator, if block.has_image() { "+" } else { "" });
        let path = format!("{}/{}/{}", place.tablespace, place.database, place.relation);
        write!(line, " {}:{path}:{fork}:{}{image}", block.id, block.block).unwrap();
    }
    line
}

#[test]
fn the_header_names_the_version_and_the_segment() {
    for version in MajorVersion::ALL {
        let fixture = Fixture::load(version);
        assert_eq!(fixture.header().version, version);
        assert_eq!(fixture.header().segment_size.bytes(), 1 << 20);
        assert!(fixture.header().check_name(fixture.segment()).is_ok());
    }
}

#[test]
fn records_are_those_that_postgresql_lists() {
    for version in [MajorVersion::V15, MajorVersion::V16, MajorVersion::V17, MajorVersion::V18] {
        let fixture = Fixture::load(version);
        let expected = String::from_utf8(decompress(&fixture.directory.join("records.zst"))).unwrap();
        let expected: Vec<&str> = expected.lines().collect();
        let found = fixture.listing(&[&fixture.bytes]);
        // pg_walinspect, which made the list of 17, was asked from the second page on.
        let skip = found.iter().position(|line| Some(line.as_str()) == expected.first().copied()).unwrap();
        assert!(skip < 100, "{version}");
        assert!(expected.len() > 10_000, "{version}");
        for (found, expected) in found[skip..].iter().zip(&expected) {
            assert_eq!(found, expected, "{version}");
        }
        assert_eq!(found.len() - skip, expected.len(), "{version}");
    }
}

#[test]
fn commits_are_those_whose_time_the_server_remembers() {
    for version in MajorVersion::ALL {
        let fixture = Fixture::load(version);
        let known: BTreeSet<(u32, i64)> = fixture
            .facts("xact ")
            .iter()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(xid, micros)| (xid.parse().unwrap(), micros.parse().unwrap()))
            .collect();
        let mut decoder = fixture.decoder();
        let mut records = decoder.feed(&fixture.bytes);
        let (mut found, mut prepared, mut dropped, mut last) = (BTreeSet::new(), 0, 0, 0);
        while let Some(record) = records.next_record().unwrap() {
            let RecordMeaning::TransactionEnd(end) = record.meaning().unwrap() else { continue };
            prepared += u32::from(end.prepared);
            dropped += end.dropped.iter().count();
            if end.committed {
                assert_eq!(PgTimestamp::from_unix_micros(end.time.unix_micros()), end.time);
                found.extend(
                    end.subtransactions
                        .iter()
                        .chain([end.xid])
                        .filter(|xid| *xid != 0)
                        .map(|xid| (xid, end.time.unix_micros())),
                );
                last = last.max(end.xid);
            }
        }
        let first = found.first().unwrap().0;
        let known: BTreeSet<_> = known.into_iter().filter(|(xid, _)| (first..=last).contains(xid)).collect();
        assert!(found.len() > 1000, "{version}");
        assert_eq!(found, known, "{version}");
        assert_eq!(prepared, 3, "{version}");
        assert!(dropped >= 3, "{version}");
    }
}

#[test]
fn a_scan_tells_restore_points_databases_and_where_the_segment_ends() {
    for version in MajorVersion::ALL {
        let fixture = Fixture::load(version);
        let scan = fixture.scan().unwrap();
        let facts = &scan.facts;
        assert_eq!((scan.end, scan.is_complete()), (SegmentEnd::Full, true), "{version}");
        assert_eq!(scan.valid_up_to, fixture.segment().number.end(scan.header.segment_size));
        // The workload begins behind a message that was begun in the segment before.
        assert!(scan.continuation.as_ref().unwrap().bytes.is_some(), "{version}");
        let points: Vec<(String, Lsn)> = facts.restore_points.iter().map(|p| (p.name.clone(), p.end)).collect();
        let lsns: Vec<Lsn> = fixture.facts("rp ").iter().map(|lsn| lsn.parse().unwrap()).collect();
        assert_eq!(points, [("fixture point".to_owned(), lsns[0]), ("second".to_owned(), lsns[1])], "{version}");
        // One database was created and dropped again.
        assert_eq!(facts.changes.whole_databases.len(), 1, "{version}");
        assert_eq!(facts.changes.unknown, None, "{version}");
        assert_eq!(facts.minimal_wal_level, None, "{version}");
        // A rolled-back transaction, a rolled-back prepared one, and a subtransaction left by ROLLBACK TO.
        assert_eq!(facts.transactions.aborts, 3, "{version}");
        assert!(facts.transactions.min_time <= facts.transactions.first_time, "{version}");
        assert!(!facts.checkpoints.is_empty(), "{version}");
        assert!(facts.changes.forks.values().any(|fork| fork.limit.is_some_and(|limit| limit > 0)), "{version}");
        assert_eq!(facts.records, fixture.listing(&[&fixture.bytes]).len() as u64, "{version}");
    }
}

#[test]
fn another_major_refuses_the_segment() {
    let fixture = Fixture::load(MajorVersion::V16);
    let mut format = fixture.header().format();
    format.version = MajorVersion::V17;
    let mut decoder = WalDecoder::new(format, fixture.segment().timeline, fixture.header().page_address).unwrap();
    let mut records = decoder.feed(&fixture.bytes);
    assert!(matches!(records.next_record(), Err(WalError::EndOfWal(_))));
}

/// What a reader of the first `cut` bytes must find in any case: no error, and records only from the whole.
fn prefix_holds(fixture: &Fixture, cut: usize) {
    let scan = fixture.scan_bytes(&fixture.bytes[..cut]).unwrap();
    assert!(scan.end == SegmentEnd::Short || cut == fixture.bytes.len());
    // The padding behind the last record need not have arrived.
    assert!(scan.valid_up_to <= scan.header.page_address.saturating_add(cut as u64 + 7));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn portions_do_not_matter(index in 0usize..6, cuts in proptest::collection::vec(0usize..1 << 20, 0..200)) {
        let fixture = Fixture::load(MajorVersion::ALL[index]);
        let mut cuts = cuts;
        cuts.extend([0, fixture.bytes.len()]);
        cuts.sort_unstable();
        let portions: Vec<&[u8]> = cuts.windows(2).map(|pair| &fixture.bytes[pair[0]..pair[1]]).collect();
        prop_assert_eq!(fixture.listing(&portions), fixture.listing(&[&fixture.bytes]));
    }

    #[test]
    fn damage_is_never_a_panic_and_never_unnoticed(
        index in 0usize..6,
        damage in proptest::collection::vec((0usize..1 << 20, 1u8..), 1..4),
    ) {
        let fixture = Fixture::load(MajorVersion::ALL[index]);
        let mut bytes = fixture.bytes.clone();
        for (at, mask) in damage {
            bytes[at] ^= mask;
        }
        if let (Ok(damaged), Ok(whole)) = (fixture.scan_bytes(&bytes), fixture.scan())
            && damaged.end == whole.end
        {
            // Only what no checksum covers may differ: padding, and records begun or ended elsewhere.
            prop_assert_eq!(damaged.facts, whole.facts);
        }
    }

    #[test]
    fn a_prefix_is_short_not_damaged(index in 0usize..6, cut in 40usize..1 << 20) {
        prefix_holds(&Fixture::load(MajorVersion::ALL[index]), cut);
    }
}

#[test]
fn single_bytes_are_enough() {
    let fixture = Fixture::load(MajorVersion::V18);
    let bytes: Vec<&[u8]> = fixture.bytes.chunks(1).collect();
    assert_eq!(fixture.listing(&bytes), fixture.listing(&[&fixture.bytes]));
}
