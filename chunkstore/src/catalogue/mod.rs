//! What can be restored: the backups, timelines and WAL of one cluster, read from the repository alone.
//!
//! [`Catalogue::load`] lists and reads roots and history files. A [`Route`] is the way recovery takes along one timeline's
//! history; it answers where WAL is unbroken and which record stands where. [`Catalogue::windows`] puts both together. The
//! restore tool plans with the same routes, so what is promised here is what a restore can do.

mod route;
mod source;
mod text;
mod walk;
mod windows;

pub use route::{Route, Run, RunEnd, TailProblem};
pub use source::{ArchivedWal, WalSource};
pub use walk::{Span, TimedRecord, TimedRecordKind, WalkEnd};
pub use windows::{BranchWindows, Parent, UnusableBackup, Usable, Window, Windows, describe_end, pg_time};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegmentSize;
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use crate::error::{Error, ErrorKind, Result};
use crate::parallel::side_by_side;
use crate::repository::layout::ClusterLayout;
use crate::repository::{BackupManifest, ClusterIdentity, Repository};
use crate::wal::{WalArchive, WalInventory};

/// A backup whose root cannot be read: it hides no other.
#[derive(Clone, Debug)]
pub struct UnreadableBackup {
    /// Its name.
    pub id: String,
    /// Why.
    pub problem: String,
    /// What kind of problem it is.
    pub kind: ErrorKind,
}

/// What is known of a timeline's past.
#[derive(Clone, Debug)]
pub enum Ancestry {
    /// As its history file says; timeline 1 has none and needs none.
    Known(TimelineHistory),
    /// The archive has no history file of it: only its own WAL can be followed.
    Missing(TimelineHistory),
    /// Its history file is damaged.
    Unreadable(String),
}

/// Everything of one cluster that a restore chooses from.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// The cluster's name in the repository.
    pub cluster: String,
    /// What the cluster was, oldest first: one more after each `pg_upgrade`.
    pub identities: Vec<ClusterIdentity>,
    /// Backups, oldest first.
    pub backups: Vec<BackupManifest>,
    /// Backups that cannot be read.
    pub unreadable: Vec<UnreadableBackup>,
    /// Timelines of which there is a history file, WAL or a backup.
    pub timelines: BTreeMap<TimelineId, Ancestry>,
    /// The archived WAL, by segment size: more than one only if it was changed by a `pg_upgrade`.
    pub inventories: BTreeMap<WalSegmentSize, WalInventory>,
}

impl Catalogue {
    /// Loads a cluster's catalogue. Without a name the repository must hold exactly one cluster.
    pub fn load(repository: &Arc<Repository>, cluster: Option<&str>) -> Result<Self> {
        let name = choose_cluster(repository, cluster)?;
        let layout = ClusterLayout::new(&name)?;
        let identities = repository.identities(&layout)?;
        if identities.is_empty() {
            return Err(Error::not_found(format_args!("cluster '{name}' in repository '{}'", repository.location())));
        }
        let archive = WalArchive::new(Arc::clone(repository), layout.clone());
        let mut catalogue = Self {
            cluster: name,
            backups: Vec::new(),
            unreadable: Vec::new(),
            timelines: BTreeMap::new(),
            inventories: BTreeMap::new(),
            identities,
        };
        catalogue.read_backups(repository, &layout)?;
        for identity in &catalogue.identities {
            let size = identity.wal_segment_size;
            if let std::collections::btree_map::Entry::Vacant(place) = catalogue.inventories.entry(size) {
                place.insert(archive.inventory(size)?);
            }
        }
        catalogue.read_histories(&archive)?;
        Ok(catalogue)
    }

