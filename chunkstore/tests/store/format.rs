//! Repositories of every released format stay readable for ever.
//!
//! `fixtures/repository-format-1` is a small repository: one cluster with two backups (the second describes a relation by
//! a delta), one WAL segment of PostgreSQL 17 and a history file. `fixtures/repository-format-1-tail` has the tail of a
//! segment besides. With `WALKEEP_WRITE_GOLDEN=DIR` the test writes a new one into DIR, which is how a fixture of a new
//! format is made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{Files, PAGE, index, load, repository, store};
use jiff::Timestamp;
use walkeep_chunkstore::console::{Progress, Show};
use walkeep_chunkstore::ingest::Ingested;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::repository::{
    BackupKind, BackupManifest, BackupStatistics, BackupStatus, ClusterIdentity, Repository,
};
use walkeep_chunkstore::storage::LocalStorage;
use walkeep_chunkstore::verify::{Sample, VerifyOptions, verify};
use walkeep_chunkstore::wal::{Tail, WalArchive};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::wal::{ScanContext, SegmentHeader, scan_segment};

const SEGMENT_FIXTURE: &str = "../proto/tests/fixtures/wal/17";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Relation pages that compress, so that the fixture stays small.
fn page(seed: u32) -> Vec<u8> {
    (0..PAGE as u32).map(|at| (seed.wrapping_mul(31).wrapping_add(at / 16) % 251) as u8).collect()
}

fn first_files() -> Files {
    Files::from([
        ("PG_VERSION".to_owned(), b"17\n".to_vec()),
        ("base/1/1000".to_owned(), (0..600).flat_map(page).collect()),
        ("base/1/1001".to_owned(), vec![0; 5 * PAGE]),
        ("pg_xact/0000".to_owned(), b"status".repeat(5000)),
    ])
}

fn second_files() -> Files {
    let mut files = first_files();
    let relation = files.get_mut("base/1/1000").unwrap();
    for number in [3, 77, 78, 590] {
        relation[number * PAGE..(number + 1) * PAGE].copy_from_slice(&page(10_000 + number as u32));
    }
    relation.truncate(595 * PAGE + 100);
    files
}

/// The WAL segment of the fixture: its name and its bytes.
fn segment() -> (WalFileName, Vec<u8>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(SEGMENT_FIXTURE);
    let name_of = |path: &Path| path.file_stem()?.to_str()?.parse::<WalFileName>().ok();
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (name, path) = entries.filter_map(|path| Some((name_of(&path)?, path))).next().expect("a WAL fixture");
    (name, zstd::decode_all(std::fs::File::open(path).unwrap()).unwrap())
}

fn identity(segment: &[u8]) -> ClusterIdentity {
    let header = SegmentHeader::parse(segment).unwrap();
    ClusterIdentity {
        system_identifier: header.system_identifier,
        major: header.version,
        page_size: PAGE as u32,
        pages_per_segment: 131_072,
        wal_segment_size: header.segment_size,
        registered: Timestamp::UNIX_EPOCH,
    }
}

fn manifest(id: &str, segment: &[u8], stored: &Ingested) -> BackupManifest {
    let identity = identity(segment);
    let header = SegmentHeader::parse(segment).unwrap();
    BackupManifest {
        id: id.parse().unwrap(),
        cluster: "golden".to_owned(),
        system_identifier: identity.system_identifier,
        major: identity.major,
        server_version: "PostgreSQL 17".to_owned(),
        page_size: identity.page_size,
        pages_per_segment: identity.pages_per_segment,
        wal_segment_size: identity.wal_segment_size,
        data_checksums: true,
        directory_mode: 0o700,
        kind: BackupKind::Scan,
        parent: None,
        status: BackupStatus::Ok,
        page_errors: Vec::new(),
        page_error_count: 0,
        timeline: header.timeline,
        start_lsn: header.page_address,
        stop_lsn: header.page_address.saturating_add(1000),
        started: Timestamp::UNIX_EPOCH,
        stopped: Timestamp::UNIX_EPOCH,
        backup_label: "label\n".to_owned(),
        tablespace_map: String::new(),
        tablespaces: Vec::new(),
        file_lists: stored.file_lists.clone(),
        statistics: BackupStatistics::default(),
        notes: BTreeMap::new(),
        host: "golden".to_owned(),
        tool_version: "1".to_owned(),
    }
}

/// Writes a repository of the current format.
fn write(directory: &Path) {
    let repository = repository(LocalStorage::create(directory).unwrap()).unwrap();
    let state = tempfile::tempdir().unwrap();
    let layout = ClusterLayout::new("golden").unwrap();
    let (name, bytes) = segment();
    repository.register(&layout, "golden", &identity(&bytes)).unwrap();
    let index = index(state.path(), &repository).unwrap();
    let first = store(&repository, &index, &first_files(), None).unwrap();
    repository.commit_backup(&layout, &manifest("20260101T000000Z-0001", &bytes, &first)).unwrap();
    let second = store(&repository, &index, &second_files(), Some(&first)).unwrap();
    repository.commit_backup(&layout, &manifest("20260102T000000Z-0002", &bytes, &second)).unwrap();
    let archive = WalArchive::new(Arc::clone(&repository), layout);
    let WalFileName::Segment(segment_name) = name else { panic!("{name}") };
    let segment_size = identity(&bytes).wal_segment_size;
    let segment: WalSegment = segment_name.segment(segment_size).unwrap();
    let scan = scan_segment(&bytes, &ScanContext { segment, segment_size, system_identifier: None }).unwrap();
    archive.push(&name, &bytes, Some(&scan), 19).unwrap();
    archive.push(&"00000002.history".parse().unwrap(), b"1\t0/5000000\tno reason\n", None, 1).unwrap();
    let (segment, end) = tail(segment, segment_size);
    archive.push_tail(segment, segment_size, end, &bytes[..TAIL], 19).unwrap();
}

