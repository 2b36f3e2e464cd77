//! PostgreSQL's `backup_manifest` of what was restored, so that `pg_verifybackup -n` can check it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use walkeep_chunkstore::repository::BackupManifest;
use walkeep_proto::backup_manifest::{ManifestWriter, WalRange};

use super::{Place, at};

/// The manifest in the making.
pub(super) struct Manifest {
    writer: ManifestWriter<BufWriter<File>>,
    path: PathBuf,
}

impl Manifest {
    /// Begins the file.
    pub(super) fn start(place: &Place, backup: &BackupManifest) -> Result<Self> {
        let path = place.root().join("backup_manifest");
        let file = BufWriter::new(place.create_file(&path, place.file_mode())?);
        let writer =
            ManifestWriter::new(file, backup.major, backup.system_identifier).with_context(|| at(&path, "write"))?;
        Ok(Self { writer, path })
    }

    /// Adds a file as the backup knows it.
    pub(super) fn stored(&mut self, path: &[u8], length: u64, modified: i64, crc32c: u32) -> Result<()> {
        self.writer.file(path, length, modified, Some(crc32c)).with_context(|| at(&self.path, "write"))
    }

    /// Adds a file that this restore has written.
    pub(super) fn written(&mut self, name: &str, content: &[u8], modified: i64) -> Result<()> {
        self.stored(name.as_bytes(), content.len() as u64, modified, crc32c::crc32c(content))
    }

    /// Ends the file. Durable on return.
    pub(super) fn finish(self, backup: &BackupManifest) -> Result<()> {
        let Self { writer, path } = self;
        let range = WalRange { timeline: backup.timeline, start: backup.start_lsn, end: backup.stop_lsn };
        let written = writer.finish(&[range]).and_then(|mut buffer| {
            buffer.flush()?;
            buffer.get_ref().sync_all()
        });
        written.with_context(|| at(&path, "write"))
    }
}
