//! The thread that removes superseded tails. It asks every mirror, which may be far away or gone: nothing waits for it.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use walkeep_chunkstore::wal::WalArchive;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};

use super::status::Shared;

/// Segments whose tails may wait to be removed; of more, the oldest are left where they are and do no harm.
const WAITING: usize = 1024;
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct State {
    /// What is superseded: tails that end before a position, or all.
    waiting: BTreeMap<WalSegment, Option<Lsn>>,
    stopped: bool,
}

/// What is to be removed.
#[derive(Default)]
pub(super) struct Sweep {
    state: Mutex<State>,
    changed: Condvar,
}

impl Sweep {
    /// Tails of a segment that end before `below`, or all, are superseded.
    pub(super) fn add(&self, segment: WalSegment, below: Option<Lsn>) {
        let mut state = self.state.lock();
        let known = state.waiting.entry(segment).or_insert(below);
        // Everything is more than any position.
        *known = match (*known, below) {
            (Some(known), Some(below)) => Some(known.max(below)),
            _ => None,
        };
        if state.waiting.len() > WAITING {
            state.waiting.pop_first();
        }
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Works until it is stopped, then once on what is left.
    pub(super) fn run(&self, archive: &WalArchive, size: WalSegmentSize, shared: &Shared) {
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.stopped {
                self.changed.wait(&mut state);
            }
            let (stopped, next) = (state.stopped, state.waiting.pop_last());
            drop(state);
            let Some((segment, below)) = next else { return };
            let Err(error) = archive.drop_tails(segment, size, below) else { continue };
            let text = format!("superseded tails stay: {error}");
            if shared.failed_aside("drop_tails", &text) {
                tracing::warn!("{text}");
            }
            if stopped {
                return;
            }
            self.add(segment, below);
            let mut state = self.state.lock();
            if !state.stopped {
                self.changed.wait_for(&mut state, PAUSE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walkeep_proto::segment::SegmentNumber;
    use walkeep_proto::timeline::TimelineId;

    #[test]
    fn what_is_superseded_grows_only() {
        let sweep = Sweep::default();
        let segment = |number| WalSegment { timeline: TimelineId::FIRST, number: SegmentNumber::new(number) };
        let waiting = || sweep.state.lock().waiting.get(&segment(1)).copied();
        sweep.add(segment(1), Some(Lsn::new(5)));
        sweep.add(segment(1), Some(Lsn::new(3)));
        assert_eq!(waiting(), Some(Some(Lsn::new(5))));
        sweep.add(segment(1), None);
        sweep.add(segment(1), Some(Lsn::new(9)));
        assert_eq!(waiting(), Some(None));
        (2..2000).for_each(|number| sweep.add(segment(number), None));
        assert_eq!(sweep.state.lock().waiting.len(), WAITING);
    }
}
