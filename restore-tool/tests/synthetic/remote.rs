//! Objects behind a wire: nothing of them is at hand, requests are counted, and a test can make them fail or wait.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use walkeep_chunkstore::storage::{MemoryStorage, ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use walkeep_chunkstore::{Error, ErrorKind, Result};

/// Longest that a test waits for requests that should come.
const DEADLINE: Duration = Duration::from_secs(60);

/// A read that is not for one small file.
const LONG: u64 = 1 << 20;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    List,
    Get,
    Head,
    Put,
}

/// The refusal of a request, or `None`.
type Rule = fn(Call, &str) -> Option<Error>;

#[derive(Debug, Default)]
struct Wire {
    calls: Mutex<Vec<(Call, String)>>,
    rule: Mutex<Option<Rule>>,
    /// Long reads of packs that must be under way at once before the first of them is answered.
    together: AtomicUsize,
    waiting: Mutex<usize>,
    arrived: Condvar,
    /// Whether a spool has everything that is there.
    at_hand: AtomicBool,
}

/// A bucket in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Remote {
    pub inner: MemoryStorage,
    wire: Arc<Wire>,
}

impl Remote {
    /// A bucket with what `inner` holds.
    pub fn over(inner: MemoryStorage) -> Self {
        Self { inner, wire: Arc::default() }
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.wire.calls.lock().unwrap().clear();
    }

    /// The requests of this kind for keys that begin like this.
    pub fn calls(&self, call: Call, prefix: &str) -> Vec<String> {
        let calls = self.wire.calls.lock().unwrap();
        calls.iter().filter(|(c, key)| *c == call && key.starts_with(prefix)).map(|(_, key)| key.clone()).collect()
    }

    /// How many requests of this kind there were.
    pub fn count(&self, call: Call) -> usize {
        self.calls(call, "").len()
    }

    /// Lets requests fail from here on.
    pub fn fail(&self, rule: Rule) {
        *self.wire.rule.lock().unwrap() = Some(rule);
    }

    /// Lets no long read of a pack end before so many of them are under way.
    pub fn wait_for_packs(&self, together: usize) {
        self.wire.together.store(together, Ordering::SeqCst);
    }

    /// Lets listings at hand name everything.
    pub fn put_at_hand(&self) {
        self.wire.at_hand.store(true, Ordering::SeqCst);
    }

    fn request(&self, call: Call, key: &str) -> Result<()> {
        self.wire.calls.lock().unwrap().push((call, key.to_owned()));
        self.wire.rule.lock().unwrap().and_then(|rule| rule(call, key)).map_or(Ok(()), Err)
    }

    fn gate(&self, key: &ObjectKey, range: &Range<u64>) -> Result<()> {
        if !key.as_str().starts_with("packs/") || range.end - range.start < LONG {
            return Ok(());
        }
        let wire = &self.wire;
        let mut waiting = wire.waiting.lock().unwrap();
        *waiting += 1;
        wire.arrived.notify_all();
        let together = wire.together.load(Ordering::SeqCst);
        let (waiting, outcome) = wire.arrived.wait_timeout_while(waiting, DEADLINE, |now| *now < together).unwrap();
        if outcome.timed_out() {
            return Err(Error::Invalid(format!("only {} of {together} reads came at once", *waiting)));
        }
        Ok(())
    }
}

/// What a driver says of a service that cannot be reached.
pub fn unreachable(operation: &'static str, key: &str) -> Error {
    let problem = "answer 500 InternalError".to_owned();
    Error::Bucket { operation, object: format!("s3://b/{key}"), problem, kind: ErrorKind::Unreachable, hint: None }
}

struct Writer {
    bytes: Vec<u8>,
    remote: Remote,
}

impl ObjectWriter for Writer {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn publish(self: Box<Self>, key: &ObjectKey) -> Result<Put> {
        self.remote.request(Call::Put, key.as_str())?;
        self.remote.inner.put_if_absent(key, &self.bytes)
    }
}

impl Storage for Remote {
    fn location(&self) -> String {
        "s3://bucket/prefix".to_owned()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(Writer { bytes: Vec::new(), remote: self.clone() }))
    }

    fn get(&self, key: &ObjectKey, limit: u64) -> Result<Vec<u8>> {
        self.request(Call::Get, key.as_str())?;
        self.inner.get(key, limit)
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        self.request(Call::Get, key.as_str())?;
        self.gate(key, &range)?;
        self.inner.get_range(key, range)
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        self.request(Call::Head, key.as_str())?;
        self.inner.size(key)
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        self.request(Call::List, prefix)?;
        self.inner.list(prefix)
    }

    fn list_at_hand(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        if self.wire.at_hand.load(Ordering::SeqCst) { self.inner.list(prefix) } else { Ok(Vec::new()) }
    }

    fn parallel_reads(&self) -> usize {
        16
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.request(Call::Put, key.as_str())?;
        self.inner.overwrite(key, bytes)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }

    fn make_durable(&self, _key: &ObjectKey) -> Result<()> {
        Ok(())
    }
}
