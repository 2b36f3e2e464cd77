//! The agent's part: everything that is here and not there, sent in safe order for as long as it takes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};

use super::lag::{Lag, age, timestamp};
use super::storage::Places;
use super::watch::{Found, Watch, named_at};
use super::{Class, Durability, Keep, MirroredStorage, UNDER_WAY, is_tail, missing};
use crate::error::Result;
use crate::repository::layout::segment_prefix;
use crate::storage::{ObjectInfo, ObjectKey, Storage};
use crate::wal::superseded;

/// How often the directory is looked at.
const POLL: Duration = Duration::from_millis(500);
/// How often both places are compared as a whole.
const COMPARE: Duration = Duration::from_secs(3600);
/// How long an object is left to the command that wrote it and waits for its upload.
const LEFT_TO_WRITER: Duration = Duration::from_secs(60);
/// First and longest pause after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

#[derive(Clone, Copy)]
struct Entry {
    size: u64,
    named: SystemTime,
    under_way: bool,
}

#[derive(Default)]
struct State {
    waiting: BTreeMap<(Class, ObjectKey), Entry>,
    /// Sent lately: the watch tells some files twice.
    done: HashMap<ObjectKey, Instant>,
    /// Segments of which tails were sent, as the beginnings of their keys.
    tails: HashSet<String>,
    lag: Lag,
    /// Nothing is tried before.
    retry: Option<Instant>,
    /// When the directory was looked at last: what was written before is known.
    looked: Option<SystemTime>,
    /// How often it was.
    looks: u64,
    look_now: bool,
    stopped: bool,
}

impl State {
    /// The beginning of the keys of a segment of which both tails and the whole have arrived, now that `sent` has.
    fn tails_to_drop(&mut self, sent: &ObjectKey) -> Option<String> {
        let prefix = segment_prefix(sent)?.to_owned();
        if !is_tail(sent) {
            return self.tails.take(&prefix);
        }
        if self.done.keys().any(|key| !is_tail(key) && segment_prefix(key) == Some(&prefix)) {
            return Some(prefix);
        }
        self.tails.insert(prefix);
        None
    }
}

