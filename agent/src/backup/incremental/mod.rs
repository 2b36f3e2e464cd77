//! A server that summarises WAL (17 and later) sends only the blocks that have changed since an earlier backup.
//!
//! Everything that did not come is the earlier backup's, so that what the server leaves out must be what has not changed:
//!
//! - Offered to the server, and so sent in part, are the main forks that the earlier backup has whole and undamaged.
//!   Everything else comes whole, visibility maps too: clearing their bits is not in WAL by block.
//! - Of a relation that was truncated, the server may leave out blocks that WAL describes: it reads its summaries newest
//!   timeline first, inside a timeline in the directory's order, and an older truncation that is read later throws away what
//!   a younger summary has named (`PrepareForIncrementalBackup`, `BlockRefTableSetLimitBlock`; seen with 17.10 and 18.4). Its files
//!   from the truncation on are not offered. One that is truncated while the backup begins is merged only if the truncation
//!   is in the newest summary, which nothing younger follows. Pages behind it that did not come are zero: the server names
//!   a length that is too great there, and the earlier backup's pages are from before the truncation.
//!
//! Whatever stands in the way, the server sends everything.

mod obstacle;
mod offer;
mod summaries;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use walkeep_chunkstore::repository::{BackupManifest, PageError};
use walkeep_proto::backup_manifest::{ManifestWriter, WalRange};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::relation_file::RelationFile;
use walkeep_proto::replication::base_backup::BackupPosition;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::version::MajorVersion;

use super::Job;
use super::parent::ParentIndex;
use super::replication::{Server, on_connection};
use crate::postgres::Session;
use crate::postgres::conninfo::Conninfo;
use obstacle::Obstacle;
use offer::Offer;
use summaries::{Piece, Summary, Truncation};

pub use obstacle::{NotIncremental, tell};
pub use offer::{Merger, OldFile, partial_of};

/// `sendFile` counts bytes of a block's place in 32 bits.
const LONGEST_SEGMENT: u64 = 1 << 32;

/// An earlier backup that a new one builds on.
pub(super) struct Base<'a> {
    parent: &'a BackupManifest,
    offer: Offer,
    history: TimelineHistory,
    /// Truncations are known up to here.
    known: Option<Summary>,
}

impl<'a> Base<'a> {
    /// What the backup can build on; none where the server sends everything, which is said unless it is older than 17 or
    /// there is no earlier backup.
    pub(super) fn choose(job: &Job<'a>, server: &Server, conninfo: &Conninfo) -> Option<Self> {
        if server.major < MajorVersion::V17 {
            return None;
        }
        let parent = job.parent?;
        Self::of(parent, job, server, conninfo).inspect_err(tell).ok()
    }

    fn of(parent: &'a BackupManifest, job: &Job<'a>, server: &Server, conninfo: &Conninfo) -> Result<Self> {
        let id = || parent.id.to_string();
        ensure!(job.session.value("SELECT current_setting('summarize_wal')")? == "on", Obstacle::Off);
        let (every, last) = (job.full_read_every, job.read_everything);
        let age = last.and_then(|last| Duration::try_from(Timestamp::now().duration_since(last)).ok());
        ensure!(age.is_some_and(|age| age < every), Obstacle::FullReadDue { every, last });
        let (was, is) = (parent.data_checksums, server.data_checksums);
        ensure!(was == is, Obstacle::ChecksumsChanged { parent: id(), was, is });
        let total = parent.page_error_count;
        let is_file = |error: &&PageError| RelationFile::parse(&error.path).is_some();
        let named = parent.page_errors.iter().filter(is_file).count();
        ensure!(total == named as u64, Obstacle::DamageUnknown { parent: id(), total, named });
        let (pages, page_size) = (job.identity.pages_per_segment, job.identity.page_size);
        let is_short = u64::from(pages) * u64::from(page_size) <= LONGEST_SEGMENT;
        ensure!(is_short, Obstacle::LongSegments { pages, page_size });

        let history = history_of_server(conninfo)?;
        let pieces = wal_since(parent, &history, Lsn::new(u64::MAX))?;
        check_one_past(job, &pieces)?;
        let known = newest(&pieces, &summaries::listed(job.session)?);
        let mut offer = Offer::new(job.identity, parent);
        let truncations = summaries::truncations(job.session, &pieces, None)?;
        truncations.iter().for_each(|truncation| offer.withdraw(truncation));
        Ok(Self { parent, offer, history, known })
    }

