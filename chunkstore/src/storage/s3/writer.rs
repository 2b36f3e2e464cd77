//! An object in the making: in memory while it is small, then in a file that has no name.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Bucket;
use super::content::{Content, Hashes, Source};
use crate::error::{Error, Result};
use crate::storage::{ObjectKey, ObjectWriter, Put};

/// Bytes up to which an object is kept in memory.
pub(super) const IN_MEMORY: usize = 8 << 20;

/// Collects an object's bytes; they are sent when the key is known.
pub(super) struct SpoolingWriter {
    bucket: Arc<Bucket>,
    /// Directory for what does not fit into memory; default: the system's.
    spool: Option<PathBuf>,
    hashes: Hashes,
    memory: Vec<u8>,
    file: Option<BufWriter<File>>,
}

impl SpoolingWriter {
    pub fn new(bucket: Arc<Bucket>, spool: Option<PathBuf>) -> Self {
        Self { bucket, spool, hashes: Hashes::default(), memory: Vec::new(), file: None }
    }

    fn spool(&self) -> PathBuf {
        self.spool.clone().unwrap_or_else(std::env::temp_dir)
    }

    fn content(mut self) -> Result<Content> {
        let spool = self.spool();
        let source = match self.file.take() {
            None => Source::Memory(self.memory.into()),
            Some(file) => {
                let file = file.into_inner().map_err(|e| failed(&spool, e.into_error()))?;
                Source::File(Arc::new(file))
            }
        };
        Ok(Content::new(source, &self.hashes))
    }
}

fn failed(spool: &Path, source: std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::NotFound {
        return Error::Invalid(format!("the directory '{}' for temporary files does not exist", spool.display()));
    }
    Error::Storage { operation: "write a temporary file in", object: spool.display().to_string(), source }
}

impl ObjectWriter for SpoolingWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hashes.update(bytes);
        if self.file.is_none() && self.memory.len() + bytes.len() <= IN_MEMORY {
            self.memory.extend_from_slice(bytes);
            return Ok(());
        }
        let spool = self.spool();
        if self.file.is_none() {
            let file = tempfile::tempfile_in(&spool).map_err(|e| failed(&spool, e))?;
            let mut file = BufWriter::with_capacity(256 << 10, file);
            file.write_all(&std::mem::take(&mut self.memory)).map_err(|e| failed(&spool, e))?;
            self.file = Some(file);
        }
        self.file.iter_mut().try_for_each(|file| file.write_all(bytes)).map_err(|e| failed(&spool, e))
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        let bucket = self.bucket.clone();
        bucket.put(key, &self.content()?)
    }
}
