//! A server that summarises WAL (17 and later) sends only the blocks that have changed since an earlier backup.
//!
//! Everything that did not come is the earlier backup's, so that what the server leaves out must be what has not changed:
//!
//! - Offered to the server, and so sent in part, are the main forks that the earlier backup has whole and undamaged.
//!   Everything else comes whole, visibility maps too: clearing their bits is not in WAL by block.
//! - Of a relation that was truncated, the server may leave out blocks that WAL describes: it reads its summaries in no
//!   order, and the older one's truncation throws away what a younger one has named (seen with 17.10 and 18.4). Its files
//!   from the truncation on are not offered. One that is truncated while the backup begins is merged only if the truncation
//!   is in the newest summary, which nothing younger follows. Pages behind it that did not come are zero: the server names
//!   a length that is too great there, and the earlier backup's pages are from before the truncation.
//!
//! Whatever stands in the way, the server sends everything.

mod summaries;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use walkeep_chunkstore::node::{Body, FileContent, NodeRef};
use walkeep_chunkstore::repository::{BackupManifest, ClusterIdentity};
use walkeep_proto::backup_manifest::{ManifestWriter, WalRange};
use walkeep_proto::identity::{BlockNumber, ForkNumber, RelFileLocator};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::relation_file::RelationFile;
use walkeep_proto::replication::base_backup::BackupPosition;
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::version::MajorVersion;

use super::Job;
use super::parent::ParentIndex;
use super::replication::{Server, on_connection};
use crate::postgres::Session;
use crate::postgres::conninfo::Conninfo;
use summaries::{Piece, Summary, Truncation};

/// Why the server sends everything.
#[derive(Debug, thiserror::Error)]
enum Obstacle {
    #[error("summarize_wal is off")]
    Off,
    #[error("[schedule] full_read_every is {} s, and {}", every.as_secs(), match last {
        Some(last) => format!("everything was read last at {last}"),
        None => "no earlier backup is known that has read everything".to_owned(),
    })]
    FullReadDue { every: Duration, last: Option<Timestamp> },
    #[error("backup {parent} is of the time when data_checksums was {was}, now it is {is}")]
    ChecksumsChanged { parent: String, was: bool, is: bool },
    #[error("backup {parent} has {total} damaged pages and names {named} of them")]
    DamageUnknown { parent: String, total: u64, named: usize },
    #[error(
        "backup {parent} ends at {stop} on timeline {timeline}, which is not in the history of the server's timeline {servers}"
    )]
    AnotherHistory { parent: String, stop: Lsn, timeline: u32, servers: u32 },
    #[error("the WAL of timeline {timeline} is not summarised from {from} to {to}")]
    NotSummarised { timeline: u32, from: Lsn, to: Lsn },
    #[error("'{0}' was truncated while the backup began")]
    Truncated(String),
}

impl Obstacle {
    /// Whether it is as the operator has arranged it.
    const fn is_arranged(&self) -> bool {
        matches!(self, Self::Off | Self::FullReadDue { .. })
    }
}

/// Says why the server sends everything.
pub(super) fn tell(why: &anyhow::Error) {
    if why.downcast_ref::<Obstacle>().is_some_and(Obstacle::is_arranged) {
        tracing::info!("the server sends everything: {why:#}");
    } else {
        tracing::warn!("the server sends everything: {why:#}");
    }
}

/// An earlier backup that a new one builds on.
pub(super) struct Base<'a> {
    parent: &'a BackupManifest,
    offer: Offer,
    history: TimelineHistory,
    /// Truncations are known up to here.
    known: Option<Summary>,
}

/// Which files the server is offered to send in part.
#[derive(Default)]
struct Offer {
    page_size: u32,
    blocks_per_segment: u32,
    damaged: HashSet<Vec<u8>>,
    truncated: HashMap<RelFileLocator, BlockNumber>,
}

/// A file of the earlier backup.
pub(super) struct OldFile<'a> {
    pub(super) relation: RelationFile,
    pub(super) length: u64,
    pub(super) crc32c: u32,
    pub(super) regions: &'a [NodeRef],
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
        let (every, last) = (job.context.config.full_read_every()?, job.read_everything);
        let age = last.and_then(|last| Duration::try_from(Timestamp::now().duration_since(last)).ok());
        ensure!(age.is_some_and(|age| age < every), Obstacle::FullReadDue { every, last });
        let (was, is) = (parent.data_checksums, server.data_checksums);
        ensure!(was == is, Obstacle::ChecksumsChanged { parent: id(), was, is });
        let (total, named) = (parent.page_error_count, parent.page_errors.len());
        ensure!(total == named as u64, Obstacle::DamageUnknown { parent: id(), total, named });

        let history = history_of_server(conninfo)?;
        let pieces = wal_since(parent, &history, Lsn::new(u64::MAX))?;
        let known = newest(&pieces, &summaries::listed(job.session)?);
        let mut offer = Offer::new(job.identity, parent);
        let truncations = summaries::truncations(job.session, &pieces, None)?;
        truncations.iter().for_each(|truncation| offer.withdraw(truncation));
        Ok(Self { parent, offer, history, known })
    }

    /// The manifest that tells the server what it need not send.
    pub(super) fn manifest(&self, parents: &ParentIndex) -> Result<Vec<u8>> {
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
        ensure!(
            history.timeline() == start.timeline,
            "the server went from timeline {} to {} as the backup began",
            history.timeline(),
            start.timeline
        );
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
        Ok(Merger { offer, limits })
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

impl Offer {
    fn new(identity: &ClusterIdentity, parent: &BackupManifest) -> Self {
        Self {
            page_size: identity.page_size,
            blocks_per_segment: identity.pages_per_segment,
            damaged: parent.page_errors.iter().map(|error| error.path.clone().into_bytes()).collect(),
            truncated: HashMap::new(),
        }
    }

    fn withdraw(&mut self, truncation: &Truncation) {
        let block = self.truncated.entry(truncation.relation).or_insert(truncation.block);
        *block = truncation.block.min(*block);
    }

    /// Whether a file holds blocks from this one on.
    fn reaches(&self, file: &RelationFile, block: BlockNumber) -> bool {
        file.first_block(self.blocks_per_segment)
            .is_none_or(|first| first.saturating_add(self.blocks_per_segment) > block)
    }

    /// A file of the earlier backup that may come in part.
    fn file<'a>(&self, path: &[u8], content: &'a FileContent) -> Option<OldFile<'a>> {
        let FileContent::File { length, crc32c, body: Body::Pages, regions } = content else { return None };
        let relation = RelationFile::parse(str::from_utf8(path).ok()?)?;
        let longest = u64::from(self.blocks_per_segment) * u64::from(self.page_size);
        let is_offered = relation.fork == ForkNumber::Main
            && length.is_multiple_of(u64::from(self.page_size))
            && *length <= longest
            && !self.damaged.contains(path)
            && !self.truncated.get(&relation.locator).is_some_and(|block| self.reaches(&relation, *block));
        is_offered.then_some(OldFile { relation, length: *length, crc32c: *crc32c, regions })
    }
}

