//! Tails: the beginning of a segment that is still being written, stored so that the loss of a host does not take it along.
//!
//! Every tail holds the segment from its start and stands for itself. A longer one supersedes it, and in the end the whole
//! segment does. A place drops a tail only when that very place has what supersedes it: a mirror that is behind keeps the
//! longest one it has.

mod scan;
#[cfg(test)]
mod tests;

pub(crate) use scan::{padded, scan_tail};

use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentFileName, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::wal::SegmentHeader;
use walkeep_proto::wal::page::LONG_HEADER;

use super::archive::StoredFile;
use super::object::{self, WalObject};
use super::{Pushed, WalArchive};
use crate::container::ContainerKind;
use crate::error::{Error, Result};
use crate::repository::layout::{WalObjectName, hash16};
use crate::storage::{ObjectInfo, ObjectKey, Put};

/// How often the archive is looked at while tails are superseded between the listing and the reading.
const LOOKS: u32 = 4;

/// The beginning of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// Position behind its last byte.
    pub end: Lsn,
    /// The segment from its start to `end`.
    pub bytes: Vec<u8>,
}

/// A tail in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTail {
    /// Its object.
    pub key: ObjectKey,
    /// Bytes the object takes.
    pub stored_bytes: u64,
    /// Position behind its last byte.
    pub end: Lsn,
    /// The first 16 digits of its content's hash, as the key spells them.
    pub hash: String,
    /// Further tails of other content that end at the same position: none of them is used until somebody decides.
    pub rivals: Vec<ObjectKey>,
}

impl StoredTail {
    /// The tail that a listed object is, and the segment's name.
    pub(super) fn of(info: &ObjectInfo) -> Option<(SegmentFileName, Self)> {
        let Some(WalObjectName::Tail { segment, end, hash }) = WalObjectName::parse(info.key.name()) else {
            return None;
        };
        Some((segment, Self { key: info.key.clone(), stored_bytes: info.size, end, hash, rivals: Vec::new() }))
    }

    /// The longer of two tails of one segment; the keys of the other go to `superseded`.
    pub(super) fn longer(mut self, other: Self, superseded: &mut Vec<ObjectKey>) -> Self {
        if self.end == other.end {
            self.rivals.extend(other.into_keys());
            return self;
        }
        let (longer, shorter) = if self.end > other.end { (self, other) } else { (other, self) };
        superseded.extend(shorter.into_keys());
        longer
    }

    /// Its object and those of its rivals.
    pub(super) fn into_keys(self) -> impl Iterator<Item = ObjectKey> {
        std::iter::once(self.key).chain(self.rivals)
    }

    /// The longest tail of a segment among listed objects.
    fn longest(listed: &[ObjectInfo], name: SegmentFileName) -> Option<Self> {
        let tails = listed.iter().filter_map(Self::of).filter(|(segment, _)| *segment == name).map(|(_, tail)| tail);
        tails.reduce(|longest, tail| longest.longer(tail, &mut Vec::new()))
    }

    fn check_undisputed(&self) -> Result<()> {
        self.rivals.first().map_or(Ok(()), |rival| Err(conflict(&self.key, rival)))
    }
}

impl WalArchive {
    /// Stores the beginning of a segment up to `end`: `bytes` is all of it. Durable on return, and a success however often
    /// it is pushed. Other content up to the same position is refused.
    ///
    /// A tail ends behind the segment's first page header, of [`LONG_HEADER`] bytes, and before the segment's end: a
    /// segment that has arrived whole is no tail.
    pub fn push_tail(
        &self,
        segment: WalSegment,
        size: WalSegmentSize,
        end: Lsn,
        bytes: &[u8],
        level: i32,
    ) -> Result<Pushed> {
        self.repository().config().check_writable()?;
        let name = segment_name(segment, size)?;
        let unable =
            |problem: String| Error::Invalid(format!("unable to store a tail of WAL segment {name}: {problem}"));
        check_bytes(name, size, end, bytes).map_err(unable)?;
        let prepared = object::prepare(self.repository(), ContainerKind::WalTail, bytes, level)?;
        let content = prepared.content();
        let key = self.layout().wal_tail(name, end, content.as_bytes())?;
        let at_hand = self.repository().storage().list_at_hand(&self.layout().wal_file(&WalFileName::Segment(name)))?;
        for info in &at_hand {
            match StoredTail::of(info) {
                Some((_, tail)) if tail.key == key => {
                    self.check_stored(&key, tail.stored_bytes, ContainerKind::WalTail, content)?;
                    return Ok(Pushed::AlreadyThere);
                }
                Some((_, tail)) if tail.end == end => return Err(conflict(&tail.key, &key)),
                _ => {}
            }
        }
        let finished = prepared.publish(&key, None)?;
        if finished.put == Put::Created {
            return Ok(Pushed::Stored(finished.length));
        }
        let stored =
            self.repository().storage().size(&key)?.ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        self.check_stored(&key, stored, ContainerKind::WalTail, content)?;
        Ok(Pushed::AlreadyThere)
    }

