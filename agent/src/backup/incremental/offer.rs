//! Which files may come in part, and how they are completed.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, anyhow};
use walkeep_chunkstore::node::{Body, FileContent, NodeRef};
use walkeep_chunkstore::repository::{BackupManifest, ClusterIdentity};
use walkeep_proto::identity::{BlockNumber, ForkNumber, RelFileLocator};
use walkeep_proto::incremental_file::relation_path;
use walkeep_proto::relation_file::RelationFile;

use super::NotIncremental;
use super::summaries::Truncation;
use crate::backup::parent::ParentIndex;

/// The relation file that an incremental file stands for; `None` for any other file, whatever its name.
pub fn partial_of(path: &[u8]) -> Option<Vec<u8>> {
    let path = relation_path(path)?;
    let relation = RelationFile::parse(str::from_utf8(&path).ok()?)?;
    (relation.fork == ForkNumber::Main).then_some(path)
}

/// Which files the server is offered to send in part.
#[derive(Default)]
pub(super) struct Offer {
    page_size: u32,
    blocks_per_segment: u32,
    damaged: HashSet<Vec<u8>>,
    truncated: HashMap<RelFileLocator, BlockNumber>,
}

/// A file of the earlier backup.
pub struct OldFile<'a> {
    /// What it is.
    pub relation: RelationFile,
    /// Bytes.
    pub length: u64,
    /// Of its content.
    pub crc32c: u32,
    /// Its maps.
    pub regions: &'a [NodeRef],
}

impl Offer {
    pub(super) fn new(identity: &ClusterIdentity, parent: &BackupManifest) -> Self {
        Self {
            page_size: identity.page_size,
            blocks_per_segment: identity.pages_per_segment,
            damaged: parent.page_errors.iter().map(|error| error.path.clone().into_bytes()).collect(),
            truncated: HashMap::new(),
        }
    }

    pub(super) fn withdraw(&mut self, truncation: &Truncation) {
        let block = self.truncated.entry(truncation.relation).or_insert(truncation.block);
        *block = truncation.block.min(*block);
    }

    /// Whether a file holds blocks from this one on.
    pub(super) fn reaches(&self, file: &RelationFile, block: BlockNumber) -> bool {
        file.first_block(self.blocks_per_segment)
            .is_none_or(|first| first.saturating_add(self.blocks_per_segment) > block)
    }

    /// A file of the earlier backup that may come in part.
    pub(super) fn file<'a>(&self, path: &[u8], content: &'a FileContent) -> Option<OldFile<'a>> {
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
pub struct Merger {
    offer: Offer,
    /// Relations whose blocks from this one on are zero if they did not come.
    limits: HashMap<RelFileLocator, BlockNumber>,
}

impl Merger {
    pub(super) const fn new(offer: Offer, limits: HashMap<RelFileLocator, BlockNumber>) -> Self {
        Self { offer, limits }
    }

    /// The earlier file that one is completed with.
    pub fn old_file<'a>(&self, path: &[u8], parents: &'a ParentIndex) -> Result<OldFile<'a>> {
        let old = parents.find(path).and_then(|content| self.offer.file(path, content));
        let name = || String::from_utf8_lossy(path).into_owned();
        old.ok_or_else(|| {
            NotIncremental::of(anyhow!("the server sends '{}' in part, which it was not offered", name())).into()
        })
    }

    /// Blocks of the file, from its beginning, that are the earlier file's if they did not come.
    pub fn kept(&self, file: &RelationFile) -> BlockNumber {
        let Some(limit) = self.limits.get(&file.locator) else { return BlockNumber::MAX };
        limit.saturating_sub(file.first_block(self.offer.blocks_per_segment).unwrap_or(BlockNumber::MAX))
    }

    /// Pages of a whole file.
    pub const fn blocks_per_segment(&self) -> u32 {
        self.offer.blocks_per_segment
    }

    /// Bytes of a page.
    pub const fn page_size(&self) -> u32 {
        self.offer.page_size
    }
}

#[cfg(test)]
mod tests {
    use walkeep_proto::lsn::Lsn;
    use walkeep_proto::timeline::TimelineId;

    use super::super::summaries::Piece;
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
    fn only_main_forks_come_in_part() {
        assert_eq!(partial_of(b"base/5/INCREMENTAL.16384.1"), Some(b"base/5/16384.1".to_vec()));
        // Somebody's incremental backup, unpacked in the data directory.
        for path in ["old/base/5/INCREMENTAL.16384", "base/5/INCREMENTAL.16384_vm", "INCREMENTAL.x", "base/5/16384"] {
            assert_eq!(partial_of(path.as_bytes()), None, "{path}");
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