/// Tells how files that came in part are completed.
#[derive(Default)]
pub(super) struct Merger {
    offer: Offer,
    /// Relations whose blocks from this one on are zero if they did not come.
    limits: HashMap<RelFileLocator, BlockNumber>,
}

impl Merger {
    /// The earlier file that one is completed with.
    pub(super) fn old_file<'a>(&self, path: &[u8], parents: &'a ParentIndex) -> Result<OldFile<'a>> {
        let old = parents.find(path).and_then(|content| self.offer.file(path, content));
        old.with_context(|| {
            format!("the server sends '{}' in part, which it was not offered", String::from_utf8_lossy(path))
        })
    }

    /// Blocks of the file, from its beginning, that are the earlier file's if they did not come.
    pub(super) fn kept(&self, file: &RelationFile) -> BlockNumber {
        let Some(limit) = self.limits.get(&file.locator) else { return BlockNumber::MAX };
        limit.saturating_sub(file.first_block(self.offer.blocks_per_segment).unwrap_or(BlockNumber::MAX))
    }

    /// Pages of a whole file.
    pub(super) const fn blocks_per_segment(&self) -> u32 {
        self.offer.blocks_per_segment
    }

    /// Bytes of a page.
    pub(super) const fn page_size(&self) -> u32 {
        self.offer.page_size
    }
}

#[cfg(test)]
mod tests {
    use walkeep_proto::timeline::TimelineId;

    use super::*;

    const RELATION: RelFileLocator = RelFileLocator { tablespace: 1663, database: 5, relation: 16_384 };

    fn offer() -> Offer {
        Offer { page_size: 8192, blocks_per_segment: 1000, ..Offer::default() }
    }

    fn file(pages: u64, body: Body) -> FileContent {
        FileContent::File { length: pages * 8192, crc32c: 7, body, regions: Vec::new() }
    }

    fn truncation(block: BlockNumber) -> Truncation {
        let piece = Piece { timeline: TimelineId::FIRST, from: Lsn::new(0), to: Lsn::new(9) };
        Truncation { relation: RELATION, block, summary: piece.as_summary() }
    }

    #[test]
    fn whole_undamaged_main_forks_are_offered() {
        let whole = file(3, Body::Pages);
        let mut offer = offer();
        offer.damaged.insert(b"base/5/16386".to_vec());
        assert_eq!(offer.file(b"base/5/16384", &whole).unwrap().length, 3 * 8192);
        assert!(offer.file(b"pg_tblspc/9/PG_17_202406281/5/16384.2", &file(1000, Body::Pages)).is_some());
        for (path, content) in [
            (&b"base/5/16384_vm"[..], whole.clone()),
            (b"base/5/16384_fsm", whole.clone()),
            (b"base/5/16384_init", whole.clone()),
            (b"base/5/16386", whole.clone()),
            (b"base/5/16384", file(3, Body::Bytes)),
            (b"base/5/16384", file(1001, Body::Pages)),
            (b"base/5/16384", FileContent::File { length: 8193, crc32c: 7, body: Body::Pages, regions: Vec::new() }),
            (b"base/5/16384", FileContent::Directory),
            (b"pg_xact/0000", whole.clone()),
            (b"base/5/\xFF", whole),
        ] {
            assert!(offer.file(path, &content).is_none(), "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn nothing_is_offered_from_a_truncation_on() {
        let mut offer = offer();
        offer.withdraw(&truncation(2500));
        offer.withdraw(&truncation(1500));
        offer.withdraw(&truncation(1800));
        let whole = file(1000, Body::Pages);
        let is_offered = |path: &str| offer.file(path.as_bytes(), &whole).is_some();
        assert!(is_offered("base/5/16384") && is_offered("base/5/16385.1") && is_offered("base/6/16384.1"));
        assert!(!is_offered("base/5/16384.1") && !is_offered("base/5/16384.2"));
    }

    #[test]
    fn pages_behind_a_late_truncation_are_not_the_earlier_ones() {
        let merger = Merger { offer: offer(), limits: HashMap::from([(RELATION, 1500)]) };
        let kept = |path: &str| merger.kept(&RelationFile::parse(path).unwrap());
        assert_eq!(kept("base/5/16384"), 1500);
        assert_eq!(kept("base/5/16384.1"), 500);
        assert_eq!(kept("base/5/16384.2"), 0);
        assert_eq!(kept("base/5/16385.2"), BlockNumber::MAX);
    }
}
