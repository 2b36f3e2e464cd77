//! A repository made without PostgreSQL: WAL written here, and backups of a few files.

// Each test binary uses a part of it, and helpers may fail as loudly as tests.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

pub mod cluster;
pub mod files;
pub mod recovery;
pub mod remote;

use std::sync::Arc;

use jiff::Timestamp;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::node::NodeRef;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::repository::{
    BackupId, BackupKind, BackupManifest, BackupStatistics, BackupStatus, ClusterIdentity, Repository, Tablespace,
};
use walkeep_chunkstore::storage::Storage;
use walkeep_chunkstore::wal::WalArchive;
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::{PgTimestamp, ScanContext, scan_segment};

pub const SEGMENT: usize = 1 << 20;
const PAGE: usize = 8192;
const BASE: u64 = 5 << 20;
pub const SYSTEM: u64 = 77;
pub const MAJOR: MajorVersion = MajorVersion::V17;
/// 2026-11-21 10:00:00 UTC: the time 0 of these tests.
pub const NOON: i64 = 1_795_255_200;

pub fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

pub fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT as u32).unwrap()
}

/// The time `second` seconds after 0.
pub fn time(second: i64) -> PgTimestamp {
    PgTimestamp::from_unix_seconds(NOON + second)
}

/// WAL as PostgreSQL would write it: page headers, checksums, links.
#[derive(Clone)]
pub struct Wal {
    bytes: Vec<u8>,
    previous: u64,
    timeline: u32,
    system: u64,
    /// The segment that this timeline begins in.
    first: usize,
}

impl Default for Wal {
    fn default() -> Self {
        Self { bytes: Vec::new(), previous: BASE - 64, timeline: 1, system: SYSTEM, first: 0 }
    }
}

impl Wal {
    pub fn lsn(&self) -> Lsn {
        Lsn::new(BASE + self.bytes.len() as u64)
    }

