//! Packs by themselves.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Findings, PackList, VerifyOptions, in_sample};
use crate::container::Decompressor;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::index::{PackKind, read_pack_table};
use crate::repository::Repository;

/// Bytes read at a time for the hash of a whole pack.
const STRIDE: u64 = 8 << 20;

/// Checks these packs on several threads.
pub(super) fn check(
    repository: &Repository,
    packs: &PackList,
    checked: &HashSet<(PackKind, PackId)>,
    options: &VerifyOptions,
    findings: &Findings<'_>,
) -> Result<()> {
    let list: Vec<(PackKind, PackId, u64)> =
        checked.iter().filter_map(|pack| Some((pack.0, pack.1, *packs.get(pack)?))).collect();
    findings.report.lock().packs = list.len() as u64;
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some((kind, id, size)) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
            let whole = in_sample(id.as_bytes(), options.sample);
            if let Err(error) = check_pack(repository, (*kind, *id), *size, whole, findings) {
                findings.take(kind.key(*id)?, error)?;
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let died = || Err(Error::Invalid("a verify thread died".to_owned()));
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| died()))
    })
}

/// Reads a pack's table, and when `whole`, its hash and every chunk.
fn check_pack(
    repository: &Repository,
    (kind, id): (PackKind, PackId),
    size: u64,
    whole: bool,
    findings: &Findings<'_>,
) -> Result<()> {
    let key = kind.key(id)?;
    if !whole {
        return read_pack_table(repository, kind, id, size).map(|_| ());
    }
    let storage = repository.storage();
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < size {
        let end = (at + STRIDE).min(size);
        hasher.update(&storage.get_range(&key, at..end)?);
        findings.read(end - at);
        at = end;
    }
    let found = PackId::new(*hasher.finalize().as_bytes());
    if found != id {
        findings.damage(&key, format_args!("its bytes have hash {found}, its name says {id}"));
    }
    let pack = read_pack_table(repository, kind, id, size)?;
    let mut decompressor = Decompressor::new()?;
    let mut plaintext = Vec::new();
    for (frame, chunks) in &pack.table.frames {
        plaintext.clear();
        let end = frame.offset.saturating_add(u64::from(frame.length));
        let stored = storage.get_range(&key, frame.offset..end)?;
        if let Err(error) = decompressor.decode(&key, &stored, &mut plaintext) {
            findings.take(&key, error)?;
            continue;
        }
        for chunk in chunks {
            let start = chunk.offset as usize;
            let bytes = plaintext.get(start..).and_then(|bytes| bytes.get(..chunk.length as usize));
            if bytes.map(|bytes| repository.keys().chunk_id(bytes)) != Some(chunk.id) {
                findings.damage(&key, format_args!("chunk {} has another hash", chunk.id));
            }
        }
    }
    Ok(())
}
