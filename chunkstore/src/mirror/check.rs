//! Objects whose names do not prove their bytes: taken apart and decoded before they are believed.

use std::sync::Arc;

use super::Class;
use crate::container::{Container, ContainerKind, Decompressor, FRAME_HEADER, HEADER, TRAILER};
use crate::error::{Error, Result};
use crate::repository::layout::{self, ClusterLayout, WalObjectName, hash16};
use crate::repository::{BackupId, ClusterIdentity, Repository};
use crate::storage::{MemoryStorage, ObjectInfo, ObjectKey, Storage};
use crate::wal::WalArchive;

/// Checks the bytes of an object of `repository`: WAL down to its content's hash, roots and identities down to their fields.
/// What is named by its hash, and what this version does not know, passes.
pub(super) fn check(repository: &Arc<Repository>, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
    match Class::of(key) {
        Some(Class::Wal) => check_wal(repository, key, bytes),
        Some(Class::Backups) => check_root(repository, key, bytes),
        Some(Class::Description) if key.as_str().contains("/identity/") => {
            serde_json::from_slice::<ClusterIdentity>(bytes).map(drop).map_err(|e| Error::damaged(key, e))
        }
        _ => Ok(()),
    }
}

/// A repository that holds this object alone.
fn alone(repository: &Repository, key: &ObjectKey, bytes: &[u8]) -> Result<Arc<Repository>> {
    let storage = MemoryStorage::new();
    storage.put_if_absent(&layout::config()?, &repository.config().to_bytes())?;
    storage.put_if_absent(key, bytes)?;
    Ok(Arc::new(Repository::open(Arc::new(storage))?))
}

/// The cluster whose room a key lies in.
pub(super) fn cluster_of(key: &ObjectKey) -> Result<ClusterLayout> {
    ClusterLayout::new(key.as_str().split('/').nth(1).unwrap_or_default())
}

fn check_wal(repository: &Arc<Repository>, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
    let file = match WalObjectName::parse(key.name()) {
        Some(WalObjectName::File(file, _) | WalObjectName::Conflict(file)) => file,
        Some(WalObjectName::Tail { .. }) => return check_tail(repository, key, bytes),
        None => return Ok(()),
    };
    let hash = key.name().rsplit('-').next().unwrap_or_default();
    let cluster = cluster_of(key)?;
    // A refused content is read like one that was taken: under the name it would have had.
    let served = ObjectKey::new(format!("{}-{hash}", cluster.wal_file(&file)))?;
    let alone = alone(repository, &served, bytes)?;
    check_frames(&alone, &served, bytes, WalArchive::kind(&file))?;
    let content = match WalArchive::new(Arc::clone(&alone), cluster.clone()).fetch(&file) {
        // Parts of it lie in other objects.
        Err(error) if error.is_not_found() => WalArchive::new(Arc::clone(repository), cluster).fetch(&file)?,
        other => other?,
    };
    let content = content.ok_or_else(|| Error::damaged(key, "its name does not lead to it"))?;
    let found = hash16(repository.keys().chunk_id(&content).as_bytes());
    if found == hash {
        Ok(())
    } else {
        Err(Error::damaged(key, format_args!("its content has hash {found}, its name says {hash}")))
    }
}

fn check_tail(repository: &Arc<Repository>, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
    let cluster = cluster_of(key)?;
    let alone = alone(repository, key, bytes)?;
    check_frames(&alone, key, bytes, ContainerKind::WalTail)?;
    let info = ObjectInfo { key: key.clone(), size: bytes.len() as u64 };
    match WalArchive::new(alone, cluster.clone()).check_tail(&info) {
        // Parts of it lie in other objects.
        Err(error) if error.is_not_found() => WalArchive::new(Arc::clone(repository), cluster).check_tail(&info),
        other => other,
    }
}

fn check_root(repository: &Repository, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
    let alone = alone(repository, key, bytes)?;
    check_frames(&alone, key, bytes, ContainerKind::Backup)?;
    alone.backup(&cluster_of(key)?, &key.name().parse::<BackupId>()?).map(drop)
}

/// Header, repository, trailer and table, then every frame from the first to the trailer, nothing between them.
fn check_frames(alone: &Repository, key: &ObjectKey, bytes: &[u8], kind: ContainerKind) -> Result<()> {
    Container::open(alone.storage(), key, kind, alone.id())?;
    let frames = bytes.get(..bytes.len() - TRAILER).unwrap_or_default();
    let mut decompressor = Decompressor::new()?;
    let (mut at, mut plaintext) = (HEADER, Vec::new());
    while at < frames.len() {
        // The length of the stored bytes stands at 8 in a frame's header.
        let stored = frames.get(at + 8..at + 12).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
        let end = stored.and_then(|stored| at.checked_add(FRAME_HEADER + stored as usize));
        let frame = end.and_then(|end| frames.get(at..end));
        let frame = frame.ok_or_else(|| Error::damaged(key, format_args!("no whole frame at {at}")))?;
        plaintext.clear();
        decompressor.decode(key, frame, &mut plaintext)?;
        at += frame.len();
    }
    Ok(())
}
