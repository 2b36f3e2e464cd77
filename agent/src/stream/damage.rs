//! Whether a complete segment that was not stored is itself to blame: then trying again is of no use.
//!
//! Only its bytes count, read and judged once more. A repository that cannot be reached, and a disk that cannot be read,
//! say nothing about them.

use std::fmt;
use std::io;
use std::path::Path;

use walkeep_chunkstore::Error;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::wal::segment_scan::SegmentEnd;
use walkeep_proto::wal::{ScanContext, WalError, scan_segment};

use super::spool::Aside;

/// Why a segment will never be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its records do not fit: the disk, or the server's own WAL.
    Damaged(String),
    /// It is of another cluster or major version, for which the repository's name stood before.
    Foreign(String),
}

impl Fault {
    /// Whether WAL of this cluster is missing without it.
    pub(super) const fn is_of_this_cluster(&self) -> bool {
        matches!(self, Self::Damaged(_))
    }

    pub(super) const fn aside(&self) -> Aside {
        match self {
            Self::Damaged(_) => Aside::Damaged,
            Self::Foreign(_) => Aside::Foreign,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Damaged(problem) | Self::Foreign(problem)) = self;
        f.write_str(problem)
    }
}

/// What is wrong with the segment in the file at `path`, of which storing failed by `error`; `None` when that has other
/// reasons.
pub(super) fn fault_behind(
    error: &anyhow::Error,
    path: &Path,
    segment: WalSegment,
    identity: &ClusterIdentity,
) -> Option<Fault> {
    // The segment proves itself before the repository is asked: what the repository says is not about its bytes.
    if error.chain().any(|cause| cause.is::<Error>() || cause.is::<io::Error>()) {
        return None;
    }
    examine(&std::fs::read(path).ok()?, segment, identity)
}

fn examine(bytes: &[u8], segment: WalSegment, identity: &ClusterIdentity) -> Option<Fault> {
    let size = identity.wal_segment_size;
    if bytes.len() != size.bytes() as usize {
        return Some(Fault::Damaged(format!("its file is {} bytes long, not {}", bytes.len(), size.bytes())));
    }
    let context = ScanContext { segment, segment_size: size, system_identifier: Some(identity.system_identifier) };
    match scan_segment(bytes, &context) {
        Ok(scan) if scan.header.version != identity.major => Some(Fault::Foreign(format!(
            "it was written by PostgreSQL {}, the repository holds a cluster of PostgreSQL {}",
            scan.header.version, identity.major
        ))),
        Ok(scan) => match scan.end {
            SegmentEnd::Stopped(reason) => {
                Some(Fault::Damaged(format!("its records end at {}, before its end: {reason}", scan.valid_up_to)))
            }
            SegmentEnd::Full | SegmentEnd::Switch | SegmentEnd::Short => None,
        },
        Err(error @ WalError::Foreign { .. }) => Some(Fault::Foreign(error.to_string())),
        Err(error) => Some(Fault::Damaged(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use walkeep_proto::identity::SystemIdentifier;
    use walkeep_proto::segment::{SegmentNumber, WalSegmentSize};
    use walkeep_proto::timeline::TimelineId;
    use walkeep_proto::version::MajorVersion;

    use super::*;

    #[test]
    fn only_bytes_are_to_blame() {
        let identity = ClusterIdentity {
            system_identifier: SystemIdentifier::new(7),
            major: MajorVersion::V17,
            page_size: 8192,
            pages_per_segment: 131_072,
            wal_segment_size: WalSegmentSize::new(1 << 20).unwrap(),
            registered: jiff::Timestamp::UNIX_EPOCH,
        };
        let segment = WalSegment { timeline: TimelineId::FIRST, number: SegmentNumber::new(3) };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("000000010000000000000003");
        let judged = |error: anyhow::Error| fault_behind(&error.context("unable to store"), &path, segment, &identity);
        let refused = || anyhow::anyhow!("its records end");
        assert_eq!(judged(refused()), None, "a file that cannot be read says nothing");
        std::fs::write(&path, vec![0x55; 1 << 20]).unwrap();
        assert!(matches!(judged(refused()), Some(Fault::Damaged(_))));
        std::fs::write(&path, b"short").unwrap();
        let problem = judged(refused()).unwrap().to_string();
        assert_eq!(problem, "its file is 5 bytes long, not 1048576");
        // The same bytes, and something else that stands in the way of storing them.
        let unreadable = Err::<(), _>(io::Error::other("EIO")).context("unable to read").unwrap_err();
        assert_eq!(judged(unreadable), None);
        assert_eq!(judged(Error::damaged("index/1", "another hash").into()), None, "the repository's own damage");
    }
}
