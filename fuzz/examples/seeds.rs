//! Writes `seeds/`: what the fuzzer starts from. `cargo run --example seeds`, in this directory.
//!
//! Messages are encoded here as servers send them. WAL comes from the fixtures of `proto`: the first pages of each
//! major's segment, and one record of every kind in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkeep_proto::version::MajorVersion;
use walkeep_proto::wal::{SegmentHeader, WalDecoder};

/// Bytes of a segment that are taken as they are: three pages.
const PREFIX: usize = 3 << 13;
const PAGE: usize = 1 << 13;
/// Longer records say nothing new.
const LONGEST_RECORD: usize = 700;

fn main() -> io::Result<()> {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for target in ["wire", "wal"] {
        fs::create_dir_all(seeds.join(target))?;
    }
    for (name, messages) in conversations() {
        // All at once, byte by byte, and in between.
        for cut in [0, 1, 7] {
            fs::write(seeds.join("wire").join(format!("{name}-{cut}")), [&[cut][..], &messages.concat()].concat())?;
        }
    }
    for (index, version) in MajorVersion::ALL.into_iter().enumerate() {
        let segment = segment(version)?;
        let raw = [&[0, 5][..], &segment[..PREFIX]].concat();
        fs::write(seeds.join("wal").join(format!("segment-{version}")), raw)?;
        let list = [&[1, 5, index as u8][..], &records(&segment)].concat();
        fs::write(seeds.join("wal").join(format!("records-{version}")), list)?;
    }
    Ok(())
}

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn row(values: &[Option<&str>]) -> Vec<u8> {
    let mut body = (values.len() as u16).to_be_bytes().to_vec();
    for value in values {
        body.extend(value.map_or(-1, |text| text.len() as i32).to_be_bytes());
        body.extend(value.unwrap_or_default().as_bytes());
    }
    framed(b'D', &body)
}

fn columns(names: &[&str]) -> Vec<u8> {
    let mut body = (names.len() as u16).to_be_bytes().to_vec();
    for name in names {
        body.extend(name.as_bytes());
        // Table, attribute, type text, its size and modifier, text format.
        body.extend(b"\0\0\0\0\0\0\0\0\0\0\x19\xFF\xFF\xFF\xFF\xFF\xFF\0\0");
    }
    framed(b'T', &body)
}

fn wal_data(start: u64, data: &[u8]) -> Vec<u8> {
    let end = start + data.len() as u64;
    let header = [&b"w"[..], &start.to_be_bytes(), &end.to_be_bytes(), &800_000_000_000_000_i64.to_be_bytes()].concat();
    framed(b'd', &[&header, data].concat())
}

fn keepalive(end: u64, reply: u8) -> Vec<u8> {
    framed(b'd', &[&b"k"[..], &end.to_be_bytes(), &800_000_000_000_000_i64.to_be_bytes(), &[reply]].concat())
}

fn authentication(kind: u32, rest: &[u8]) -> Vec<u8> {
    framed(b'R', &[&kind.to_be_bytes(), rest].concat())
}

fn ready() -> Vec<u8> {
    framed(b'Z', b"I")
}

fn opened() -> Vec<Vec<u8>> {
    vec![
        authentication(0, b""),
        framed(b'S', b"in_hot_standby\0off\0"),
        framed(b'S', b"server_version\x0017.10 (Debian 17.10-1)\0"),
        framed(b'K', b"\0\0\x12\x34\xDE\xAD\xBE\xEF"),
        ready(),
    ]
}

