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
    /// Which packs and WAL objects are read completely.
    pub sample: Sample,
    /// Only what this backup needs.
    pub backup: Option<BackupId>,
    /// Threads.
    pub jobs: usize,
}

/// A share of all objects. Consecutive turns take consecutive shares: after `100 / percent` of them every object was in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How much it is, 0 to 100.
    pub percent: u8,
    /// Which share of this size: any number that grows by one each time, like the day.
    pub turn: u64,
}

impl Sample {
    /// Every object.
    pub const ALL: Self = Self { percent: 100, turn: 0 };

    /// Whether an object is in it: decided by its name and the turn alone, so that a turn can be repeated.
    fn has(self, name: &[u8]) -> bool {
        let percent = u64::from(self.percent);
        let place =
            u64::from_le_bytes(*blake3::hash(name).as_bytes().first_chunk().expect("32 bytes are at least 8")) % 100;
        let begin = (self.turn % 100) * percent % 100;
        (place + 100 - begin) % 100 < percent
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> impl Iterator<Item = [u8; 8]> {
        (0_u64..2000).map(u64::to_le_bytes)
    }

    #[test]
    fn every_object_is_in_one_of_ten_consecutive_tenths() {
        for first in [0, 7, u64::MAX - 20] {
            let sample = |turn| Sample { percent: 10, turn };
            for name in names() {
                let times = (first..first + 10).filter(|turn| sample(*turn).has(&name)).count();
                assert_eq!(times, 1, "{name:?} from turn {first} on");
            }
        }
    }

    #[test]
    fn weekly_turns_of_days_take_all_tenths_too() {
        let seen = |name: &[u8]| (0..10).any(|week| Sample { percent: 10, turn: 20_000 + 7 * week }.has(name));
        assert!(names().all(|name| seen(&name)));
    }

    #[test]
    fn a_share_is_as_large_as_it_says() {
        for (percent, turn) in [(0, 3), (1, 5), (10, 12), (35, 9), (100, 4)] {
            let taken = names().filter(|name| Sample { percent, turn }.has(name)).count();
            assert!(taken.abs_diff(usize::from(percent) * 20) < 100, "{taken} of 2000 for {percent} %");
            assert!(
                !matches!((percent, taken), (0, 1..)) && (percent < 100 || taken == 2000),
                "{taken} for {percent} %"
            );
        }
    }
}
