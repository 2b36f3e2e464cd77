//! Taking one WAL file into the repository: what `archive-push` does without an agent.
//!
//! No index, no lease: one object, durable before success is said. Before that the file must prove what it is: right
//! length, right magic, right place in the WAL, right cluster, every record's checksum.

mod ledger;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::id::{ChunkId, RepositoryKeys};
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_chunkstore::wal::{Pushed, WalArchive};
use walkeep_proto::segment::{SegmentFileName, WalFileName, WalSegment};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};
use walkeep_proto::wal::segment_scan::SegmentEnd;
use walkeep_proto::wal::{ScanContext, SegmentScan, scan_segment};

use ledger::Claimed;

pub use ledger::{FileMark, SegmentLedger, ready_file};

/// Longest `.history` or `.backup` file: both are a few lines of text.
const MAXIMUM_TEXT: u64 = 1 << 20;

/// [`push`], where a segment that this process has stored, or is storing, is only compared with that.
///
/// `file` is the mark of the server's own file at `path`, taken before: it needs no second comparison.
pub fn push_known(
    archive: &WalArchive,
    identity: &ClusterIdentity,
    path: &Path,
    level: i32,
    ledger: &SegmentLedger,
    file: Option<FileMark>,
) -> Result<Pushed> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Ok(WalFileName::Segment(segment)) = name.parse() else { return push(archive, identity, path, level) };
    let keys = archive.repository().keys();
    // The content is found out while another thread may still be storing.
    let content = ledger.needs_content(segment, file).then(|| content(path, identity, keys)).transpose()?;
    let claim = match ledger.claim(segment, file)? {
        Claimed::Mine(claim) => Some(claim),
        Claimed::Stored(stored) if file.is_some() && stored.compared == file => return Ok(Pushed::AlreadyThere),
        Claimed::Stored(stored) => {
            let content = content.map_or_else(|| self::content(path, identity, keys), Ok)?;
            if content == stored.content {
                if let Some(file) = file {
                    ledger.note_compared(segment, file);
                }
                return Ok(Pushed::AlreadyThere);
            }
            // The repository refuses it, and keeps it beside the other.
            None
        }
    };
    let (pushed, content) = push_segment(archive, identity, path, segment, level)?;
    if let Some(claim) = claim {
        claim.stored(content);
    }
    Ok(pushed)
}

/// Stores the WAL file at `path`. Durable on return, whether it was new or there already.
pub fn push(archive: &WalArchive, identity: &ClusterIdentity, path: &Path, level: i32) -> Result<Pushed> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let file: WalFileName = name.parse().with_context(|| format!("unable to archive '{}'", path.display()))?;
    match file {
        WalFileName::Segment(segment) => {
            push_segment(archive, identity, path, segment, level).map(|(pushed, _)| pushed)
        }
        WalFileName::Partial(segment) => push_partial(archive, identity, path, segment, level),
        WalFileName::History(timeline) => push_history(archive, path, timeline, level).map(|(pushed, _)| pushed),
        WalFileName::BackupHistory(..) => Ok(archive.push(&file, &read(path, MAXIMUM_TEXT)?, None, level)?),
    }
}

/// Stores a history file that says something, and gives what it says.
pub fn push_history(
    archive: &WalArchive,
    path: &Path,
    timeline: TimelineId,
    level: i32,
) -> Result<(Pushed, TimelineHistory)> {
    push_history_text(archive, timeline, &read(path, MAXIMUM_TEXT)?, level)
        .with_context(|| format!("unable to archive '{}'", path.display()))
}

/// [`push_history`] of a file's content.
pub fn push_history_text(
    archive: &WalArchive,
    timeline: TimelineId,
    text: &[u8],
    level: i32,
) -> Result<(Pushed, TimelineHistory)> {
    let history = TimelineHistory::parse(timeline, text)?;
    // An empty one, left by a crash, would cut the timeline off from its past for ever.
    if history.switches().is_empty() {
        bail!("history of timeline {timeline} names no timeline that this one left");
    }
    Ok((archive.push(&WalFileName::History(timeline), text, None, level)?, history))
}

