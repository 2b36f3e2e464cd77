//! Finding damage: everything that a restore would read is read and compared with its hash.
//!
//! Packs are checked by themselves (their name is the hash of their bytes, every frame and chunk is decoded), backups by
//! following every reference from the root, WAL by decoding every file and looking for gaps. Damage is collected, not
//! returned as an error: a report that stops at the first finding is no report.

mod backups;
mod packs;
mod wal;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use crate::console::Progress;
use crate::error::{Error, Result};
use crate::id::PackId;
use crate::index::{PackKind, read_index_object};
use crate::repository::layout::{self, ClusterLayout};
use crate::repository::{BackupId, Repository};

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// Percent of packs and WAL objects that are read completely.
    pub sample: u8,
    /// Only what this backup needs.
    pub backup: Option<BackupId>,
    /// Threads.
    pub jobs: usize,
}

/// One damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The object, or what of it.
    pub object: String,
    /// What is wrong, both values where two disagree.
    pub problem: String,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    /// All damage.
    pub damage: Vec<Damage>,
    /// What is no damage but worth knowing.
    pub notes: Vec<String>,
    /// Backups checked.
    pub backups: u64,
    /// Packs checked.
    pub packs: u64,
    /// WAL segments checked.
    pub segments: u64,
    /// Tails of WAL segments checked: the longest of each segment that is not whole.
    pub tails: u64,
    /// Bytes read from the repository.
    pub read_bytes: u64,
}

/// Collects findings from all threads.
struct Findings<'a> {
    report: Mutex<VerifyReport>,
    progress: &'a Progress,
}

impl Findings<'_> {
    fn damage(&self, object: impl std::fmt::Display, problem: impl std::fmt::Display) {
        let damage = Damage { object: object.to_string(), problem: problem.to_string() };
        self.report.lock().damage.push(damage);
    }

    /// Takes an error about `object`. What is damaged or missing is a finding; a storage that fails ends the verification.
    fn take(&self, object: impl std::fmt::Display, error: Error) -> Result<()> {
        match error {
            Error::Damaged { object, problem } => self.damage(object, problem),
            Error::NotFound { .. } | Error::Unsupported { .. } | Error::Conflict { .. } => self.damage(object, error),
            other => return Err(other),
        }
        Ok(())
    }

    fn read(&self, bytes: u64) {
        self.report.lock().read_bytes += bytes;
        self.progress.add(bytes);
    }
}

/// Packs by name, with the size that the listing gives.
type PackList = HashMap<(PackKind, PackId), u64>;

/// Verifies a cluster's part of a repository.
pub fn verify(
    repository: &Arc<Repository>,
    layout: &ClusterLayout,
    options: &VerifyOptions,
    progress: &Progress,
) -> Result<VerifyReport> {
    let findings = Findings { report: Mutex::default(), progress };
    let packs = list_packs(repository, &findings)?;
    progress.set_total(packs.values().sum());
    let needed = backups::check(repository, layout, options, &packs, &findings)?;
    let checked = if options.backup.is_some() { needed } else { packs.keys().copied().collect() };
    packs::check(repository, &packs, &checked, options, &findings)?;
    if options.backup.is_none() {
        check_index_objects(repository, &findings)?;
    }
    wal::check(repository, layout, options, &findings)?;
    let mut report = findings.report.into_inner();
    report.damage.sort_by(|a, b| (&a.object, &a.problem).cmp(&(&b.object, &b.problem)));
    Ok(report)
}

fn list_packs(repository: &Repository, findings: &Findings<'_>) -> Result<PackList> {
    let mut packs = PackList::new();
    for kind in [PackKind::Data, PackKind::Nodes] {
        for info in repository.storage().list(kind.prefix())? {
            match layout::pack_of(&info.key) {
                Some(id) => drop(packs.insert((kind, id), info.size)),
                None => findings.damage(&info.key, "its name is no hash"),
            }
        }
    }
    Ok(packs)
}

/// Index objects are copies: damage to one costs time, not data. It is still damage.
fn check_index_objects(repository: &Repository, findings: &Findings<'_>) -> Result<()> {
    for object in repository.storage().list(layout::INDEX)? {
        if let Err(error) = read_index_object(repository, &object.key, |_| Ok(())) {
            findings.take(&object.key, error)?;
        }
        findings.read(object.size);
    }
    Ok(())
}

/// Whether an object is among the sample: its name decides, so the same share is the same objects.
fn in_sample(name: &[u8], percent: u8) -> bool {
    let hash = blake3::hash(name);
    u64::from(hash.as_bytes()[0]) * 100 < u64::from(percent) * 256
}