    /// Removes tails of a segment that end before `below`, or all, and says how many. Each place that the repository is kept
    /// in loses only what is superseded in that place: by the whole segment or by a longer tail. So no mirror that is
    /// behind is left without any, and calling it again later removes what stayed.
    ///
    /// Asks every mirror, so it takes as long as they do. Where nothing may be deleted it fails, and the tails do no harm.
    pub fn drop_tails(&self, segment: WalSegment, size: WalSegmentSize, below: Option<Lsn>) -> Result<u64> {
        self.repository().config().check_writable()?;
        let prefix = self.layout().wal_file(&WalFileName::Segment(segment_name(segment, size)?));
        self.repository().storage().delete_chosen(&prefix, &|listed| superseded(listed, below))
    }

    /// The longest tail of a segment, verified; `None` when the archive has none.
    pub fn tail(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Option<Tail>> {
        let name = segment_name(segment, size)?;
        let prefix = self.layout().wal_file(&WalFileName::Segment(name));
        look_again(|| {
            let listed = self.repository().storage().list(&prefix)?;
            let Some(stored) = StoredTail::longest(&listed, name) else { return Ok(None) };
            let bytes = self.read_tail(name, Some(size), &stored)?.0;
            Ok(Some(Tail { end: stored.end, bytes }))
        })
    }

    /// Where the longest tail of a segment ends, by one listing and without a look at its content; `None` when the archive
    /// has none.
    pub fn tail_end(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Option<Lsn>> {
        let name = segment_name(segment, size)?;
        let listed = self.repository().storage().list(&self.layout().wal_file(&WalFileName::Segment(name)))?;
        let Some(stored) = StoredTail::longest(&listed, name) else { return Ok(None) };
        stored.check_undisputed()?;
        Ok(Some(stored.end))
    }

    /// [`WalArchive::tail`] of one that an inventory lists, as it was listed: if it has been dropped since, what took its
    /// place begins with the same bytes.
    pub fn listed_tail(&self, segment: WalSegment, size: WalSegmentSize, listed: &StoredTail) -> Result<Vec<u8>> {
        let name = segment_name(segment, size)?;
        let gone = match self.read_tail(name, Some(size), listed) {
            Err(error) if error.is_not_found() => error,
            other => return other.map(|(bytes, _)| bytes),
        };
        let successor = match self.fetch(&WalFileName::Segment(name))? {
            None => self.tail(segment, size)?.map(|tail| tail.bytes),
            whole => whole,
        };
        let length = tail_length(segment, size, listed.end);
        let Some(bytes) = successor.zip(length).and_then(|(bytes, length)| bytes.get(..length).map(<[u8]>::to_vec))
        else {
            return Err(gone);
        };
        if hash16(self.repository().keys().chunk_id(&bytes).as_bytes()) == listed.hash {
            Ok(bytes)
        } else {
            let problem = format!("'{}' was dropped, but what took its place has other content", listed.key);
            Err(Error::Conflict { object: format!("WAL segment {name}"), problem })
        }
    }

    /// A file as recovery wants it: [`WalArchive::fetch`], or, in place of a segment that the archive does not hold whole,
    /// its longest tail, filled up with zeros. There recovery ends, as at the end of a segment that is being written.
    ///
    /// One listing and one read for most files. `None` only when the archive certainly has nothing of that name.
    pub fn fetch_or_tail(&self, file: &WalFileName) -> Result<Option<Vec<u8>>> {
        let WalFileName::Segment(name) = *file else { return self.fetch(file) };
        let (storage, prefix) = (self.repository().storage(), self.layout().wal_file(file));
        look_again(|| match self.whole_or_tail(name, storage.list(&prefix)?)? {
            // A directory that is read while names come and go may show neither a tail nor what took its place.
            None => self.whole_or_tail(name, storage.list_at_hand(&prefix)?),
            found => Ok(found),
        })
    }

    fn whole_or_tail(&self, name: SegmentFileName, listed: Vec<ObjectInfo>) -> Result<Option<Vec<u8>>> {
        let tail = StoredTail::longest(&listed, name);
        let file = WalFileName::Segment(name);
        if let Some(whole) = StoredFile::only(listed, &file)? {
            return self.read(&file, &whole.key, whole.size).map(Some);
        }
        let Some(tail) = tail else { return Ok(None) };
        let (mut bytes, size) = self.read_tail(name, None, &tail)?;
        bytes.resize(size.bytes() as usize, 0);
        Ok(Some(bytes))
    }

    /// Checks the object of a tail against its name.
    pub(crate) fn check_tail(&self, info: &ObjectInfo) -> Result<()> {
        let lost = || Error::damaged(&info.key, "its name does not lead to it");
        let (name, stored) = StoredTail::of(info).ok_or_else(lost)?;
        if !info.key.as_str().starts_with(&self.layout().wal_file(&WalFileName::Segment(name))) {
            return Err(lost());
        }
        self.read_tail(name, None, &stored).map(drop)
    }

    /// Reads a tail and holds it against its name, and against the segment size if that is known. Gives its bytes and the
    /// segment size that they state.
    fn read_tail(
        &self,
        name: SegmentFileName,
        size: Option<WalSegmentSize>,
        stored: &StoredTail,
    ) -> Result<(Vec<u8>, WalSegmentSize)> {
        stored.check_undisputed()?;
        let key = &stored.key;
        let object = WalObject::open_whole(self.repository(), key, stored.stored_bytes, ContainerKind::WalTail)?;
        let bytes = object.read()?;
        let content = self.repository().keys().chunk_id(&bytes);
        let found = hash16(content.as_bytes());
        if object.content() != content || found != stored.hash {
            let problem = format!("its content has hash {found}, its name says {}", stored.hash);
            return Err(Error::damaged(key, problem));
        }
        let stated = || SegmentHeader::parse(&bytes).map(|header| header.segment_size).map_err(|e| e.to_string());
        let size = size.map_or_else(stated, Ok).map_err(|problem| Error::damaged(key, problem))?;
        check_bytes(name, size, stored.end, &bytes).map_err(|problem| Error::damaged(key, problem))?;
        Ok((bytes, size))
    }
}

/// Looks once more when what was listed is gone: it was superseded, and another listing shows by what.
fn look_again<T>(look: impl Fn() -> Result<T>) -> Result<T> {
    let mut looks = 1;
    loop {
        match look() {
            Err(error) if error.is_not_found() && looks < LOOKS => looks += 1,
            other => return other,
        }
    }
}

fn segment_name(segment: WalSegment, size: WalSegmentSize) -> Result<SegmentFileName> {
    segment.file_name(size).parse().map_err(|e| Error::Invalid(format!("{e}")))
}

fn conflict(first: &ObjectKey, second: &ObjectKey) -> Error {
    let problem = format!(
        "another tail of other content ends at the same position, '{second}'. Two servers may be writing the same timeline"
    );
    Error::Conflict { object: format!("'{first}'"), problem }
}

/// Length in bytes of a tail that ends at `end`; `None` where that is not inside the segment, behind its first page header.
pub(super) fn tail_length(segment: WalSegment, size: WalSegmentSize, end: Lsn) -> Option<usize> {
    let length = end.as_u64().checked_sub(segment.start(size).as_u64())?;
    let inside = (LONG_HEADER as u64..u64::from(size.bytes())).contains(&length);
    if inside { usize::try_from(length).ok() } else { None }
}

/// Whether these bytes can be the beginning of this segment up to `end`; what speaks against it.
fn check_bytes(name: SegmentFileName, size: WalSegmentSize, end: Lsn, bytes: &[u8]) -> Result<(), String> {
    let segment = name.segment(size).ok_or_else(|| format!("no segment of {} bytes has that name", size.bytes()))?;
    let length = tail_length(segment, size, end).ok_or_else(|| {
        let start = segment.start(size);
        format!("it ends at {end}, which is not inside a segment of {} bytes at {start}", size.bytes())
    })?;
    if bytes.len() != length {
        return Err(format!("it is {} bytes long, but ends {length} bytes behind the segment's start", bytes.len()));
    }
    let header = SegmentHeader::parse(bytes).map_err(|e| e.to_string())?;
    if header.segment_size != size {
        let (found, expected) = (header.segment_size.bytes(), size.bytes());
        return Err(format!("its first page states segments of {found} bytes, expected {expected}"));
    }
    header.check_name(segment).map_err(|e| e.to_string())
}

/// The tails among the objects of one segment in one place that are superseded there and end before `below`.
pub(crate) fn superseded(listed: &[ObjectInfo], below: Option<Lsn>) -> Vec<ObjectKey> {
    let is_whole = |info: &ObjectInfo| {
        matches!(WalObjectName::parse(info.key.name()), Some(WalObjectName::File(WalFileName::Segment(_), _)))
    };
    let whole = listed.iter().any(is_whole);
    let tails: Vec<StoredTail> = listed.iter().filter_map(StoredTail::of).map(|(_, tail)| tail).collect();
    let longest = tails.iter().map(|tail| tail.end).max();
    let goes = |tail: &StoredTail| below.is_none_or(|below| tail.end < below) && (whole || Some(tail.end) < longest);
    tails.into_iter().filter(goes).map(|tail| tail.key).collect()
}
