//! Objects in memory: for tests and for measuring without a disk.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use crate::error::{Error, Result};

/// Objects in a map. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryStorage {
    objects: Arc<Mutex<BTreeMap<ObjectKey, Arc<Vec<u8>>>>>,
}

impl MemoryStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    /// A storage of its own with what this one holds now.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.objects.lock().clone())) }
    }
}

struct MemoryWriter {
    bytes: Vec<u8>,
    storage: MemoryStorage,
}

impl ObjectWriter for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        let mut objects = self.storage.objects.lock();
        if objects.contains_key(key) {
            return Ok(Put::AlreadyExists);
        }
        objects.insert(key.clone(), Arc::new(self.bytes));
        Ok(Put::Created)
    }
}

impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter { bytes: Vec::new(), storage: self.clone() }))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        let object = self.objects.lock().get(key).cloned();
        let object = object.ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bytes = bounds.and_then(|(start, end)| object.get(start..end));
        bytes.map(<[u8]>::to_vec).ok_or_else(|| {
            let asked = format!("bytes {}..{} wanted, but it is {} bytes long", range.start, range.end, object.len());
            Error::damaged(key, asked)
        })
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        Ok(self.objects.lock().get(key).map(|object| object.len() as u64))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let objects = self.objects.lock();
        let matching = objects.iter().filter(|(key, _)| key.as_str().starts_with(prefix));
        Ok(matching.map(|(key, object)| ObjectInfo { key: key.clone(), size: object.len() as u64 }).collect())
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.objects.lock().insert(key.clone(), Arc::new(bytes.to_vec()));
        Ok(())
    }

    fn make_durable(&self, _key: &ObjectKey) -> Result<()> {
        Ok(())
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.objects.lock().remove(key);
        Ok(())
    }
}
