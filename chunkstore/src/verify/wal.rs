//! The WAL archive: every file decodes, every segment and tail says what its name says, and backups have theirs without a
//! gap.

use std::sync::Arc;

use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::wal::segment_scan::SegmentEnd;

use super::{Findings, VerifyOptions};
use crate::error::{Error, Result};
use crate::parallel::for_each;
use crate::repository::layout::ClusterLayout;
use crate::repository::{BackupManifest, Repository};
use crate::wal::{WalArchive, WalInventory, scan_tail};

/// Checks the archive of a cluster, or what one backup needs of it.
pub(super) fn check(
    repository: &Arc<Repository>,
    layout: &ClusterLayout,
    options: &VerifyOptions,
    findings: &Findings<'_>,
) -> Result<()> {
    let Some(identity) = repository.identities(layout)?.pop() else { return Ok(()) };
    let size = identity.wal_segment_size;
    let archive = WalArchive::new(Arc::clone(repository), layout.clone());
    let inventory = archive.inventory(size)?;
    for key in &inventory.unknown {
        findings.report.lock().notes.push(format!("'{key}' is none of this version's objects"));
    }
    for key in &inventory.conflicts {
        findings.report.lock().notes.push(format!("'{key}' is a refused second content of a WAL file"));
    }
    for (segment, stored) in inventory.segments.iter().filter(|(_, stored)| !stored.rivals.is_empty()) {
        let name = segment.file_name(size);
        findings.damage(format_args!("WAL segment {name}"), format_args!("two contents, '{}' among them", stored.key));
    }
    for timeline in &inventory.histories {
        if let Err(error) = archive.history(*timeline) {
            findings.take(WalFileName::History(*timeline), error)?;
        }
    }
    let mut wanted: Vec<WalSegment> = inventory.segments.keys().copied().collect();
    let mut needed = Vec::new();
    for backup in repository.backups(layout)? {
        let Ok(manifest) = backup.manifest else { continue };
        if options.backup.as_ref().is_some_and(|id| *id != manifest.id) {
            continue;
        }
        check_range(&archive, &inventory, &manifest, size, findings)?;
        let (first, last) = (size.segment_at(manifest.start_lsn), size.segment_before(manifest.stop_lsn));
        needed.extend(wanted.iter().filter(|s| s.timeline == manifest.timeline && (first..=last).contains(&s.number)));
    }
    if options.backup.is_some() {
        wanted = needed;
    } else {
        check_tails(&archive, &inventory, size, findings)?;
    }
    check_segments(&archive, &wanted, size, options, findings)
}

/// Tails are all read, sample or not: there are few, and what they hold is nowhere else.
fn check_tails(
    archive: &WalArchive,
    inventory: &WalInventory,
    size: WalSegmentSize,
    findings: &Findings<'_>,
) -> Result<()> {
    if let Some(key) = inventory.superseded.first() {
        let count = inventory.superseded.len();
        let text = format!("tails that their segment or a longer one has superseded: {count}, '{key}' among them");
        findings.report.lock().notes.push(text);
    }
    for (segment, stored) in &inventory.tails {
        findings.report.lock().tails += 1;
        let checked = archive.listed_tail(*segment, size, stored).and_then(|bytes| {
            findings.read(bytes.len() as u64);
            let scan = scan_tail(&bytes, *segment, size).map_err(|e| Error::damaged(&stored.key, e))?;
            match scan.end {
                SegmentEnd::Stopped(reason) => {
                    let problem = format!("its records stop at {}: {reason}", scan.valid_up_to);
                    Err(Error::damaged(&stored.key, problem))
                }
                _ => Ok(()),
            }
        });
        checked
            .or_else(|error| findings.take(format_args!("tail of WAL segment {}", segment.file_name(size)), error))?;
    }
    Ok(())
}

/// The segments from a backup's start to its stop must be there, in place of the last a tail that reaches as far; further
/// on a gap ends what can be restored.
fn check_range(
    archive: &WalArchive,
    inventory: &WalInventory,
    manifest: &BackupManifest,
    size: WalSegmentSize,
    findings: &Findings<'_>,
) -> Result<()> {
    let object = format!("backup {}", manifest.id);
    let history = match archive.history(manifest.timeline) {
        Ok(Some(history)) => history,
        Ok(None) => {
            let file = WalFileName::History(manifest.timeline);
            findings.damage(&object, format_args!("history file {file} is missing"));
            TimelineHistory::without_ancestors(manifest.timeline)
        }
        // Reported where histories are checked.
        Err(_) => TimelineHistory::without_ancestors(manifest.timeline),
    };
    let (first, last) = (size.segment_at(manifest.start_lsn), size.segment_before(manifest.stop_lsn));
    let is_reached = |segment: &WalSegment| {
        let tail = inventory.tails.get(segment).filter(|_| segment.number == last);
        tail.is_some_and(|tail| tail.rivals.is_empty() && tail.end >= manifest.stop_lsn)
    };
    let missing = inventory.first_missing(&history, first, last, size);
    if let Some(missing) = missing.filter(|missing| !is_reached(missing)) {
        findings.damage(&object, format_args!("its WAL segment {} is missing", missing.file_name(size)));
        return Ok(());
    }
    // A tail needs the segments before it.
    let whole = inventory.segments.keys().map(|segment| (segment.timeline, segment.number));
    let tails = inventory.tails.keys().map(|segment| (segment.timeline, segment.number.get().saturating_sub(1)));
    let tails = tails.map(|(timeline, number)| (timeline, SegmentNumber::new(number)));
    let of_timeline = whole.chain(tails).filter(|(timeline, _)| *timeline == manifest.timeline);
    let newest = of_timeline.map(|(_, number)| number).max();
    if let Some(gap) = newest.and_then(|newest| inventory.first_missing(&history, last, newest, size)) {
        let text = format!("after backup {} WAL segment {} is missing", manifest.id, gap.file_name(size));
        findings.report.lock().notes.push(text);
    }
    Ok(())
}

fn check_segments(
    archive: &WalArchive,
    segments: &[WalSegment],
    size: WalSegmentSize,
    options: &VerifyOptions,
    findings: &Findings<'_>,
) -> Result<()> {
    findings.report.lock().segments = segments.len() as u64;
    for_each(segments, options.jobs, |segment| {
        let checked = check_segment(archive, *segment, size, options, findings);
        checked.or_else(|error| findings.take(format_args!("WAL segment {}", segment.file_name(size)), error))
    })
}

fn check_segment(
    archive: &WalArchive,
    segment: WalSegment,
    size: WalSegmentSize,
    options: &VerifyOptions,
    findings: &Findings<'_>,
) -> Result<()> {
    let name = segment.file_name(size);
    archive.summary(segment, size)?;
    if options.sample.has(name.as_bytes()) {
        let file: WalFileName = name.parse().map_err(|e| Error::Invalid(format!("{e}")))?;
        let bytes = archive.fetch(&file)?.ok_or_else(|| Error::not_found(format_args!("WAL segment {name}")))?;
        findings.read(bytes.len() as u64);
        if bytes.len() != size.bytes() as usize {
            findings
                .damage(format_args!("WAL segment {name}"), format_args!("{} bytes of {}", bytes.len(), size.bytes()));
        }
    }
    Ok(())
}
