//! `global/pg_control`: written last, and so that a server which lost its `backup_label` does not start.

use anyhow::{Context, Result};
use walkeep_chunkstore::Error;
use walkeep_chunkstore::repository::BackupManifest;
use walkeep_proto::control_file::{ControlFile, with_unusable_checkpoint};

use super::Place;
use super::files::Kept;
use super::manifest::Manifest;
use super::place::sync_directory;

/// The file as it will be written.
pub(super) struct Control(Vec<u8>);

const NAME: &str = "global/pg_control";

/// Checks the backup's control file and makes the one to restore.
pub(super) fn prepare(kept: Option<&Kept>, backup: &BackupManifest, manifest: &mut Manifest) -> Result<Control> {
    let object = || format!("backup '{}'", backup.id);
    let kept = kept.ok_or_else(|| Error::damaged(object(), "it has no global/pg_control"))?;
    let control = ControlFile::parse(&kept.content).map_err(|e| Error::damaged(object(), e))?;
    if (control.system_identifier, control.version) != (backup.system_identifier, backup.major) {
        let problem = format!(
            "its pg_control is of system {} of PostgreSQL {}, its manifest of system {} of PostgreSQL {}",
            control.system_identifier, control.version, backup.system_identifier, backup.major
        );
        return Err(Error::damaged(object(), problem).into());
    }
    let image = with_unusable_checkpoint(&kept.content).context("unable to prepare pg_control")?;
    manifest.written(NAME, &image, kept.modified)?;
    Ok(Control(image))
}

impl Control {
    /// Makes the directory startable.
    pub(super) fn write(&self, place: &Place) -> Result<()> {
        place.write_file(NAME, &self.0)?;
        sync_directory(&place.root().join("global"))
    }
}
