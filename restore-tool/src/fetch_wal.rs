//! `fetch-wal`: what PostgreSQL runs as `restore_command`.
//!
//! PostgreSQL takes an exit code of 1 to 125 for "the archive has no such file" and ends recovery there. So 1 is said only
//! when the archive certainly has no such file; whatever cannot be told ends with [`CANNOT_TELL`], which makes PostgreSQL
//! give up instead of promoting a shorter history. A standby asks again, and would be killed by that: it gets 1.
//!
//! Of a segment that was still being written when the server was lost there is a tail. It is delivered under the segment's
//! name with zeros behind it, as the segment itself looks while it is being written: recovery ends at its last whole record.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::wal::WalArchive;
use walkeep_chunkstore::{Error, ErrorKind};
use walkeep_proto::segment::{SegmentFileName, WalFileName};
use walkeep_proto::wal::SegmentHeader;

/// The file was delivered.
pub const DELIVERED: u8 = 0;
/// The archive has no such file.
pub const ABSENT: u8 = 1;
/// Anything else.
pub const CANNOT_TELL: u8 = 126;

/// How often a directory that does not answer is asked. The driver of a bucket has asked several times itself.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

/// A request of PostgreSQL's.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The file's name: `%f`.
    pub file: &'a str,
    /// Where it goes: `%p`, relative to the data directory.
    pub path: &'a Path,
    /// The cluster's name; not needed if the repository holds one.
    pub cluster: Option<&'a str>,
}

/// Delivers a file, or says why not on stderr. Returns the exit code.
pub fn run(open: impl Fn() -> Result<Arc<Repository>>, request: &Request<'_>) -> u8 {
    let mut attempt = 1;
    let error = loop {
        match open().and_then(|repository| deliver(&repository, request)) {
            Ok(true) => return DELIVERED,
            Ok(false) => return ABSENT,
            Err(error) if attempt < ATTEMPTS && is_worth_another_try(&error) => {
                attempt += 1;
                std::thread::sleep(PAUSE);
            }
            Err(error) => break error,
        }
    };
    let error = error.context(format!("unable to fetch WAL file '{}'", request.file));
    let (_, hints) = crate::failure::exit_and_hints(&error);
    walkeep_chunkstore::console::report(error.as_ref(), &hints);
    let is_segment = matches!(request.file.parse(), Ok(WalFileName::Segment(_)));
    if is_segment && Path::new("standby.signal").exists() { ABSENT } else { CANNOT_TELL }
}

fn is_worth_another_try(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    causes.any(|error| error.kind() == ErrorKind::Unreachable && !matches!(error, Error::Bucket { .. }))
}

/// Whether the archive has the file, which then stands at its place.
fn deliver(repository: &Arc<Repository>, request: &Request<'_>) -> Result<bool> {
    let file: WalFileName = request.file.parse()?;
    let cluster = match request.cluster {
        Some(cluster) => cluster.to_owned(),
        None => only_cluster(repository)?,
    };
    let layout = ClusterLayout::new(&cluster)?;
    let archive = WalArchive::new(Arc::clone(repository), layout.clone());
    let Some(bytes) = archive.fetch_or_tail(&file)? else {
        // An archive that is not there at all has no file either, but that proves nothing.
        if repository.storage().list(&layout.identities())?.is_empty() {
            let cluster = format!("cluster '{cluster}' in repository '{}'", repository.location());
            return Err(Error::not_found(cluster).into());
        }
        return Ok(false);
    };
    if let WalFileName::Segment(name) = file {
        check_segment(name, &bytes)?;
    }
    put(request.path, &bytes)?;
    Ok(true)
}

fn only_cluster(repository: &Repository) -> Result<String> {
    let mut names = repository.cluster_names()?;
    match names.len() {
        1 => Ok(names.remove(0)),
        count => Err(Error::Invalid(format!("the repository holds {count} clusters: name one with --cluster")).into()),
    }
}

/// Whether the first page is that of this segment, and as many bytes are there as it says.
fn check_segment(name: SegmentFileName, bytes: &[u8]) -> Result<()> {
    let header = SegmentHeader::parse(bytes)?;
    let expected = header.segment_size.bytes() as usize;
    if bytes.len() != expected {
        let problem = format!("{} bytes long, its header says {expected}", bytes.len());
        return Err(Error::damaged("the archived segment", problem).into());
    }
    let segment = name.segment(header.segment_size);
    let segment = segment.with_context(|| format!("no segment of {expected} bytes has that name"))?;
    Ok(header.check_name(segment)?)
}

/// Gives the file its name only when it is whole.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().with_context(|| format!("'{}' names no file", path.display()))?;
    // PostgreSQL looks at names of segments in pg_wal; this is none.
    let temporary = path.with_file_name(format!(".walkeep-{}.tmp", name.to_string_lossy()));
    let written = File::create(&temporary).and_then(|mut file| file.write_all(bytes));
    let written = written.and_then(|()| Ok(rustix::fs::rename(&temporary, path)?));
    written
        .inspect_err(|_| drop(std::fs::remove_file(&temporary)))
        .with_context(|| format!("unable to write '{}'", path.display()))
}
