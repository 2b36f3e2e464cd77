//! Taking WAL files in and giving them out.

use std::sync::Arc;

use walkeep_proto::segment::{WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};
use walkeep_proto::wal::SegmentScan;

use super::StoredSegment;
use super::object::{self, PreparedFile, WalObject};
use crate::container::ContainerKind;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::repository::Repository;
use crate::repository::layout::{ClusterLayout, WalObjectName, hash16};
use crate::storage::{ObjectInfo, ObjectKey, Put};

/// What became of a pushed file. Either way it is durable in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is new and takes this many bytes.
    Stored(u64),
    /// The same content was there.
    AlreadyThere,
}

/// The WAL archive of one cluster.
#[derive(Clone, Debug)]
pub struct WalArchive {
    repository: Arc<Repository>,
    layout: ClusterLayout,
}

impl WalArchive {
    /// The archive of the cluster of this name.
    pub fn new(repository: Arc<Repository>, layout: ClusterLayout) -> Self {
        Self { repository, layout }
    }

    /// The repository it is in.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Where the cluster's objects are.
    pub fn layout(&self) -> &ClusterLayout {
        &self.layout
    }

    /// Cuts, names and compresses a file, on several threads; [`WalArchive::push_prepared`] publishes it.
    pub fn prepare(&self, file: &WalFileName, bytes: &[u8], level: i32) -> Result<PreparedFile> {
        self.repository.config().check_writable()?;
        object::prepare(&self.repository, Self::kind(file), bytes, level)
    }

    /// Stores a file: see [`WalArchive::push_prepared`].
    pub fn push(&self, file: &WalFileName, bytes: &[u8], summary: Option<&SegmentScan>, level: i32) -> Result<Pushed> {
        self.push_prepared(file, self.prepare(file, bytes, level)?, summary)
    }

    /// Stores a file. Durable on return.
    ///
    /// The same name with the same content is a success however often it is pushed. The same name with other content is
    /// refused: the first stays what is served, the second is kept beside it under a name of its own for whoever has to
    /// find out which history is the right one.
    ///
    /// Compared with is what can be listed without asking another machine: WAL is not made to wait for a bucket's listing.
    /// What a bucket holds besides is found by whoever reads: two contents of one file are never served.
    pub fn push_prepared(
        &self,
        file: &WalFileName,
        prepared: PreparedFile,
        summary: Option<&SegmentScan>,
    ) -> Result<Pushed> {
        let content = prepared.content();
        let hash = hash16(content.as_bytes());
        let key = self.layout.wal_object(file, content.as_bytes())?;
        let stored = self.contents_at_hand(file)?;
        if let [first, second, ..] = stored.as_slice() {
            // Two servers raced, and which one is right only people can tell.
            return Err(Self::conflict(file, &first.key, &second.key));
        }
        if let Some(same) = stored.iter().find(|stored| stored.hash == hash) {
            self.check_stored(&same.key, same.size, Self::kind(file), content)?;
            return Ok(Pushed::AlreadyThere);
        }
        if let Some(first) = stored.first() {
            let second = self.layout.wal_conflict(file, content.as_bytes())?;
            prepared.publish(&second, summary)?;
            return Err(Self::conflict(file, &first.key, &second));
        }
        let finished = prepared.publish(&key, summary)?;
        // Of two that push different contents at once, the later one sees both now, and maybe both do. From then on nobody
        // is acknowledged and nothing is served until people have decided.
        if let Some(other) = self.contents_at_hand(file)?.iter().find(|other| other.key != key) {
            return Err(Self::conflict(file, &other.key, &key));
        }
        if finished.put == Put::Created {
            return Ok(Pushed::Stored(finished.length));
        }
        let size = self.repository.storage().size(&key)?;
        let size = size.ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        self.check_stored(&key, size, Self::kind(file), content)?;
        Ok(Pushed::AlreadyThere)
    }

    /// Proves that the object of this content, stored earlier, is whole and durable.
    pub(super) fn check_stored(&self, key: &ObjectKey, size: u64, kind: ContainerKind, content: ChunkId) -> Result<()> {
        let object = WalObject::open_whole(&self.repository, key, size, kind)?;
        let bytes = object.read()?;
        if object.content() != content || self.repository.keys().chunk_id(&bytes) != content {
            return Err(Error::damaged(key, "its content has another hash than its name says"));
        }
        self.repository.storage().make_durable(key)
    }

    fn conflict(file: &WalFileName, first: &ObjectKey, second: &ObjectKey) -> Error {
        let problem = format!(
            "the archive holds it with other content; both are kept, as '{first}' and '{second}'. \
             Two servers may be writing the same timeline"
        );
        Error::Conflict { object: format!("WAL file {file}"), problem }
    }

    /// The stored contents of a file that are known without asking another machine: more than one only after two servers
    /// raced.
    fn contents_at_hand(&self, file: &WalFileName) -> Result<Vec<StoredFile>> {
        Ok(StoredFile::among(self.repository.storage().list_at_hand(&self.layout.wal_file(file))?, file))
    }

    /// What kind of object a file becomes.
    pub(crate) const fn kind(file: &WalFileName) -> ContainerKind {
        match file {
            WalFileName::Segment(_) => ContainerKind::WalSegment,
            _ => ContainerKind::WalFile,
        }
    }