/// The queue of one mirror. [`MirrorQueue::run`] works on it until [`MirrorQueue::stop`].
pub struct MirrorQueue {
    storage: MirroredStorage,
    remote: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl MirrorQueue {
    /// A queue for the mirror of this number.
    pub fn new(storage: MirroredStorage, remote: usize) -> Self {
        Self { storage, remote, state: Mutex::default(), changed: Condvar::new() }
    }

    fn places(&self) -> &Places {
        &self.storage.places
    }

    fn remote(&self) -> &dyn Storage {
        &*self.places().remotes[self.remote].storage
    }

    /// Ends [`MirrorQueue::run`] when what is under way is done.
    pub fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Looks at the directory once more, so that [`MirrorQueue::lag`] knows of what was written just now. Gives up when
    /// that takes long.
    pub fn refresh(&self) {
        let mut state = self.state.lock();
        // The look that is under way may have passed by already.
        let wanted = state.looks + 2;
        let deadline = Instant::now() + POLL * 2;
        while state.looks < wanted && !state.stopped {
            state.look_now = true;
            self.changed.notify_all();
            if self.changed.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// How far the mirror is behind, as far as the last look tells.
    pub fn lag(&self) -> Lag {
        let state = self.state.lock();
        let oldest = state.waiting.values().map(|entry| entry.named).min();
        let known = state.looked.filter(|_| state.lag.compared);
        let complete_before =
            known.map(|looked| oldest.map_or(looked, |oldest| oldest.min(looked))).and_then(timestamp);
        Lag {
            objects: state.waiting.len() as u64,
            bytes: state.waiting.values().map(|entry| entry.size).sum(),
            seconds: age(oldest),
            complete_before,
            ..state.lag.clone()
        }
    }

    /// Finds and sends until [`MirrorQueue::stop`]. Failures are told by [`MirrorQueue::lag`] and tried again for ever.
    pub fn run(&self) {
        std::thread::scope(|scope| {
            for _ in 0..UNDER_WAY {
                scope.spawn(|| while self.send_next() {});
            }
            self.find();
        });
    }

    fn find(&self) {
        let mut watch = Watch::new(self.places().local.root().to_owned(), SystemTime::now());
        let mut compare = Instant::now();
        loop {
            if Instant::now() >= compare {
                compare = match self.compare() {
                    Ok(()) => Instant::now() + COMPARE,
                    Err(error) => {
                        self.failed(&error);
                        Instant::now() + self.pause()
                    }
                };
            }
            let mut found = Vec::new();
            let now = SystemTime::now();
            let looked = watch.poll(&mut found);
            // What was found before it failed is not told again.
            self.add(found);
            if let Err(error) = &looked {
                self.failed(error);
            }
            let mut state = self.state.lock();
            if looked.is_ok() {
                state.looked = Some(now);
            }
            state.looks += 1;
            self.changed.notify_all();
            let next = Instant::now() + POLL;
            while !state.stopped && !state.look_now && !self.changed.wait_until(&mut state, next).timed_out() {}
            if state.stopped {
                return;
            }
            state.look_now = false;
        }
    }

    /// Compares both places. A spool holds only what is on its way.
    fn compare(&self) -> Result<()> {
        let local = &self.places().local;
        let spool = self.places().keep == Keep::Nothing;
        let classes: &[Class] = if spool { &[Class::Description] } else { &Class::ALL };
        let mut objects = missing(local, self.remote(), classes)?.objects;
        if spool {
            let waiting = local.list("")?.into_iter();
            let waiting = waiting.filter_map(|info| Some((Class::of(&info.key)?, info)));
            objects.extend(waiting.filter(|(class, _)| *class != Class::Description));
        }
        let found = objects.into_iter().filter_map(|(_, info)| {
            let named = named_at(local, &info.key)?;
            Some(Found { info, named })
        });
        self.add(found.collect());
        let mut state = self.state.lock();
        state.lag.compared = true;
        state.lag.failures = 0;
        state.lag.error = None;
        Ok(())
    }

    fn add(&self, found: Vec<Found>) {
        let mut state = self.state.lock();
        state.done.retain(|_, at| at.elapsed() < LEFT_TO_WRITER);
        for Found { info: ObjectInfo { key, size }, named } in found {
            if let Some(class) = Class::of(&key)
                && !state.done.contains_key(&key)
            {
                state.waiting.entry((class, key)).or_insert(Entry { size, named, under_way: false });
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Sends the next object; false when there is no more to be done for ever.
    fn send_next(&self) -> bool {
        let (class, key, entry) = {
            let mut state = self.state.lock();
            loop {
                if state.stopped {
                    return false;
                }
                let now = Instant::now();
                let ready = state.retry.is_none_or(|retry| retry <= now);
                if let Some((class, key)) = ready.then(|| self.choose(&state)).flatten() {
                    let Some(entry) = state.waiting.get_mut(&(class, key.clone())) else { continue };
                    entry.under_way = true;
                    break (class, key, *entry);
                }
                self.changed.wait_for(&mut state, POLL);
            }
        };
        let outcome = self.send(class, &key, entry);
        let mut state = self.state.lock();
        match outcome {
            Ok(sent) => {
                state.waiting.remove(&(class, key.clone()));
                let whole = state.tails_to_drop(&key);
                state.done.insert(key, Instant::now());
                state.lag.sent_objects += u64::from(sent);
                state.lag.sent_bytes += if sent { entry.size } else { 0 };
                state.lag.failures = 0;
                state.lag.error = None;
                state.retry = None;
                drop(state);
                // Whoever dropped them here had to leave the last one there.
                if let Some(prefix) = whole
                    && let Err(error) = self.remote().delete_chosen(&prefix, &|listed| superseded(listed, None))
                {
                    tracing::debug!("superseded tails stay in '{}': {error}", self.remote().location());
                }
            }
            Err(error) => {
                if let Some(entry) = state.waiting.get_mut(&(class, key.clone())) {
                    entry.under_way = false;
                }
                // It was deleted here before it was sent: there is nothing left to send.
                if error.is_not_found() && self.places().local.size(&key).is_ok_and(|size| size.is_none()) {
                    state.waiting.remove(&(class, key));
                } else {
                    drop(state);
                    self.failed(&error);
                }
            }
        }
        self.changed.notify_all();
        true
    }

    /// The first object in order that may go now. A root waits for everything that was here before it, a tail for the WAL
    /// in front of it: without that it is of no use there.
    fn choose(&self, state: &State) -> Option<(Class, ObjectKey)> {
        let waits = self.places().remotes[self.remote].durability == Durability::Mirror;
        let left_to_writer = |entry: &Entry| waits && entry.named.elapsed().is_ok_and(|age| age < LEFT_TO_WRITER);
        let earlier = |root: &Entry| {
            let before = state.waiting.iter().take_while(|((class, _), _)| *class < Class::Backups);
            before.filter(|((class, _), _)| *class >= Class::Packs).any(|(_, entry)| entry.named <= root.named)
        };
        // The cluster whose WAL was passed last: keys are in order.
        let mut waiting_for = None;
        let mut may_go = |class: Class, key: &ObjectKey| {
            let cluster = key.as_str().split('/').nth(1).map(str::to_owned);
            let waits = class == Class::Wal && is_tail(key) && waiting_for == cluster;
            if class == Class::Wal && !is_tail(key) {
                waiting_for = cluster;
            }
            !waits
        };
        let in_order = state.waiting.iter().filter(|((class, key), _)| may_go(*class, key));
        in_order
            .filter(|(_, entry)| !entry.under_way && !left_to_writer(entry))
            .find(|((class, _), entry)| *class != Class::Backups || !earlier(entry))
            .map(|((class, key), _)| (*class, key.clone()))
    }

    /// Sends one object. Says whether it had to travel.
    fn send(&self, class: Class, key: &ObjectKey, entry: Entry) -> Result<bool> {
        let places = self.places();
        if class == Class::Backups {
            // What the watch may have missed, the comparison does not.
            let needed = missing(&places.local, self.remote(), &[Class::Packs, Class::Index])?;
            let later = |info: &ObjectInfo| named_at(&places.local, &info.key).is_some_and(|named| named > entry.named);
            for (_, info) in needed.objects.iter().filter(|(_, info)| !later(info)) {
                places.upload_to(&info.key, self.remote())?;
            }
        }
        let waits = places.remotes[self.remote].durability == Durability::Mirror;
        let there = waits && self.remote().size(key)? == Some(entry.size);
        if !there {
            places.upload_to(key, self.remote())?;
        }
        if places.keep == Keep::Nothing {
            let mut others = places.remotes.iter().enumerate().filter(|(number, _)| *number != self.remote);
            let everywhere = others
                .try_fold(true, |all, (_, other)| Ok::<_, crate::Error>(all && other.storage.size(key)?.is_some()))?;
            if everywhere {
                places.release(key)?;
            }
        }
        Ok(!there)
    }

    /// Tells why nothing is sent although [`MirrorQueue::run`] has not begun.
    pub fn note(&self, problem: String) {
        let mut state = self.state.lock();
        state.lag.failures += 1;
        state.lag.error = Some(problem);
    }

    fn failed(&self, error: &crate::Error) {
        let mut state = self.state.lock();
        state.lag.failures += 1;
        let text = crate::console::chain(error);
        tracing::warn!("mirror '{}': {text}", self.remote().location());
        state.lag.error = Some(text);
        drop(state);
        let pause = self.pause();
        self.state.lock().retry = Some(Instant::now() + pause);
    }

    /// Longer with every failure in a row.
    fn pause(&self) -> Duration {
        let failures = u32::try_from(self.state.lock().lag.failures).unwrap_or(u32::MAX).min(16);
        (PAUSES.0 * 2_u32.saturating_pow(failures.saturating_sub(1))).min(PAUSES.1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::mirror::Remote;
    use crate::storage::{LocalStorage, MemoryStorage};

    #[test]
    fn a_tail_waits_for_the_wal_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let local = LocalStorage::open(directory.path()).unwrap();
        let remote = Remote { storage: Arc::new(MemoryStorage::new()), durability: Durability::Local };
        let queue = MirrorQueue::new(MirroredStorage::new(local, vec![remote], Keep::Everything).unwrap(), 0);
        let key = |text: &str| (Class::Wal, ObjectKey::new(format!("clusters/{text}-0123456789abcdef")).unwrap());
        let tail = |segment: &str| key(&format!("{segment}.tail-0000000000000100"));
        let [one, two, other] = [
            "a/wal/1/0/000000010000000000000001",
            "a/wal/1/0/000000010000000000000002",
            "b/wal/1/0/000000010000000000000001",
        ];
        let entry = Entry { size: 1, named: SystemTime::now(), under_way: false };
        let waiting = [tail(one), key(two), tail(two), tail(other)].map(|key| (key, entry)).into();
        let mut state = State { waiting, ..State::default() };
        for expected in [Some(tail(one)), Some(key(two)), Some(tail(other)), None] {
            assert_eq!(queue.choose(&state), expected);
            if let Some(chosen) = expected {
                state.waiting.get_mut(&chosen).unwrap().under_way = true;
            }
        }
        state.waiting.remove(&key(two));
        assert_eq!(queue.choose(&state), Some(tail(two)), "the segment has arrived");
    }
}
