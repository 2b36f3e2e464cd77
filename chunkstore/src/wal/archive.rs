//! Taking WAL files in and giving them out.

use std::sync::Arc;

use walkeep_proto::segment::{WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};
use walkeep_proto::wal::SegmentScan;

use super::object::{self, PreparedFile, WalObject};
use crate::container::ContainerKind;
use crate::error::{Error, Result};
use crate::id::ChunkId;
use crate::repository::Repository;
use crate::repository::layout::{ClusterLayout, WalObjectName, hash16};
use crate::storage::{ObjectKey, Put};

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

    pub(super) fn layout(&self) -> &ClusterLayout {
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
    pub fn push_prepared(
        &self,
        file: &WalFileName,
        prepared: PreparedFile,
        summary: Option<&SegmentScan>,
    ) -> Result<Pushed> {
        let content = prepared.content();
        let hash = hash16(content.as_bytes());
        let key = self.layout.wal_object(file, content.as_bytes())?;
        let stored = self.contents(file)?;
        if let [(first, _), (second, _), ..] = stored.as_slice() {
            // Two servers raced, and which one is right only people can tell.
            return Err(Self::conflict(file, first, second));
        }
        if stored.iter().any(|(_, stored)| *stored == hash) {
            self.check_stored(file, &key, content)?;
            return Ok(Pushed::AlreadyThere);
        }
        if let Some((first, _)) = stored.first() {
            let second = self.layout.wal_conflict(file, content.as_bytes())?;
            prepared.publish(&second, summary)?;
            return Err(Self::conflict(file, first, &second));
        }
        let finished = prepared.publish(&key, summary)?;
        // Of two that push different contents at once, the later one sees both now, and maybe both do. From then on nobody
        // is acknowledged and nothing is served until people have decided.
        if let Some((other, _)) = self.contents(file)?.iter().find(|(other, _)| *other != key) {
            return Err(Self::conflict(file, other, &key));
        }
        match finished.put {
            Put::Created => Ok(Pushed::Stored(finished.length)),
            Put::AlreadyExists => Ok(Pushed::AlreadyThere),
        }
    }

    /// Proves that the object of this content, stored earlier, is whole and durable.
    fn check_stored(&self, file: &WalFileName, key: &ObjectKey, content: ChunkId) -> Result<()> {
        let object = WalObject::open(&self.repository, key, Self::kind(file))?;
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

    /// The stored contents of a file: more than one only after two servers raced.
    fn contents(&self, file: &WalFileName) -> Result<Vec<(ObjectKey, String)>> {
        let listed = self.repository.storage().list(&self.layout.wal_file(file))?;
        let of_file = |key: ObjectKey| match WalObjectName::parse(key.name()) {
            Some(WalObjectName::File(name, hash)) if name == *file => Some((key, hash)),
            _ => None,
        };
        Ok(listed.into_iter().filter_map(|info| of_file(info.key)).collect())
    }

    const fn kind(file: &WalFileName) -> ContainerKind {
        match file {
            WalFileName::Segment(_) => ContainerKind::WalSegment,
            _ => ContainerKind::WalFile,
        }
    }

    fn object(&self, file: &WalFileName) -> Result<Option<WalObject<'_>>> {
        let stored = self.contents(file)?;
        match stored.as_slice() {
            [] => Ok(None),
            [(key, _)] => WalObject::open(&self.repository, key, Self::kind(file)).map(Some),
            [(first, _), (second, _), ..] => Err(Self::conflict(file, first, second)),
        }
    }

    /// Whether the archive holds the file, undisputed. Two contents under its name are an error.
    pub fn contains(&self, file: &WalFileName) -> Result<bool> {
        match self.contents(file)?.as_slice() {
            [] => Ok(false),
            [_] => Ok(true),
            [(first, _), (second, _), ..] => Err(Self::conflict(file, first, second)),
        }
    }

    /// The file's bytes, verified; `None` only when the archive certainly has no such file.
    pub fn fetch(&self, file: &WalFileName) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.object(file)? else { return Ok(None) };
        let bytes = object.read()?;
        if self.repository.keys().chunk_id(&bytes) == object.content() {
            Ok(Some(bytes))
        } else {
            Err(Error::damaged(format_args!("WAL file {file}"), "its content has another hash than its name says"))
        }
    }

    /// What a complete segment says, without its bytes; `None` when the archive does not hold it.
    pub fn summary(&self, segment: WalSegment, size: WalSegmentSize) -> Result<Option<SegmentScan>> {
        let name = segment.file_name(size);
        let file: WalFileName = name.parse().map_err(|e| Error::Invalid(format!("{e}")))?;
        let Some(object) = self.object(&file)? else { return Ok(None) };
        let summary = object.summary()?;
        if summary.segment == segment {
            Ok(Some(summary))
        } else {
            let found = summary.segment.file_name(size);
            Err(Error::damaged(format_args!("WAL file {name}"), format_args!("its summary is of {found}")))
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
