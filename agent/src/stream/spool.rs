//! The spool: streamed WAL that is not in the repository yet, one file for each segment, below the state directory.
//!
//! | name | holds |
//! |---|---|
//! | `<segment>.partial` | the open segment; as long as a segment, its bytes behind what was received mean nothing |
//! | `<segment>` | a complete segment, durable |
//! | `spare-<segment>` | an archived segment's file, to be written again: its blocks are allocated |
//! | `diverged-<segment>-<lsn>` | what the server had sent before it sent something else; for people to look at |
//! | `unsynced-<segment>-<lsn>` | what could not be made durable, and was received again; likewise |
//! | `damaged-<segment>-<lsn>` | a complete segment whose records do not fit; likewise |
//! | `foreign-<segment>-<lsn>` | a complete segment of another cluster or major version; likewise |

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkeep_chunkstore::storage::files;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};

use super::open_segment::OpenSegment;

const PARTIAL: &str = ".partial";
const SPARE: &str = "spare-";
/// Zeros written at once into a new file.
const BLOCK: usize = 1 << 20;

/// A file of the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// The segment it holds.
    pub segment: WalSegment,
    /// Whether it holds all of it.
    pub complete: bool,
    /// Where it is.
    pub path: PathBuf,
}

/// Why a file is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aside {
    /// The server does not stand by it any more.
    Diverged,
    /// It could not be made durable.
    Unsynced,
    /// It is complete, and its records do not fit.
    Damaged,
    /// It is of another cluster or major version.
    Foreign,
}

impl Aside {
    /// What its file's name begins with.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Diverged => "diverged",
            Self::Unsynced => "unsynced",
            Self::Damaged => "damaged",
            Self::Foreign => "foreign",
        }
    }
}

/// The spool of one cluster.
#[derive(Clone, Debug)]
pub struct Spool {
    directory: PathBuf,
    size: WalSegmentSize,
}