/// What servers say, one list of messages for each occasion.
fn conversations() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let error = |code: &str, text: &str| {
        let fields =
            format!("SERROR\0VERROR\0C{code}\0M{text}\0Ddetail\0Hhint\0Fwalsender.c\0L123\0RStartReplication\0\0");
        framed(b'E', fields.as_bytes())
    };
    let complete = |tag: &str| framed(b'C', format!("{tag}\0").as_bytes());
    let answer =
        |names: &[&str], values: &[Option<&str>], tag: &str| vec![columns(names), row(values), complete(tag), ready()];
    let scram = vec![
        authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        // The nonce of eighteen zeroes, continued.
        authentication(11, b"r=AAAAAAAAAAAAAAAAAAAAAAAAserver,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4"),
        authentication(12, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="),
    ];
    let next = answer(&["next_tli", "next_tli_startpos"], &[Some("9"), Some("0/3000128")], "START_STREAMING");
    vec![
        ("scram", [scram, opened()].concat()),
        ("md5", [vec![authentication(5, b"salt")], opened()].concat()),
        ("refused", vec![authentication(3, b""), error("28P01", "password authentication failed")]),
        (
            "identify",
            answer(
                &["systemid", "timeline", "xlogpos", "dbname"],
                &[Some("7398123456789012345"), Some("1"), Some("0/3000128"), None],
                "IDENTIFY_SYSTEM",
            ),
        ),
        (
            "history",
            answer(
                &["filename", "content"],
                &[Some("00000002.history"), Some("1\t0/3000128\tno recovery target specified\n")],
                "TIMELINE_HISTORY",
            ),
        ),
        (
            "stream",
            [
                vec![
                    framed(b'W', b"\0\0\0"),
                    wal_data(0x300_0000, &[0x16, 0xD1, 6, 0, 1, 0, 0, 0, 0, 0, 0, 3]),
                    keepalive(0x300_000C, 1),
                    framed(b'S', b"TimeZone\0Asia/Tokyo\0"),
                    framed(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mnotice\0\0"),
                    wal_data(0x300_000C, &[0; 300]),
                    framed(b'c', b""),
                ],
                next.clone(),
            ]
            .concat(),
        ),
        ("end-of-timeline", next),
        ("shutdown", vec![framed(b'W', b"\0\0\0"), keepalive(0x300_0000, 0), complete("COPY 0")]),
        ("ahead", vec![framed(b'W', b"\0\0\0"), error("XX000", "requested starting point is ahead"), ready()]),
        (
            "rare",
            vec![
                framed(b'v', b"\0\0\0\0\0\0\0\x01_pq_.option\0"),
                framed(b'A', b"\0\0\x12\x34channel\0payload\0"),
                framed(b'H', b"\0\0\x01\0\0"),
                framed(b'G', b"\x01\0\x01\0\x01"),
                framed(b'I', b""),
                framed(b'Z', b"T"),
                framed(b'Z', b"E"),
            ],
        ),
    ]
}

fn segment(version: MajorVersion) -> io::Result<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/tests/fixtures/wal").join(version.to_string());
    let files: Vec<PathBuf> = fs::read_dir(fixtures)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    let is_segment =
        |path: &&PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"0000"));
    let file = files.iter().find(is_segment).ok_or_else(|| io::Error::other("no segment among the fixtures"))?;
    zstd::decode_all(&fs::read(file)?[..])
}

/// The first short record of each kind, in the form that the target reads.
fn records(segment: &[u8]) -> Vec<u8> {
    let header = SegmentHeader::parse(segment).expect("the fixture is a segment");
    let decoder = WalDecoder::new(header.format(), header.timeline, header.page_address);
    let mut decoder = decoder.expect("a segment's start is a start");
    let mut found = BTreeMap::new();
    let mut records = decoder.feed(segment);
    while let Some(record) = records.next_record().expect("the fixture is valid") {
        let start = (record.start.as_u64() - header.page_address.as_u64()) as usize;
        let length = record.total_length as usize;
        // One that continues on the next page has a header in it.
        if length <= LONGEST_RECORD && start % PAGE + length <= PAGE {
            let body = &segment[start + 24..start + length];
            found.entry((record.resource_manager.id(), record.info)).or_insert(body);
        }
    }
    let mut list = Vec::new();
    for ((manager, info), body) in found {
        list.extend((body.len() as u16).to_le_bytes());
        list.extend([manager, info]);
        list.extend(body);
    }
    list
}