    fn read_backups(&mut self, repository: &Repository, layout: &ClusterLayout) -> Result<()> {
        let mut refused = None;
        for listed in repository.backups(layout)? {
            match listed.manifest {
                Ok(manifest) => self.backups.push(manifest),
                // Removed between the listing and the reading.
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    let (kind, problem) = (error.kind(), error.to_string());
                    self.unreadable.push(UnreadableBackup { id: listed.id, problem, kind });
                    refused = Some(error).filter(is_of_service).or(refused);
                }
            }
        }
        // Nothing is known to be wrong with any of them.
        refused.filter(|_| self.backups.is_empty()).map_or(Ok(()), Err)
    }

    fn read_histories(&mut self, archive: &WalArchive) -> Result<()> {
        let mut timelines: BTreeSet<TimelineId> = self.backups.iter().map(|backup| backup.timeline).collect();
        let mut listed = BTreeSet::new();
        for inventory in self.inventories.values() {
            listed.extend(&inventory.histories);
            timelines.extend(inventory.segments.keys().chain(inventory.tails.keys()).map(|segment| segment.timeline));
        }
        timelines.extend(&listed);
        let timelines: Vec<TimelineId> = timelines.into_iter().collect();
        let threads = archive.repository().storage().parallel_reads();
        let histories = side_by_side(&timelines, threads, |timeline| match *timeline {
            timeline if listed.contains(&timeline) => archive.history(timeline),
            TimelineId::FIRST => Ok(Some(TimelineHistory::without_ancestors(TimelineId::FIRST))),
            _ => Ok(None),
        });
        for (timeline, history) in timelines.into_iter().zip(histories) {
            let ancestry = match history {
                Ok(Some(history)) => Ancestry::Known(history),
                Ok(None) => Ancestry::Missing(TimelineHistory::without_ancestors(timeline)),
                Err(error) if is_of_service(&error) => return Err(error),
                Err(error) => Ancestry::Unreadable(error.to_string()),
            };
            self.timelines.insert(timeline, ancestry);
        }
        Ok(())
    }

    /// The past of a timeline.
    pub fn history(&self, timeline: TimelineId) -> Result<&TimelineHistory> {
        match self.timelines.get(&timeline) {
            Some(Ancestry::Known(history) | Ancestry::Missing(history)) => Ok(history),
            Some(Ancestry::Unreadable(problem)) => {
                Err(Error::damaged(format_args!("history of timeline {timeline}"), problem))
            }
            None => Err(Error::not_found(format_args!("timeline {timeline} in cluster '{}'", self.cluster))),
        }
    }

    /// Whether the archive can give PostgreSQL the timeline's history file, or needs none.
    pub fn has_history(&self, timeline: TimelineId) -> bool {
        matches!(self.timelines.get(&timeline), Some(Ancestry::Known(_)))
    }

    /// The backup of this name.
    pub fn backup(&self, id: &str) -> Result<&BackupManifest> {
        if let Some(broken) = self.unreadable.iter().find(|broken| broken.id == id) {
            let (object, problem) = (format!("backup '{id}'"), broken.problem.clone());
            return Err(match broken.kind {
                ErrorKind::Unsupported => Error::Unsupported { object, problem },
                _ => Error::Damaged { object, problem },
            });
        }
        let found = self.backups.iter().find(|backup| backup.id.as_str() == id);
        found.ok_or_else(|| Error::not_found(format_args!("backup '{id}' of cluster '{}'", self.cluster)))
    }

    /// Timelines on which recovery can end up somewhere else than on their descendants, in ascending order: those without
    /// descendants, and those that have WAL of their own behind the point where a descendant left them.
    pub fn branches(&self) -> Vec<TimelineId> {
        self.timelines.keys().copied().filter(|timeline| self.is_branch(*timeline)).collect()
    }

    fn is_branch(&self, timeline: TimelineId) -> bool {
        let left_at = |history: &TimelineHistory| history.end_of(timeline).flatten();
        let last_left: Option<Lsn> = self
            .timelines
            .values()
            .filter_map(|ancestry| match ancestry {
                Ancestry::Known(history) => left_at(history),
                _ => None,
            })
            .max();
        let Some(left) = last_left else { return true };
        self.inventories.iter().any(|(size, inventory)| {
            let last = inventory.segments.keys().rev().find(|segment| segment.timeline == timeline);
            let mut tails = inventory.tails.iter().filter(|(segment, _)| segment.timeline == timeline);
            last.is_some_and(|last| last.number >= size.segment_at(left)) || tails.any(|(_, tail)| tail.end > left)
        })
    }

    /// The cluster's archived WAL, for routes.
    pub fn archived_wal(&self, repository: &Arc<Repository>) -> Result<ArchivedWal> {
        let layout = ClusterLayout::new(&self.cluster)?;
        Ok(ArchivedWal::new(WalArchive::new(Arc::clone(repository), layout)))
    }

    /// The way of recovery along a timeline, for backups of the cluster that `backup` is of.
    pub fn route<'a>(
        &'a self,
        timeline: TimelineId,
        backup: &BackupManifest,
        source: &'a dyn WalSource,
    ) -> Result<Route<'a>> {
        let size = backup.wal_segment_size;
        let missing =
            || Error::damaged(format_args!("backup '{}'", backup.id), "its WAL segment size is of no known cluster");
        Ok(Route {
            history: self.history(timeline)?,
            inventory: self.inventories.get(&size).ok_or_else(missing)?,
            size,
            system_identifier: backup.system_identifier,
            source,
        })
    }
}

/// Whether a bucket's service failed or refused: that says nothing about what it holds.
fn is_of_service(error: &Error) -> bool {
    matches!(error, Error::Bucket { .. })
}

fn choose_cluster(repository: &Repository, cluster: Option<&str>) -> Result<String> {
    if let Some(name) = cluster {
        return Ok(name.to_owned());
    }
    let mut names = repository.cluster_names()?;
    match names.len() {
        0 => Err(Error::not_found(format_args!("a cluster in repository '{}'", repository.location()))),
        1 => Ok(names.remove(0)),
        _ => {
            let names = names.join("', '");
            Err(Error::Invalid(format!("the repository holds the clusters '{names}': name one with --cluster")))
        }
    }
}
