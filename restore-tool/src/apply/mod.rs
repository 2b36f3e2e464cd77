//! Carrying a plan out: files, then settings, then what makes the directory startable.
//!
//! `global/pg_control` comes last: without it no server starts, so an interrupted restore is nothing that could be taken
//! for a cluster. Everything is on disk, names included, before the restore says that it is done.

mod control;
mod files;
mod handles;
mod manifest;
mod maps;
mod owner;
mod place;
mod planner;
mod settings;
mod work;

use manifest::Manifest;
pub use owner::Owner;
pub use place::Place;
pub use settings::{FetchCommand, TargetAction};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use walkeep_chunkstore::console::{Progress, Show};
use walkeep_chunkstore::repository::Repository;
use walkeep_proto::identity::Oid;

use crate::plan::RestorePlan;

/// How to carry a plan out.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory to make.
    pub target: PathBuf,
    /// Tablespaces that go elsewhere than where they were.
    pub tablespaces: Vec<(Oid, PathBuf)>,
    /// Threads that read, verify and write.
    pub jobs: usize,
    /// What the server does at the target.
    pub action: TargetAction,
    /// Whether the restored cluster goes on archiving with the settings it had.
    pub keep_archiving: bool,
    /// How the server asks for WAL.
    pub fetch: FetchCommand,
    /// Who will own the files.
    pub owner: Option<Owner>,
    /// Whether progress is shown.
    pub show: Show,
}

/// What a restore did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Restored {
    /// The data directory.
    pub target: PathBuf,
    /// Files written.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
    /// Bytes read from packs.
    pub fetched_bytes: u64,
    /// How long it took.
    #[serde(serialize_with = "as_seconds")]
    pub duration: Duration,
    /// Settings of the old cluster that were taken out of `postgresql.auto.conf`.
    pub neutralised: Vec<String>,
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1000.0).round() / 1000.0)
}

/// Rebuilds the data directory of `plan`.
pub fn apply(repository: &Arc<Repository>, plan: &RestorePlan, options: &Options) -> Result<Restored> {
    let place = Place::check(repository, plan, options)?;
    let progress = Progress::start("restoring", plan.backup.statistics.logical_bytes, options.show);
    let incomplete = || {
        let path = options.target.display();
        format!("unable to restore backup {} into '{path}', which is incomplete and cannot be started", plan.backup.id)
    };
    let mut restored = write_everything(repository, plan, options, &place, &progress).with_context(incomplete)?;
    restored.duration = progress.finish();
    Ok(restored)
}

fn write_everything(
    repository: &Arc<Repository>,
    plan: &RestorePlan,
    options: &Options,
    place: &Place,
    progress: &Progress,
) -> Result<Restored> {
    place.create()?;
    let mut manifest = Manifest::start(place, &plan.backup)?;
    let written = files::restore(repository, &plan.backup, place, options.jobs, progress, &mut manifest)?;
    place.create_required_directories(plan.backup.major)?;
    place.write_labels(&plan.backup, &mut manifest)?;
    let neutralised = settings::write(place, plan, options, written.settings.as_ref(), &mut manifest)?;
    let control = control::prepare(written.control.as_ref(), &plan.backup, &mut manifest)?;
    manifest.finish(&plan.backup)?;
    place.sync_directories()?;
    control.write(place)?;
    Ok(Restored {
        target: options.target.clone(),
        files: written.files,
        bytes: written.bytes,
        fetched_bytes: written.fetched_bytes,
        duration: Duration::ZERO,
        neutralised,
    })
}

/// Names the file in an error.
fn at(path: &Path, operation: &str) -> String {
    format!("unable to {operation} '{}'", path.display())
}