impl Spool {
    /// The spool in `directory`, which is created if need be.
    pub fn open(directory: PathBuf, size: WalSegmentSize) -> Result<Self> {
        let creating = || format!("unable to create '{}'", directory.display());
        // WAL holds all that the tables hold: nobody else reads it, whatever the umask.
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&directory).with_context(creating)?;
        // A file is durable only where its directory is: `<state>/stream/<cluster>` may all be new.
        for created in directory.ancestors().take(3) {
            files::sync_directory(created).with_context(creating)?;
        }
        Ok(Self { directory, size })
    }

    /// Bytes per segment.
    pub const fn size(&self) -> WalSegmentSize {
        self.size
    }

    /// The segments that it holds, in the order in which their WAL was written.
    pub fn contents(&self) -> Result<Vec<Spooled>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let (stem, complete) = match name.strip_suffix(PARTIAL) {
                Some(stem) => (stem, false),
                None => (name.as_str(), true),
            };
            if let Some(segment) = WalSegment::from_file_name(stem, self.size) {
                found.push(Spooled { segment, complete, path: self.directory.join(&name) });
            }
        }
        found.sort_by_key(|spooled| (spooled.segment.number, spooled.segment.timeline));
        Ok(found)
    }

    fn names(&self) -> Result<Vec<String>> {
        let reading = || format!("unable to read '{}'", self.directory.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory).with_context(reading)? {
            names.extend(entry.with_context(reading)?.file_name().into_string());
        }
        Ok(names)
    }

    /// The segment's open file, as it was left or new.
    pub fn begin(&self, segment: WalSegment) -> Result<OpenSegment> {
        let path = self.path(segment, PARTIAL);
        if !path.exists() {
            match self.spare_for(segment)? {
                Some(spare) => self.rename(&spare, &path)?,
                None => self.create(&path)?,
            }
        }
        OpenSegment::open(path, segment, self.size)
    }

    /// Gives a complete, durable segment its name.
    pub fn complete(&self, open: OpenSegment) -> Result<Spooled> {
        let (segment, from) = (open.segment(), open.path().to_owned());
        drop(open);
        let path = self.path(segment, "");
        self.rename(&from, &path)?;
        Ok(Spooled { segment, complete: true, path })
    }

    /// Lets go of an archived segment; one file is kept to be written again.
    pub fn release(&self, spooled: &Spooled) -> Result<()> {
        if self.names()?.iter().any(|name| name.starts_with(SPARE)) {
            return self.remove(&spooled.path);
        }
        self.rename(&spooled.path, &self.directory.join(format!("{SPARE}{}", spooled.segment.file_name(self.size))))
    }

    /// Puts a file aside that is not to be continued.
    pub fn set_aside(&self, spooled: &Spooled, why: Aside, at: Lsn) -> Result<PathBuf> {
        let name = format!("{}-{}-{:016x}", why.word(), spooled.segment.file_name(self.size), at.as_u64());
        let path = self.directory.join(name);
        self.rename(&spooled.path, &path)?;
        Ok(path)
    }

    /// Removes a file: nobody needs it, or its bytes cannot be trusted.
    pub fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).with_context(|| format!("unable to remove '{}'", path.display()))
    }

    fn path(&self, segment: WalSegment, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}{suffix}", segment.file_name(self.size)))
    }

    /// A spare file whose old content cannot be taken for the segment's: its pages lie before it in the WAL.
    fn spare_for(&self, segment: WalSegment) -> Result<Option<PathBuf>> {
        let earlier = |name: &String| {
            let old = name.strip_prefix(SPARE).and_then(|old| WalSegment::from_file_name(old, self.size));
            old.is_some_and(|old| old.number < segment.number)
        };
        Ok(self.names()?.iter().find(|name| earlier(name)).map(|name| self.directory.join(name)))
    }

    /// A file of zeros: later writes change no metadata, so that making them durable is one write.
    fn create(&self, path: &Path) -> Result<()> {
        let creating = || format!("unable to create '{}'", path.display());
        let temporary = self.directory.join("new.tmp");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o640);
        let mut file = options.open(&temporary).with_context(creating)?;
        let (zeros, mut left) = (vec![0; BLOCK], self.size.bytes() as usize);
        while left > 0 {
            file.write_all(&zeros[..left.min(BLOCK)]).with_context(creating)?;
            left = left.saturating_sub(BLOCK);
        }
        file.sync_all().with_context(creating)?;
        self.rename(&temporary, path)
    }

    /// Durable on return.
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        files::rename(from, to).with_context(|| format!("unable to give '{}' its name", to.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walkeep_proto::segment::SegmentNumber;
    use walkeep_proto::timeline::TimelineId;

    fn segment(number: u64) -> WalSegment {
        WalSegment { timeline: TimelineId::FIRST, number: SegmentNumber::new(number) }
    }

    fn spool() -> (tempfile::TempDir, Spool) {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path().join("stream/main"), WalSegmentSize::new(1 << 20).unwrap()).unwrap();
        (directory, spool)
    }

    #[test]
    fn segments_open_complete_and_go() {
        let (_directory, spool) = spool();
        let mut open = spool.begin(segment(3)).unwrap();
        open.write(0, &[7; 100]).unwrap();
        open.sync().unwrap();
        assert!(!spool.contents().unwrap()[0].complete);
        let complete = spool.complete(open).unwrap();
        spool.begin(segment(4)).unwrap();
        let names: Vec<_> = spool.contents().unwrap().iter().map(|s| (s.segment.number.get(), s.complete)).collect();
        assert_eq!(names, [(3, true), (4, false)]);
        spool.release(&complete).unwrap();
        assert_eq!(spool.contents().unwrap().len(), 1);
    }

    #[test]
    fn a_spare_file_serves_only_later_segments() {
        let (_directory, spool) = spool();
        let mut open = spool.begin(segment(3)).unwrap();
        open.write(0, &[7; 100]).unwrap();
        let complete = spool.complete(open).unwrap();
        spool.release(&complete).unwrap();
        // The same segment once more, maybe of another timeline: old pages would look like its own.
        assert_eq!(spool.begin(segment(3)).unwrap().read(0, 100).unwrap(), [0; 100]);
        assert_eq!(spool.begin(segment(4)).unwrap().read(0, 100).unwrap(), [7; 100]);
        assert_eq!(spool.begin(segment(5)).unwrap().read(0, 100).unwrap(), [0; 100]);
    }

    #[test]
    fn nobody_else_reads_what_was_received() {
        use std::os::unix::fs::PermissionsExt;
        let (directory, spool) = spool();
        let path = spool.begin(segment(3)).unwrap().path().to_owned();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path) & 0o137, 0, "{:o}", mode(&path));
        for created in ["stream", "stream/main"] {
            assert_eq!(mode(&directory.path().join(created)) & 0o027, 0);
        }
    }
}