    /// The one content that the archive holds; two are an error.
    fn stored(&self, file: &WalFileName) -> Result<Option<StoredFile>> {
        StoredFile::only(self.repository.storage().list(&self.layout.wal_file(file))?, file)
    }

    /// Whether the archive holds the file, undisputed. Two contents under its name are an error.
    pub fn contains(&self, file: &WalFileName) -> Result<bool> {
        Ok(self.stored(file)?.is_some())
    }

    /// The file's bytes, verified; `None` only when the archive certainly has no such file.
    ///
    /// One listing and, unless the object is very long, one read.
    pub fn fetch(&self, file: &WalFileName) -> Result<Option<Vec<u8>>> {
        let stored = self.stored(file)?;
        stored.map(|stored| self.read(file, &stored.key, stored.size)).transpose()
    }

    pub(super) fn read(&self, file: &WalFileName, key: &ObjectKey, size: u64) -> Result<Vec<u8>> {
        let object = WalObject::open_whole(&self.repository, key, size, Self::kind(file))?;
        let bytes = object.read()?;
        if self.repository.keys().chunk_id(&bytes) == object.content() {
            Ok(bytes)
        } else {
            Err(Error::damaged(format_args!("WAL file {file}"), "its content has another hash than its name says"))
        }
    }

    /// What a complete segment says, without its bytes; `None` when the archive does not hold it.
    pub fn summary(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Option<SegmentScan>> {
        let Some(stored) = self.stored(&file_name(segment, size)?)? else { return Ok(None) };
        let object = WalObject::open(&self.repository, &stored.key, stored.size, ContainerKind::WalSegment)?;
        summary_of(&object, segment, size).map(Some)
    }

    /// [`WalArchive::summary`] of a segment that an inventory lists, usually in one read.
    pub fn listed_summary(
        &self,
        segment: WalSegment,
        size: WalSegmentSize,
        listed: &StoredSegment,
    ) -> Result<SegmentScan> {
        Self::check_undisputed(&file_name(segment, size)?, listed)?;
        let (key, length) = (&listed.key, listed.stored_bytes);
        let object = WalObject::open_end(&self.repository, key, length, ContainerKind::WalSegment)?;
        summary_of(&object, segment, size)
    }

    /// [`WalArchive::fetch`] of a segment that an inventory lists: without the listing.
    pub fn fetch_listed(&self, segment: WalSegment, size: WalSegmentSize, listed: &StoredSegment) -> Result<Vec<u8>> {
        let file = file_name(segment, size)?;
        Self::check_undisputed(&file, listed)?;
        self.read(&file, &listed.key, listed.stored_bytes)
    }

    fn check_undisputed(file: &WalFileName, listed: &StoredSegment) -> Result<()> {
        match listed.rivals.first() {
            Some(rival) => Err(Self::conflict(file, &listed.key, rival)),
            None => Ok(()),
        }
    }

    /// The history of a timeline; `None` when the archive has no such file. Timeline 1 has none by nature.
    pub fn history(&self, timeline: TimelineId) -> Result<Option<TimelineHistory>> {
        let file = WalFileName::History(timeline);
        match self.fetch(&file)? {
            Some(text) => TimelineHistory::parse(timeline, &text)
                .map(Some)
                .map_err(|e| Error::damaged(format_args!("WAL file {file}"), e)),
            None if timeline == TimelineId::FIRST => Ok(Some(TimelineHistory::without_ancestors(timeline))),
            None => Ok(None),
        }
    }
}

/// A content that is stored under a file's name.
pub(super) struct StoredFile {
    pub(super) key: ObjectKey,
    /// The content's hash, as the key spells it.
    hash: String,
    /// Bytes of the object.
    pub(super) size: u64,
}

impl StoredFile {
    /// The one content of `file` among listed objects; two are an error.
    pub(super) fn only(listed: Vec<ObjectInfo>, file: &WalFileName) -> Result<Option<Self>> {
        let mut contents = Self::among(listed, file);
        match contents.as_slice() {
            [first, second, ..] => Err(WalArchive::conflict(file, &first.key, &second.key)),
            _ => Ok(contents.pop()),
        }
    }

    /// The contents of `file` among listed objects; conflicts and what others stored are none.
    fn among(listed: Vec<ObjectInfo>, file: &WalFileName) -> Vec<Self> {
        let of_file = |info: ObjectInfo| match WalObjectName::parse(info.key.name()) {
            Some(WalObjectName::File(name, hash)) if name == *file => {
                Some(Self { key: info.key, hash, size: info.size })
            }
            _ => None,
        };
        listed.into_iter().filter_map(of_file).collect()
    }
}

fn file_name(segment: WalSegment, size: WalSegmentSize) -> Result<WalFileName> {
    segment.file_name(size).parse().map_err(|e| Error::Invalid(format!("{e}")))
}

fn summary_of(object: &WalObject<'_>, segment: WalSegment, size: WalSegmentSize) -> Result<SegmentScan> {
    let summary = object.summary()?;
    if summary.segment == segment {
        return Ok(summary);
    }
    let (name, found) = (segment.file_name(size), summary.segment.file_name(size));
    Err(Error::damaged(format_args!("WAL file {name}"), format_args!("its summary is of {found}")))
}