/// Bytes of the fixture's tail.
const TAIL: usize = 100_000;

/// The segment of which there is a tail, and its end: timeline 2 begins with bytes of timeline 1.
fn tail(segment: WalSegment, size: WalSegmentSize) -> (WalSegment, Lsn) {
    let segment = WalSegment { timeline: "2".parse().unwrap(), ..segment };
    (segment, segment.start(size).saturating_add(TAIL as u64))
}

/// Reads everything in it and compares.
fn check(directory: &Path, has_tail: bool) {
    let storage = LocalStorage::open(directory).unwrap();
    let repository = Arc::new(Repository::open(Arc::new(storage)).unwrap());
    assert_eq!(repository.cluster_names().unwrap(), ["golden"]);
    let layout = ClusterLayout::new("golden").unwrap();
    let (name, bytes) = segment();
    assert!(repository.identity(&layout, "golden").unwrap().is_same(&identity(&bytes)));
    let backups = repository.backups(&layout).unwrap();
    let expected = [first_files(), second_files()];
    assert_eq!(backups.len(), expected.len());
    for (backup, files) in backups.into_iter().zip(expected) {
        let manifest = backup.manifest.unwrap();
        let stored = Ingested { file_lists: manifest.file_lists, ..Ingested::default() };
        assert_eq!(load(&repository, &stored).unwrap(), files, "{}", manifest.id);
    }
    let archive = WalArchive::new(Arc::clone(&repository), layout.clone());
    assert_eq!(archive.fetch(&name).unwrap().as_deref(), Some(bytes.as_slice()));
    let history = archive.history("2".parse().unwrap()).unwrap().unwrap();
    assert_eq!(history.switches()[0].switch_lsn, "0/5000000".parse().unwrap());
    let options = VerifyOptions { sample: Sample::ALL, backup: None, jobs: 1 };
    let report = verify(&repository, &layout, &options, &Progress::start("verify", 0, Show::Nothing)).unwrap();
    assert_eq!((report.damage, report.backups, report.segments), (Vec::new(), 2, 1));
    assert_eq!((report.notes, report.tails), (Vec::new(), u64::from(has_tail)));
    let (segment_size, WalFileName::Segment(name)) = (identity(&bytes).wal_segment_size, name) else {
        panic!("{name}")
    };
    let (segment, end) = tail(name.segment(segment_size).unwrap(), segment_size);
    let expected = has_tail.then(|| Tail { end, bytes: bytes[..TAIL].to_vec() });
    assert!(archive.tail(segment, segment_size).unwrap() == expected);
}

#[test]
fn a_repository_of_this_version_reads() {
    let directory = match std::env::var_os("WALKEEP_WRITE_GOLDEN") {
        Some(directory) => PathBuf::from(directory),
        None => tempfile::tempdir().unwrap().keep(),
    };
    write(&directory);
    check(&directory, true);
    if std::env::var_os("WALKEEP_WRITE_GOLDEN").is_none() {
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn format_1_reads() {
    check(&fixtures().join("repository-format-1"), false);
    check(&fixtures().join("repository-format-1-tail"), true);
}

/// What this version does not know it refuses by name, before it touches anything.
#[test]
fn a_newer_repository_is_refused_by_name() {
    let text = std::fs::read_to_string(fixtures().join("repository-format-1/walkeep.json")).unwrap();
    let open = |text: &str| {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("walkeep.json"), text).unwrap();
        Repository::open(Arc::new(LocalStorage::open(directory.path()).unwrap()))
    };
    assert!(open(&text).is_ok());
    let newer = open(&text.replace("\"format\": 1", "\"format\": 2")).unwrap_err();
    assert!(newer.to_string().contains("format 2, this build reads 1"), "{newer}");
    let feature = open(&text.replace("\"incompatible\": []", "\"incompatible\": [\"time-travel\"]")).unwrap_err();
    assert!(feature.to_string().contains("time-travel"), "{feature}");
    let encrypted = open(&text.replace("\"cipher\": null", "\"cipher\": \"aes-256-gcm\"")).unwrap_err();
    assert!(encrypted.to_string().contains("aes-256-gcm"), "{encrypted}");
    let read_only = open(&text.replace("\"read_only\": []", "\"read_only\": [\"x\"]")).unwrap();
    assert!(read_only.config().check_writable().unwrap_err().to_string().contains("'x'"));
}
