//! A storage that fails on purpose: the instrument of the crash tests.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use crate::error::{Error, Result};

/// What happens at the chosen operation, and to every changing operation after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the operation has any effect.
    CrashBefore,
    /// The process dies after the operation took effect, before its caller learns of it.
    CrashAfter,
    /// The disk is full from here on.
    Full,
}

/// Passes operations through to another storage until the chosen change, then fails. Reads always pass.
#[derive(Debug, Clone)]
pub struct FaultyStorage<S> {
    inner: S,
    fault: Fault,
    at: u64,
    changes: Arc<AtomicU64>,
}

impl<S: Storage> FaultyStorage<S> {
    /// Fails at change number `at`, counted from 0.
    pub fn new(inner: S, fault: Fault, at: u64) -> Self {
        Self { inner, fault, at, changes: Arc::new(AtomicU64::new(0)) }
    }

    /// How many changes were tried so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    fn change<T>(&self, object: &ObjectKey, effect: impl FnOnce() -> Result<T>) -> Result<T> {
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        let fail = |kind| Err(Error::storage("create", object, io::Error::from(kind)));
        match self.fault {
            _ if number < self.at => effect(),
            Fault::CrashAfter if number == self.at => {
                effect()?;
                fail(io::ErrorKind::Interrupted)
            }
            Fault::CrashBefore | Fault::CrashAfter => fail(io::ErrorKind::Interrupted),
            Fault::Full => fail(io::ErrorKind::StorageFull),
        }
    }
}

struct FaultyWriter<S> {
    writer: Box<dyn ObjectWriter>,
    storage: FaultyStorage<S>,
}

impl<S: Storage + Clone + 'static> ObjectWriter for FaultyWriter<S> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.writer.write(bytes)
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        let Self { writer, storage } = *self;
        storage.change(key, || writer.publish(key))
    }
}

impl<S: Storage + Clone + 'static> Storage for FaultyStorage<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(FaultyWriter { writer: self.inner.writer()?, storage: self.clone() }))
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.inner.get_range(key, range)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.inner.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.inner.list(prefix)
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.change(key, || self.inner.overwrite(key, bytes))
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.change(key, || self.inner.make_durable(key))
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.change(key, || self.inner.delete(key))
    }
}
