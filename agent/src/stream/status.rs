//! How far the stream is: what its threads tell each other, `walkeep status` and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::timeline::TimelineId;

use super::StreamError;
use super::told::Told;
use crate::stop_flag::StopFlag;

/// WAL that nobody has any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// On which timeline.
    pub timeline: TimelineId,
    /// First position that is missing.
    pub from: Lsn,
    /// First position behind the gap.
    pub to: Lsn,
    /// When it was found.
    pub found: Timestamp,
    /// What the server said.
    pub reason: String,
}

/// WAL that was received and that the server went on without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideBranch {
    /// Its timeline.
    pub timeline: TimelineId,
    /// Where the server's history leaves it.
    pub left_at: Lsn,
    /// Up to where it was received: commits between both are in the repository and not in the server.
    pub held_up_to: Lsn,
    /// When it was found.
    pub found: Timestamp,
}

/// The retention slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// The oldest position that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// Bytes of WAL that it keeps.
    pub retained_bytes: u64,
    /// `reserved`, `extended`, `unreserved` or `lost` (`pg_replication_slots.wal_status`).
    pub wal_status: Option<String>,
    /// Bytes that may still be written before it may be lost, where `max_slot_wal_keep_size` limits it.
    pub safe_bytes: Option<i64>,
    /// Why it is not looked after, if it is not.
    pub error: Option<String>,
}

/// The stream now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// Whether WAL comes in.
    pub streaming: bool,
    /// Since when it does.
    pub since: Option<Timestamp>,
    /// The timeline.
    pub timeline: Option<TimelineId>,
    /// Up to where the server has WAL.
    pub server_lsn: Lsn,
    /// Up to where it was received.
    pub received_lsn: Lsn,
    /// When that was.
    pub received_at: Option<Timestamp>,
    /// Up to where it is durable here.
    pub flushed_lsn: Lsn,
    /// Up to where it is in the repository, tails included.
    pub stored_lsn: Lsn,
    /// Up to where whole segments are in the repository.
    pub archived_lsn: Lsn,
    /// When the last byte of them had been received.
    pub archived_at: Option<Timestamp>,
    /// When the newest WAL in the repository had been received: what came later is lost with this host.
    pub stored_at: Option<Timestamp>,
    /// When the newest durable WAL was received.
    pub flushed_at: Option<Timestamp>,
    /// Bytes of complete segments that wait for the repository.
    pub waiting_bytes: u64,
    /// Why WAL does not come in.
    pub error: Option<String>,
    /// Why the repository does not take it.
    pub storing_error: Option<String>,
    /// Failures since the agent started, by kind.
    pub errors: BTreeMap<String, u64>,
    /// What is lost.
    pub gaps: Vec<Gap>,
    /// What the server went on without.
    pub side_branches: Vec<SideBranch>,
    /// The retention slot.
    pub slot: SlotStatus,
}

impl StreamStatus {
    /// Bytes that the server has and the repository has not.
    pub fn lag_bytes(&self) -> u64 {
        self.server_lsn.saturating_sub(self.stored_lsn)
    }

    /// Seconds of commits that would be lost with this host and the server's now; `None` before anything was stored.
    pub fn rpo_seconds(&self, now: Timestamp) -> Option<f64> {
        let stored = self.stored_at?;
        if self.stored_lsn >= self.server_lsn && self.streaming {
            return Some(0.0);
        }
        Some((now - stored).total(jiff::Unit::Second).unwrap_or(0.0).max(0.0))
    }
}

/// Where a stream begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beginning {
    /// The timeline that comes.
    pub(super) timeline: TimelineId,
    /// Where the first segment of that timeline begins: what other timelines hold counts up to here.
    pub(super) first: Lsn,
    /// The first byte that comes.
    pub(super) position: Lsn,
    /// Up to where whole segments are in the repository.
    pub(super) archived: Lsn,
    /// Up to where the server has WAL.
    pub(super) server: Lsn,
}

#[derive(Default)]
struct State {
    status: StreamStatus,
    /// How the newest stream began; none before the first.
    began: Option<Beginning>,
    /// The timeline of `status.stored_lsn`.
    stored_on: Option<TimelineId>,
    /// What was told of sessions with the server: attempts that end alike are told once, though each may begin well.
    told: Told,
    /// The same of storing.
    told_storing: Told,
    /// The same of what goes on beside.
    told_aside: Told,
    /// When all that had come was durable, and the server had just been heard.
    worked: Option<Instant>,
    received_all: bool,
    stored: Positions,
    /// Something was completed or flushed since the storing thread looked.
    news: bool,
}

impl State {
    fn count(&mut self, kind: &str) {
        *self.status.errors.entry(kind.to_owned()).or_default() += 1;
    }
}

/// Most positions that are remembered; after that every second one is forgotten.
const POSITIONS: usize = 4096;

/// When WAL was in the repository up to where.
#[derive(Default)]
struct Positions(Vec<(Timestamp, Lsn)>);