    fn page_header(&mut self, continues: bool, remaining: usize) {
        if !self.bytes.len().is_multiple_of(PAGE) {
            return;
        }
        let long = self.bytes.len().is_multiple_of(SEGMENT);
        let address = self.lsn().as_u64();
        let flags = u16::from(continues) | if long { 2 } else { 0 };
        self.bytes.extend(MAJOR.wal_page_magic().to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(address.to_le_bytes());
        self.bytes.extend((remaining as u64).to_le_bytes());
        if long {
            self.bytes.extend(self.system.to_le_bytes());
            self.bytes.extend((SEGMENT as u32).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    pub fn record(&mut self, manager: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        let mut body = Vec::new();
        if !main.is_empty() {
            body.push(254);
            body.extend((main.len() as u32).to_le_bytes());
            body.extend(main);
        }
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        self.page_header(false, 0);
        let start = self.lsn();
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            let written = record.len() - rest.len();
            self.page_header(written > 0, if written > 0 { rest.len() } else { 0 });
            let room = PAGE - self.bytes.len() % PAGE;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start.as_u64();
        start
    }

    /// A commit at this second.
    pub fn commit(&mut self, xid: u32, second: i64) -> Lsn {
        self.record(1, 0, xid, &time(second).as_micros().to_le_bytes())
    }

    pub fn abort(&mut self, xid: u32, second: i64) -> Lsn {
        self.record(1, 0x20, xid, &time(second).as_micros().to_le_bytes())
    }

    pub fn restore_point(&mut self, name: &str, second: i64) -> Lsn {
        let mut main = time(second).as_micros().to_le_bytes().to_vec();
        main.extend(name.as_bytes());
        main.resize(72, 0);
        self.record(0, 0x70, 0, &main)
    }

    pub fn checkpoint(&mut self, second: i64) -> Lsn {
        let mut main = self.lsn().as_u64().to_le_bytes().to_vec();
        main.extend(self.timeline.to_le_bytes());
        main.extend(self.timeline.to_le_bytes());
        main.extend([1, 0, 0, 0]);
        main.extend(1u32.to_le_bytes());
        main.extend([0; 40]);
        main.extend((NOON + second).to_le_bytes());
        main.extend([0; 8]);
        self.record(0, 0x10, 0, &main)
    }

    /// `length` bytes that mean nothing.
    pub fn fill(&mut self, length: usize) -> &mut Self {
        let end = self.bytes.len() + length;
        while self.bytes.len() + 400 < end {
            self.record(21, 0, 9, &[b'x'; 300]);
        }
        self
    }

    /// Fills up to `left` bytes before the end of the segment.
    pub fn fill_segment_but(&mut self, left: usize) -> &mut Self {
        let rest = |wal: &Self| SEGMENT - wal.bytes.len() % SEGMENT - left;
        self.fill(rest(self) - 100);
        let last = rest(self) - 29;
        self.record(21, 0, 9, &vec![b'x'; last]);
        self
    }

    /// Ends the segment.
    pub fn switch(&mut self) -> &mut Self {
        self.record(0, 0x40, 0, &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(SEGMENT), 0);
        self
    }

    /// Ends the segment and returns the bounds of a backup around a checkpoint at this second.
    pub fn backup(&mut self, second: i64) -> (Lsn, Lsn) {
        self.page_header(false, 0);
        let start = self.lsn();
        self.checkpoint(second);
        self.fill(2000);
        self.record(0, 0x50, 0, &start.as_u64().to_le_bytes());
        let stop = self.lsn();
        self.switch();
        (start, stop)
    }

    /// The timeline that branches off here, and its history file.
    pub fn branch(&self, number: u32) -> (Self, Vec<u8>) {
        let first = self.bytes.len() / SEGMENT;
        let branch = Self { timeline: number, first, ..self.clone() };
        (branch, format!("{}\t{}\tno recovery target specified\n", self.timeline, self.lsn()).into_bytes())
    }

    /// What `pg_upgrade` leaves: another cluster whose WAL carries on the numbers. Only behind a switch.
    pub fn become_another_cluster(&mut self, system: u64) {
        (self.system, self.first) = (system, self.bytes.len() / SEGMENT);
    }

    /// The segment of this timeline that the byte before `end` is in, from its start to `end`.
    pub fn up_to(&self, end: Lsn) -> (WalSegment, &[u8]) {
        let number = size().segment_before(end);
        let start = number.start(size()).saturating_sub(Lsn::new(BASE)) as usize;
        let bytes = &self.bytes[start..end.saturating_sub(Lsn::new(BASE)) as usize];
        (WalSegment { timeline: timeline(self.timeline), number }, bytes)
    }

    /// The complete segments of this timeline.
    pub fn segments(&self) -> impl Iterator<Item = (WalSegment, &[u8])> {
        let number = |index: usize| SegmentNumber::new(BASE / SEGMENT as u64 + index as u64);
        let complete = self.bytes.chunks_exact(SEGMENT).enumerate().skip(self.first);
        complete
            .map(move |(index, bytes)| (WalSegment { timeline: timeline(self.timeline), number: number(index) }, bytes))
    }
}

/// A repository with one cluster, `main`.
pub struct Archive {
    pub repository: Arc<Repository>,
    pub layout: ClusterLayout,
}

impl Archive {
    pub fn new(storage: impl Storage + 'static) -> Self {
        let now = Timestamp::from_second(NOON).unwrap();
        let repository = Arc::new(Repository::init(Arc::new(storage), now).unwrap().0);
        let archive = Self { repository, layout: ClusterLayout::new("main").unwrap() };
        archive.register(SYSTEM, MAJOR);
        archive
    }

    pub fn register(&self, system: u64, major: MajorVersion) {
        let identity = ClusterIdentity {
            system_identifier: SystemIdentifier::new(system),
            major,
            page_size: 8192,
            pages_per_segment: 131_072,
            wal_segment_size: size(),
            registered: Timestamp::from_second(NOON).unwrap(),
        };
        self.repository.register(&self.layout, "main", &identity).unwrap();
    }

    /// Archives the timeline's complete segments but those whose place in it is in `but`.
    pub fn push_but(&self, wal: &Wal, but: &[usize]) -> &Self {
        let archive = self.wal();
        for (index, (segment, bytes)) in wal.segments().enumerate() {
            if !but.contains(&index) {
                let context = ScanContext { segment, segment_size: size(), system_identifier: None };
                let scan = scan_segment(bytes, &context).unwrap();
                assert!(scan.is_complete(), "{:?}", scan.end);
                let file: WalFileName = segment.file_name(size()).parse().unwrap();
                archive.push(&file, bytes, Some(&scan), 1).unwrap();
            }
        }
        self
    }

    pub fn push(&self, wal: &Wal) -> &Self {
        self.push_but(wal, &[])
    }

    /// Archives the tail up to `end`.
    pub fn push_tail(&self, wal: &Wal, end: Lsn) -> &Self {
        let (segment, bytes) = wal.up_to(end);
        self.wal().push_tail(segment, size(), end, bytes, 1).unwrap();
        self
    }

    pub fn wal(&self) -> WalArchive {
        WalArchive::new(Arc::clone(&self.repository), self.layout.clone())
    }

    pub fn push_history(&self, number: u32, text: &[u8]) -> &Self {
        self.wal().push(&WalFileName::History(timeline(number)), text, None, 1).unwrap();
        self
    }

    /// Commits a backup without files.
    pub fn backup(&self, id: &str, number: u32, bounds: (Lsn, Lsn)) -> &Self {
        self.commit(manifest(id, number, bounds, Vec::new()))
    }

    pub fn commit(&self, manifest: BackupManifest) -> &Self {
        self.repository.commit_backup(&self.layout, &manifest).unwrap();
        self
    }

    pub fn catalogue(&self) -> Catalogue {
        Catalogue::load(&self.repository, None).unwrap()
    }
}

/// The root of a backup of a cluster with one tablespace elsewhere and one in place.
pub fn manifest(id: &str, number: u32, (start, stop): (Lsn, Lsn), file_lists: Vec<NodeRef>) -> BackupManifest {
    let (start_lsn, stop_lsn) = (start, stop);
    let id: BackupId = id.parse().unwrap();
    // Names of backups order them, so their times may as well.
    let second = i64::from(id.as_str().bytes().last().unwrap_or_default());
    BackupManifest {
        cluster: "main".to_owned(),
        system_identifier: SystemIdentifier::new(SYSTEM),
        major: MAJOR,
        server_version: "17.0".to_owned(),
        page_size: 8192,
        pages_per_segment: 131_072,
        wal_segment_size: size(),
        data_checksums: true,
        directory_mode: 0o750,
        kind: BackupKind::FullRead,
        parent: None,
        status: BackupStatus::Ok,
        page_errors: Vec::new(),
        page_error_count: 0,
        timeline: timeline(number),
        start_lsn,
        stop_lsn,
        started: Timestamp::from_second(NOON + second).unwrap(),
        stopped: Timestamp::from_second(NOON + second).unwrap(),
        backup_label: format!("START WAL LOCATION: {start} (file 000000010000000000000005)\nLABEL: {id}\n"),
        tablespace_map: String::new(),
        tablespaces: Vec::<Tablespace>::new(),
        file_lists,
        statistics: BackupStatistics::default(),
        notes: Default::default(),
        host: "here".to_owned(),
        tool_version: "0".to_owned(),
        id,
    }
}
