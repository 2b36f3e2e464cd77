//! The way of recovery along one timeline's history, and how far the archive carries it.

use std::sync::Arc;

use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::wal::SegmentScan;

use super::source::WalSource;
use crate::error::{Error, Result};
use crate::repository::BackupManifest;
use crate::wal::{StoredSegment, WalInventory, segment_on};

/// The segments that recovery reads on its way to one timeline.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    /// The timeline's past.
    pub history: &'a TimelineHistory,
    /// The archived segments.
    pub inventory: &'a WalInventory,
    /// Bytes per segment.
    pub size: WalSegmentSize,
    /// The cluster; segments of another one end the route.
    pub system_identifier: SystemIdentifier,
    /// Where segments are read.
    pub source: &'a dyn WalSource,
}

/// Unbroken WAL on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its first segment.
    pub first: SegmentNumber,
    /// Its last segment.
    pub last: SegmentNumber,
    /// Where its records end: behind the last one that is whole.
    pub end: Lsn,
    /// What stands behind it.
    pub ends_by: RunEnd,
}

/// What stands behind a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// Nothing: it is the newest WAL of the route.
    Newest,
    /// A segment is missing although later ones are there.
    Gap {
        /// The missing segment.
        missing: WalSegment,
        /// The next one that is there.
        resumes: WalSegment,
    },
    /// The archive holds two contents of the next segment.
    Disputed(WalSegment),
    /// WAL of another cluster: the one after a `pg_upgrade`.
    OtherCluster(WalSegment),
    /// The last segment's records stop before its end although later segments are there.
    Broken(WalSegment),
}

impl Route<'_> {
    /// The segment of this number.
    pub fn segment(&self, number: SegmentNumber) -> WalSegment {
        segment_on(self.history, number, self.size)
    }

    /// The file name of the segment of this number.
    pub fn file_name(&self, number: SegmentNumber) -> String {
        self.segment(number).file_name(self.size)
    }

    pub(super) fn scan(&self, number: SegmentNumber) -> Result<Arc<SegmentScan>> {
        let segment = self.segment(number);
        self.source.scan(segment, self.size, self.stored(segment)?)
    }

    pub(super) fn bytes(&self, number: SegmentNumber) -> Result<Vec<u8>> {
        let segment = self.segment(number);
        self.source.bytes(segment, self.size, self.stored(segment)?)
    }

    fn stored(&self, segment: WalSegment) -> Result<&StoredSegment> {
        let missing = || Error::not_found(format_args!("WAL segment {} in the archive", segment.file_name(self.size)));
        self.inventory.segments.get(&segment).ok_or_else(missing)
    }

    /// Whether the backup lies on this route: its timeline was not left before it was consistent.
    pub fn carries(&self, backup: &BackupManifest) -> bool {
        backup.system_identifier == self.system_identifier
            && backup.wal_segment_size == self.size
            && match self.history.end_of(backup.timeline) {
                Some(end) => end.is_none_or(|end| backup.stop_lsn <= end),
                None => false,
            }
    }

    /// The first segment that is missing between a backup's start and its stop.
    pub fn missing_for(&self, backup: &BackupManifest) -> Option<WalSegment> {
        let (first, last) = (self.size.segment_at(backup.start_lsn), self.size.segment_before(backup.stop_lsn));
        self.inventory.first_missing(self.history, first, last, self.size)
    }

    /// The unbroken WAL from the segment at `lsn` on; `None` if not even that is there.
    pub fn run_from(&self, lsn: Lsn) -> Result<Option<Run>> {
        let first = self.size.segment_at(lsn);
        let Some(held) = self.inventory.contiguous_end(self.history, first, self.size) else { return Ok(None) };
        let Some(last) = self.own_end(first, held)? else { return Ok(None) };
        let scan = self.scan(last)?;
        let end = if scan.is_complete() { scan.last_record_end.unwrap_or(scan.valid_up_to) } else { scan.valid_up_to };
        let ends_by = if last < held {
            RunEnd::OtherCluster(self.segment(last.next()))
        } else {
            self.behind(last, scan.is_complete())
        };
        Ok(Some(Run { first, last, end, ends_by }))
    }

    /// The last segment of `first..=held` that is of this cluster. After a `pg_upgrade` the new cluster's WAL carries on
    /// the old one's numbers, so names alone do not tell.
    fn own_end(&self, first: SegmentNumber, held: SegmentNumber) -> Result<Option<SegmentNumber>> {
        let is_own = |number: u64| {
            let scan = self.scan(SegmentNumber::new(number))?;
            Ok::<_, Error>(scan.header.system_identifier == self.system_identifier)
        };
        if is_own(held.get())? {
            return Ok(Some(held));
        }
        if !is_own(first.get())? {
            return Ok(None);
        }
        let (mut own, mut foreign) = (first.get(), held.get());
        while foreign - own > 1 {
            let middle = own + (foreign - own) / 2;
            if is_own(middle)? { own = middle } else { foreign = middle }
        }
        Ok(Some(SegmentNumber::new(own)))
    }

    fn behind(&self, last: SegmentNumber, complete: bool) -> RunEnd {
        let next = self.segment(last.next());
        let Some(resumes) = self.first_held_after(last) else { return RunEnd::Newest };
        if !complete {
            RunEnd::Broken(self.segment(last))
        } else if self.inventory.segments.contains_key(&next) {
            RunEnd::Disputed(next)
        } else {
            RunEnd::Gap { missing: next, resumes }
        }
    }

    /// The first segment of the route behind `number` that the archive holds.
    fn first_held_after(&self, number: SegmentNumber) -> Option<WalSegment> {
        let on_route = |segment: &WalSegment| self.segment(segment.number) == *segment;
        let later = |timeline| {
            let from = WalSegment { timeline, number: number.next() };
            let to = WalSegment { timeline, number: SegmentNumber::new(u64::MAX) };
            self.inventory.segments.range(from..=to).map(|(segment, _)| *segment).find(on_route)
        };
        self.history.timelines().filter_map(later).min_by_key(|segment| segment.number)
    }
}