    /// The manifest that tells the server what it need not send.
    pub(super) fn manifest(&self, parents: &ParentIndex) -> Result<Vec<u8>> {
        ensure!(parents.is_whole(), Obstacle::Unreadable(self.parent.id.to_string()));
        let (major, system_identifier) = (self.parent.major, self.parent.system_identifier);
        let mut manifest = ManifestWriter::new(Vec::new(), major, system_identifier)?;
        for (path, content) in parents.iter() {
            if let Some(file) = self.offer.file(path, content) {
                // The server looks for names only.
                manifest.file(path, file.length, 0, None)?;
            }
        }
        let BackupManifest { timeline, start_lsn: start, stop_lsn: end, .. } = *self.parent;
        Ok(manifest.finish(&[WalRange { timeline, start, end }])?)
    }

    /// What merging must know, once the server has said where the backup starts: its WAL is summarised up to there.
    pub(super) fn begin(self, session: &Session, start: BackupPosition, parents: &ParentIndex) -> Result<Merger> {
        let Self { parent, offer, history, known } = self;
        // A standby's restartpoint may be from before a promotion that it has followed.
        let (server, start_timeline) = (history.timeline().get(), start.timeline.get());
        ensure!(server == start_timeline, Obstacle::OtherTimeline { start: start_timeline, server });
        let pieces = wal_since(parent, &history, start.lsn)?;
        let listed = summaries::listed(session)?;
        for piece in &pieces {
            piece.check(&listed)?;
        }
        let newest = newest(&pieces, &listed);
        let mut limits = HashMap::new();
        for truncation in summaries::truncations(session, &pieces, known.as_ref())? {
            if Some(truncation.summary) == newest {
                limits.insert(truncation.relation, truncation.block);
            } else {
                check_unoffered(&offer, &truncation, parents)?;
            }
        }
        Ok(Merger::new(offer, limits))
    }
}

/// Refuses WAL of which two contents are known. PostgreSQL cannot tell a data directory that was put back to an earlier state,
/// or a second server that was promoted at the same place, from the one that the earlier backup is of.
fn check_one_past(job: &Job<'_>, pieces: &[Piece]) -> Result<()> {
    let size = job.identity.wal_segment_size;
    let is_ours = |segment: &WalSegment| {
        pieces.iter().any(|piece| piece.timeline == segment.timeline && segment.number >= size.segment_at(piece.from))
    };
    match job.archive.inventory(size)?.disputed(size).find(is_ours) {
        Some(segment) => Err(Obstacle::TwoPasts { segment: segment.file_name(size) }.into()),
        None => Ok(()),
    }
}

/// The summary that no other follows.
fn newest(pieces: &[Piece], listed: &[Summary]) -> Option<Summary> {
    let last = pieces.last()?;
    listed.iter().filter(|summary| last.covers(summary)).max().copied()
}

/// Refuses a truncation of files that the server may have sent in part.
fn check_unoffered(offer: &Offer, truncation: &Truncation, parents: &ParentIndex) -> Result<()> {
    let is_touched = |file: &OldFile<'_>| {
        file.relation.locator == truncation.relation && offer.reaches(&file.relation, truncation.block)
    };
    let touched =
        parents.iter().find(|(path, content)| offer.file(path, content).is_some_and(|file| is_touched(&file)));
    match touched {
        Some((path, _)) => Err(Obstacle::Truncated(String::from_utf8_lossy(path).into_owned()).into()),
        None => Ok(()),
    }
}

/// Where the server's timeline comes from.
fn history_of_server(conninfo: &Conninfo) -> Result<TimelineHistory> {
    on_connection(conninfo, async |connection| {
        let timeline = connection.identify_system().await?.timeline;
        match connection.timeline_history(timeline).await? {
            Some(file) => Ok(TimelineHistory::parse(timeline, &file.content)?),
            None => Ok(TimelineHistory::without_ancestors(timeline)),
        }
    })
}

/// The WAL from the earlier backup's start to `end`, timeline by timeline.
fn wal_since(parent: &BackupManifest, history: &TimelineHistory, end: Lsn) -> Result<Vec<Piece>> {
    let stranger = || Obstacle::AnotherHistory {
        parent: parent.id.to_string(),
        stop: parent.stop_lsn,
        timeline: parent.timeline.get(),
        servers: history.timeline().get(),
    };
    let of_parent = Piece { timeline: parent.timeline, from: parent.start_lsn, to: parent.stop_lsn };
    Ok(of_parent.until(end, history).ok_or_else(stranger)?)
}