impl Positions {
    fn note(&mut self, moment: Timestamp, end: Lsn) {
        if self.0.len() >= POSITIONS {
            let mut number = 0;
            self.0.retain(|_| {
                number += 1;
                number % 2 == 0
            });
        }
        self.0.push((moment, end));
    }

    /// The server went on from here on another timeline.
    fn give_up_behind(&mut self, end: Lsn) {
        self.0.retain(|(_, noted)| *noted <= end);
    }

    fn before(&self, moment: Timestamp) -> Option<Lsn> {
        self.0.iter().rev().find(|(noted, _)| *noted < moment).map(|(_, end)| *end)
    }
}

/// What the stream's threads share.
#[derive(Default)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// The end.
    pub(super) stop: Arc<StopFlag>,
}

impl Shared {
    pub(super) fn status(&self) -> StreamStatus {
        self.state.lock().status.clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut StreamStatus)) {
        change(&mut self.state.lock().status);
    }

    /// WAL comes in.
    pub(super) fn began(&self, beginning: Beginning) {
        let mut state = self.state.lock();
        let left = state.stored_on.is_some_and(|timeline| timeline != beginning.timeline);
        state.began = Some(beginning);
        let status = &mut state.status;
        (status.streaming, status.since, status.error) = (true, Some(Timestamp::now()), None);
        (status.timeline, status.server_lsn) = (Some(beginning.timeline), beginning.server);
        (status.received_lsn, status.flushed_lsn) = (beginning.position, beginning.position);
        if left {
            status.stored_lsn = status.stored_lsn.min(beginning.first);
            let stored = status.stored_lsn;
            state.stored.give_up_behind(stored);
        }
        let status = &mut state.status;
        status.archived_lsn = beginning.archived;
        status.stored_lsn = status.stored_lsn.max(beginning.archived);
    }

    /// A segment's WAL up to `end` is in the repository; `whole`: that is all of it. What a timeline holds behind the point
    /// where the server left it does not count.
    pub(super) fn has_stored(&self, segment: WalSegment, end: Lsn, whole: bool, received: Option<Timestamp>) {
        let mut state = self.state.lock();
        let end = match state.began {
            Some(began) if began.timeline != segment.timeline => end.min(began.first),
            _ => end,
        };
        // Before a stream begins nobody knows which way the server went.
        if whole && state.began.is_some() && end > state.status.archived_lsn {
            (state.status.archived_lsn, state.status.archived_at) = (end, received);
        }
        if end > state.status.stored_lsn {
            (state.status.stored_lsn, state.status.stored_at) = (end, received);
            state.stored_on = Some(segment.timeline);
            state.stored.note(Timestamp::now(), end);
        }
    }

    /// Counts a failure of receiving. True if it is to be told.
    pub(super) fn failed(&self, error: &StreamError) -> bool {
        let mut state = self.state.lock();
        state.count(error.kind());
        state.status.error = Some(error.to_string());
        state.told.meet(&error.cause(), Instant::now())
    }

    /// A session beside the stream met a failure that the stream may meet too. True if it is to be told.
    pub(super) fn met(&self, cause: &str) -> bool {
        self.state.lock().told.meet(cause, Instant::now())
    }

    /// Counts a failure beside receiving. True if it is to be told.
    pub(super) fn failed_aside(&self, kind: &str, text: &str) -> bool {
        let mut state = self.state.lock();
        state.count(kind);
        state.told_aside.meet(text, Instant::now())
    }

    /// Counts a failure of storing. True if it is to be told.
    pub(super) fn failed_to_store(&self, text: &str) -> bool {
        let mut state = self.state.lock();
        state.count("repository");
        state.status.storing_error = Some(text.to_owned());
        state.told_storing.meet(text, Instant::now())
    }

    /// The repository takes what it is given.
    pub(super) fn stored(&self) {
        let mut state = self.state.lock();
        state.status.storing_error = None;
        state.told_storing.well_since(Instant::now());
    }

    /// Up to where WAL was in the repository at this moment, as far as it is remembered.
    pub(super) fn stored_before(&self, moment: Timestamp) -> Option<Lsn> {
        self.state.lock().stored.before(moment)
    }

    /// Nothing more will be received.
    pub(super) fn received_all(&self) {
        self.state.lock().received_all = true;
        self.changed.notify_all();
    }

    pub(super) fn has_received_all(&self) -> bool {
        self.state.lock().received_all
    }

    /// A sign of life of a server that has WAL up to there.
    pub(super) fn heard_of(&self, server_end: Lsn) {
        let mut state = self.state.lock();
        state.status.server_lsn = server_end;
        if state.status.flushed_lsn >= state.status.received_lsn {
            state.worked = Some(Instant::now());
        }
    }

    /// What has come is durable now.
    pub(super) fn works(&self) {
        self.state.lock().worked = Some(Instant::now());
    }

    /// Whether the stream that began then worked for so long. If so, what was met before is over.
    pub(super) fn has_worked(&self, begun: Instant, long: Duration) -> bool {
        let mut state = self.state.lock();
        let has_worked = state.worked.is_some_and(|worked| worked.saturating_duration_since(begun) >= long);
        if has_worked {
            state.told.well_since(begun);
        }
        has_worked
    }

    /// A segment is complete: the storing thread has work.
    pub(super) fn completed(&self) {
        self.state.lock().news = true;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_stopped()
    }

    /// Waits until a segment is complete, nothing more comes, or this long.
    pub(super) fn wait_for_news(&self, time: Duration) {
        let mut state = self.state.lock();
        if !state.news && !state.received_all {
            self.changed.wait_for(&mut state, time);
        }
        state.news = false;
    }

    /// Waits this long; true as soon as the end has come.
    pub(super) fn wait_for_stop(&self, time: Duration) -> bool {
        self.stop.wait(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_lost_is_told() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut status = StreamStatus { streaming: true, stored_at: Some(at(100)), ..Default::default() };
        (status.server_lsn, status.stored_lsn) = (Lsn::new(500), Lsn::new(500));
        assert_eq!((status.lag_bytes(), status.rpo_seconds(at(160))), (0, Some(0.0)));
        status.server_lsn = Lsn::new(700);
        assert_eq!((status.lag_bytes(), status.rpo_seconds(at(160))), (200, Some(60.0)));
        // A server that cannot be seen may have written anything since.
        (status.server_lsn, status.streaming) = (Lsn::new(500), false);
        assert_eq!(status.rpo_seconds(at(160)), Some(60.0));
    }

    #[test]
    fn positions_are_remembered_with_their_moments() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let mut positions = Positions::default();
        assert_eq!(positions.before(at(5)), None);
        for second in 0..10_000 {
            positions.note(at(second), Lsn::new(second.unsigned_abs() + 1));
        }
        assert!(positions.0.len() <= POSITIONS);
        assert_eq!(positions.before(at(10_000)), Some(Lsn::new(10_000)));
        assert_eq!(
            positions.before(at(9_999)),
            Some(Lsn::new(9_999)),
            "what was noted at that very moment may be later"
        );
        let early = positions.before(at(5_000)).unwrap();
        assert!((Lsn::new(4_980)..=Lsn::new(5_000)).contains(&early), "{early}");
        positions.give_up_behind(Lsn::new(9_000));
        assert_eq!(positions.before(at(20_000)), Some(Lsn::new(9_000)), "what was given up is not told any more");
    }

    #[test]
    fn what_a_left_timeline_holds_does_not_count_for_the_next() {
        let shared = Shared::default();
        let segment = |timeline, number| WalSegment {
            timeline: TimelineId::new(timeline).unwrap(),
            number: walkeep_proto::segment::SegmentNumber::new(number),
        };
        let positions = || {
            let status = shared.status();
            (status.archived_lsn.as_u64(), status.stored_lsn.as_u64())
        };
        shared.has_stored(segment(1, 7), Lsn::new(7500), false, None);
        assert_eq!(positions(), (0, 7500));
        // The server went on from 6200 without the rest.
        let [first, position, archived, server] = [6000, 6000, 5000, 6300].map(Lsn::new);
        let timeline = segment(2, 6).timeline;
        shared.began(Beginning { timeline, first, position, archived, server });
        assert_eq!(positions(), (5000, 6000));
        for number in 5..8 {
            shared.has_stored(segment(1, number), Lsn::new((number + 1) * 1000), true, None);
            assert_eq!(positions(), (6000, 6000), "segment {number}");
        }
        shared.has_stored(segment(2, 6), Lsn::new(6300), false, None);
        assert_eq!(positions(), (6000, 6300));
        shared.has_stored(segment(2, 6), Lsn::new(7000), true, None);
        assert_eq!(positions(), (7000, 7000));
        shared.began(Beginning { timeline, first, position, archived, server });
        assert_eq!(positions(), (5000, 7000), "the same timeline");
    }

    #[test]
    fn a_failure_is_new_only_once() {
        let (shared, begun) = (Shared::default(), Instant::now());
        let away = StreamError::Connection(anyhow::anyhow!("nobody listens"));
        let full = StreamError::Disk(anyhow::anyhow!("no space"));
        assert!(shared.failed(&away));
        assert!(!shared.met("nobody listens"), "the slot's session meets the same");
        assert!(shared.failed(&full));
        assert!(!shared.failed(&away) && !shared.failed(&full), "they alternate");
        assert_eq!(shared.status().errors["connection"], 2);
        // It streams, and whatever comes takes a minute to fail.
        assert!(!shared.has_worked(begun, Duration::ZERO));
        assert!(!shared.failed(&full), "time alone is no recovery");
        let again = Instant::now();
        shared.works();
        assert!(!shared.has_worked(again, Duration::from_secs(60)));
        assert!(shared.has_worked(again, Duration::ZERO));
        assert!(shared.failed(&full));
    }
}