fn push_segment(
    archive: &WalArchive,
    identity: &ClusterIdentity,
    path: &Path,
    name: SegmentFileName,
    level: i32,
) -> Result<(Pushed, ChunkId)> {
    let segment = place(identity, name)?;
    let bytes = read_segment(path, identity)?;
    // Two cores are faster than one: the file proves itself while it is compressed.
    let file = WalFileName::Segment(name);
    let (scan, prepared) = std::thread::scope(|scope| {
        let prepared = scope.spawn(|| archive.prepare(&file, &bytes, level));
        let scan = scan(&bytes, identity, segment);
        (scan, prepared.join().unwrap_or_else(|_| Err(Error::Invalid("a compressor thread died".to_owned()))))
    });
    let scan = scan?;
    if let SegmentEnd::Stopped(reason) = scan.end {
        bail!(
            "segment {name} is damaged: its records end at {}, before the segment's end at {}: {reason}",
            scan.valid_up_to,
            segment.number.end(identity.wal_segment_size)
        );
    }
    let prepared = prepared?;
    let content = prepared.content();
    Ok((archive.push_prepared(&file, prepared, Some(&scan))?, content))
}

/// The end of a timeline that was left at promotion: kept as it is. Its records stop somewhere by nature.
fn push_partial(
    archive: &WalArchive,
    identity: &ClusterIdentity,
    path: &Path,
    name: SegmentFileName,
    level: i32,
) -> Result<Pushed> {
    let segment = place(identity, name)?;
    let bytes = read_segment(path, identity)?;
    scan(&bytes, identity, segment)?;
    Ok(archive.push(&WalFileName::Partial(name), &bytes, None, level)?)
}

fn place(identity: &ClusterIdentity, name: SegmentFileName) -> Result<WalSegment> {
    let size = identity.wal_segment_size;
    name.segment(size).with_context(|| format!("'{name}' names no segment of {} bytes", size.bytes()))
}

fn scan(bytes: &[u8], identity: &ClusterIdentity, segment: WalSegment) -> Result<SegmentScan> {
    let context = ScanContext {
        segment,
        segment_size: identity.wal_segment_size,
        system_identifier: Some(identity.system_identifier),
    };
    let scan = scan_segment(bytes, &context)?;
    if scan.header.version != identity.major {
        bail!(
            "segment {} was written by PostgreSQL {}, the repository holds a cluster of PostgreSQL {}",
            segment.file_name(identity.wal_segment_size),
            scan.header.version,
            identity.major
        );
    }
    Ok(scan)
}

/// Opens a file that must be exactly one segment long.
fn open_segment(path: &Path, identity: &ClusterIdentity) -> Result<File> {
    let shown = || format!("unable to read '{}'", path.display());
    let file = File::open(path).with_context(shown)?;
    let length = file.metadata().with_context(shown)?.len();
    let expected = u64::from(identity.wal_segment_size.bytes());
    if length != expected {
        bail!("'{}' is {length} bytes long, a segment of this cluster has {expected}", path.display());
    }
    Ok(file)
}

/// What a segment's file holds, without its bytes in memory.
fn content(path: &Path, identity: &ClusterIdentity, keys: &RepositoryKeys) -> Result<ChunkId> {
    let file = open_segment(path, identity)?;
    keys.chunk_id_of(file.take(u64::from(identity.wal_segment_size.bytes())))
        .with_context(|| format!("unable to read '{}'", path.display()))
}

/// Reads a segment's file, in two halves at once: most of the time goes into fresh memory.
fn read_segment(path: &Path, identity: &ClusterIdentity) -> Result<Vec<u8>> {
    let shown = || format!("unable to read '{}'", path.display());
    let file = open_segment(path, identity)?;
    let expected = identity.wal_segment_size.bytes();
    let mut bytes = vec![0; usize::try_from(expected)?];
    let middle = bytes.len() / 2;
    let (first, second) = bytes.split_at_mut(middle);
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| file.read_exact_at(second, middle as u64));
        (file.read_exact_at(first, 0), second.join())
    });
    first.with_context(shown)?;
    second.unwrap_or_else(|_| Err(std::io::Error::other("a reading thread died"))).with_context(shown)?;
    Ok(bytes)
}

/// Reads a whole file of at most `limit` bytes.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let open = || format!("unable to read '{}'", path.display());
    let file = File::open(path).with_context(open)?;
    let length = file.metadata().with_context(open)?.len();
    if length > limit {
        bail!("'{}' is {length} bytes long, expected at most {limit}", path.display());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).with_context(open)?;
    Ok(bytes)
}
