//! A repository copied to another place: everything is checked on the way, nothing at the target is ever replaced, and a
//! root arrives after all it refers to. What is damaged stays behind, and so do the backups that need it.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;

use super::check::{check, cluster_of};
use super::needs::Lacking;
use super::{Class, CopyReport, Missing, copy_object, unless_dropped};
use crate::console::{Progress, chain};
use crate::error::{Error, ErrorKind, Result};
use crate::parallel::for_each;
use crate::repository::Repository;
use crate::storage::{ObjectInfo, ObjectKey, Storage};
use crate::verify::Damage;
use crate::wal::MAXIMUM_WAL_FILE;

/// Longest object that is checked as a whole: WAL of the largest segments, if nothing of it could be compressed.
const LONGEST: u64 = MAXIMUM_WAL_FILE + (64 << 20);

/// A copy of a repository in the making.
pub struct Syncing<'a> {
    /// What is copied.
    pub repository: &'a Arc<Repository>,
    /// Where it is.
    pub from: &'a Arc<dyn Storage>,
    /// Where it goes: a place that [`super::join`] found empty, or of the same repository.
    pub to: &'a dyn Storage,
    /// Objects under way at once.
    pub threads: usize,
    /// Is told about every object.
    pub progress: &'a Progress,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncReport {
    /// What was copied.
    #[serde(flatten)]
    pub copied: CopyReport,
    /// Objects that were there already.
    pub skipped: u64,
    /// Objects that are damaged on either side: not copied, not replaced.
    pub damaged: Vec<Damage>,
    /// Backups that need one of them: not copied.
    pub held_back: Vec<Damage>,
}

impl SyncReport {
    /// Whether the target has everything now that the source had when both were compared.
    pub fn is_complete(&self) -> bool {
        self.damaged.is_empty() && self.held_back.is_empty()
    }
}

#[derive(Default)]
struct Findings {
    copied: CopyReport,
    damaged: Vec<(ObjectKey, String)>,
}

impl Syncing<'_> {
    /// Copies what is missing, class by class: the next begins when all of one are durable. A storage that fails ends it;
    /// another run goes on from there.
    pub fn run(&self, missing: &Missing) -> Result<SyncReport> {
        let findings = Mutex::new(Findings { damaged: self.different(missing)?, ..Findings::default() });
        let mut held_back = Vec::new();
        for class in missing.objects.chunk_by(|a, b| a.0 == b.0) {
            let mut objects: Vec<&ObjectInfo> = class.iter().map(|(_, info)| info).collect();
            if class.first().is_some_and(|(class, _)| *class == Class::Backups) {
                held_back = self.hold_back(&mut objects, &findings.lock().damaged)?;
            }
            for_each(&objects, self.threads, |info| self.copy(info, &findings))?;
        }
        let Findings { copied, mut damaged } = findings.into_inner();
        damaged.sort();
        Ok(SyncReport { copied, skipped: missing.present, damaged: named(damaged), held_back })
    }

    /// What [`Syncing::run`] would copy if nothing of it is damaged, and what is damaged at the target.
    pub fn plan(&self, missing: &Missing) -> Result<SyncReport> {
        let copied = CopyReport { objects: missing.objects.len() as u64, bytes: missing.bytes() };
        let damaged = named(self.different(missing)?);
        Ok(SyncReport { copied, skipped: missing.present, damaged, held_back: Vec::new() })
    }

    /// The damage among objects that both sides have in different sizes.
    fn different(&self, missing: &Missing) -> Result<Vec<(ObjectKey, String)>> {
        let mut damaged = Vec::new();
        for (key, ours, theirs) in &missing.different {
            damaged.extend(self.is_damage(key, *ours, *theirs)?.map(|problem| (key.clone(), problem)));
        }
        Ok(damaged)
    }

    /// Why two sizes under one name are damage. The same WAL may be stored twice in different lengths.
    fn is_damage(&self, key: &ObjectKey, ours: u64, theirs: u64) -> Result<Option<String>> {
        if Class::of(key) == Some(Class::Wal) {
            let bytes = self.to.get(key, LONGEST);
            let checked = bytes.and_then(|bytes| check(self.repository, key, &bytes));
            return checked
                .map_or_else(|error| problem(error).map(|problem| Some(self.there(&problem))), |()| Ok(None));
        }
        let here = self.from.location();
        Ok(Some(self.there(&format!("{theirs} bytes long, {ours} in '{here}'"))))
    }

    fn there(&self, problem: &str) -> String {
        format!("in '{}': {problem}", self.to.location())
    }

    fn copy(&self, info: &ObjectInfo, findings: &Mutex<Findings>) -> Result<()> {
        let copied = match Class::of(&info.key) {
            Some(Class::Packs | Class::Index) => copy_object(&**self.from, self.to, info),
            _ => self.from.get(&info.key, LONGEST).and_then(|bytes| {
                check(self.repository, &info.key, &bytes)?;
                self.to.put_if_absent(&info.key, &bytes)
            }),
        };
        self.progress.add(info.size);
        match unless_dropped(&**self.from, &info.key, copied) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let mut findings = findings.lock();
                findings.copied.objects += 1;
                findings.copied.bytes += info.size;
            }
            // The target is what is gone.
            Err(error) if error.is_not_found() && self.from.size(&info.key)?.is_some() => return Err(error),
            Err(error) => {
                let problem = problem(error)?;
                findings.lock().damaged.push((info.key.clone(), problem));
            }
        }
        Ok(())
    }

    /// Takes out the roots that need a damaged pack, each with the reason.
    fn hold_back(&self, roots: &mut Vec<&ObjectInfo>, damaged: &[(ObjectKey, String)]) -> Result<Vec<Damage>> {
        let packs = damaged.iter().map(|(key, _)| key).filter(|key| Class::of(key) == Some(Class::Packs));
        let gone: HashSet<ObjectKey> = packs.cloned().collect();
        let mut held_back = Vec::new();
        if gone.is_empty() {
            return Ok(held_back);
        }
        let lacking = Lacking { storage: Arc::clone(self.from), gone };
        let mut complete = Vec::new();
        for root in roots.drain(..) {
            match self.needs(&lacking, &root.key) {
                Ok(()) => complete.push(root),
                Err(error) => {
                    let why = format!("it needs what is damaged: {}", chain(&error));
                    problem(error)?;
                    held_back.push(Damage { object: root.key.to_string(), problem: why });
                }
            }
        }
        *roots = complete;
        Ok(held_back)
    }

    fn needs(&self, lacking: &Lacking, root: &ObjectKey) -> Result<()> {
        let cluster = cluster_of(root)?;
        match self.repository.backup(&cluster, &root.name().parse()?) {
            Ok(manifest) => lacking.check(&manifest),
            // Said when it is copied.
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn named(damaged: Vec<(ObjectKey, String)>) -> Vec<Damage> {
    damaged.into_iter().map(|(key, problem)| Damage { object: key.to_string(), problem }).collect()
}

/// What is wrong with an object; a storage that failed is no finding but an end.
fn problem(error: Error) -> Result<String> {
    match error {
        Error::Damaged { problem, .. } => Ok(problem),
        Error::NotFound { .. } | Error::Unsupported { .. } | Error::Conflict { .. } => Ok(chain(&error)),
        other => Err(other),
    }
}
