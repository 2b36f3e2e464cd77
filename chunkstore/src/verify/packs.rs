//! Packs by themselves.

use std::collections::HashSet;

use super::{Findings, PackList, VerifyOptions};
use crate::container::Decompressor;
use crate::error::Result;
use crate::id::PackId;
use crate::index::{PackKind, read_pack_table};
use crate::parallel::for_each;
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
    for_each(&list, options.jobs, |(kind, id, size)| {
        let whole = options.sample.has(id.as_bytes());
        match check_pack(repository, (*kind, *id), *size, whole, findings) {
            Err(error) => findings.take(kind.key(*id)?, error),
            Ok(()) => Ok(()),
        }
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
