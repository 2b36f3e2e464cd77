//! A cluster, a repository and a clock in memory. Time passes only where the schedule waits or takes a base backup.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::{SignedDuration, Timestamp};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use crate::schedule::history::later;
use crate::schedule::*;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(86_400);

/// What happens whether the agent likes it or not.
#[derive(Clone, Debug)]
pub enum Event {
    /// The agent is killed, and started this much later.
    Kill(Duration),
    /// The agent is stopped, and started this much later.
    Quit(Duration),
    /// The clock is stepped.
    Step(SignedDuration),
    /// The cluster is promoted.
    Switch,
    /// WAL up to now is lost.
    Gap,
    /// So many bytes of WAL are written.
    Wal(u64),
    /// Somebody takes a base backup by hand, which takes this long.
    ByHand(Duration),
    /// Facts cannot be had for this long.
    Blind(Duration),
    /// The agent is woken for nothing.
    Wake,
}

/// One call of `back_up`. Times are true ones, whatever the clock showed.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub reason: Reason,
    pub deadline: Duration,
    pub started: Timestamp,
    pub ended: Timestamp,
    pub good: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Interruption {
    Woken,
    Killed,
    Stopped,
    Ended,
}

/// What unwinds the runner when the agent is killed.
struct Killed;

/// How long the attempt of this number takes, and whether it works.
type Plan = Box<dyn Fn(usize) -> (Duration, bool)>;

pub struct Virtual {
    time: Cell<Timestamp>,
    /// How far the clock is ahead of the time.
    ahead: Cell<SignedDuration>,
    end: Cell<Timestamp>,
    events: RefCell<VecDeque<(Timestamp, Event)>>,
    plan: RefCell<Plan>,
    timeline: Cell<u32>,
    lsn: Cell<u64>,
    gaps: RefCell<Vec<WalGap>>,
    /// Complete base backups with the true times of their starts.
    pub backups: RefCell<Vec<(Timestamp, NewestBackup)>>,
    /// A base backup by hand: when it started, by the time and by the clock, and when it ends.
    by_hand: Cell<Option<(Timestamp, Timestamp, Timestamp)>>,
    blind_until: Cell<Timestamp>,
    /// Whether facts take the backup of the latest time for the newest, which is wrong where a clock was.
    pub by_name: Cell<bool>,
    down_for: Cell<Option<Duration>>,
    pub attempts: RefCell<Vec<Attempt>>,
    /// True times between which no base backup of the schedule could start.
    pub obstacles: RefCell<Vec<(Timestamp, Timestamp)>>,
    /// How many times facts were asked for.
    pub looks: Cell<u64>,
    state: tempfile::TempDir,
}

impl Virtual {
    /// A cluster on timeline 1 with one base backup, which started an hour before.
    pub fn new(start: &str) -> Self {
        let this = Self::empty(start);
        let started = this.time().checked_sub(HOUR).unwrap();
        this.commit(started, started);
        this
    }

    /// A cluster without any base backup.
    pub fn empty(start: &str) -> Self {
        let start = at(start);
        Self {
            time: Cell::new(start),
            ahead: Cell::default(),
            end: Cell::new(start),
            events: RefCell::default(),
            plan: RefCell::new(Box::new(|_| (40 * MINUTE, true))),
            timeline: Cell::new(1),
            lsn: Cell::new(1 << 30),
            gaps: RefCell::default(),
            backups: RefCell::default(),
            by_hand: Cell::new(None),
            blind_until: Cell::new(start),
            by_name: Cell::new(false),
            down_for: Cell::new(None),
            attempts: RefCell::default(),
            obstacles: RefCell::default(),
            looks: Cell::new(0),
            // Memory where there is such a place: a campaign writes the file some ten thousand times.
            state: tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap(),
        }
    }

    /// How base backups go.
    pub fn plan(self, plan: impl Fn(usize) -> (Duration, bool) + 'static) -> Self {
        *self.plan.borrow_mut() = Box::new(plan);
        self
    }

    /// What happens, and when.
    pub fn events(self, events: impl IntoIterator<Item = (Timestamp, Event)>) -> Self {
        let mut events: Vec<_> = events.into_iter().collect();
        events.sort_by_key(|(time, _)| *time);
        *self.events.borrow_mut() = events.into();
        self
    }

    pub fn state(&self) -> &std::path::Path {
        self.state.path()
    }

    pub fn time(&self) -> Timestamp {
        self.time.get()
    }

    /// Runs agents, one after the other, for so long.
    pub fn run(&self, schedule: &Schedule, length: Duration) {
        self.run_as(self, schedule, length);
    }

    /// The same with a world that stands before this one.
    pub fn run_as(&self, world: &impl World, schedule: &Schedule, length: Duration) {
        self.end.set(later(self.time(), length));
        // What happens at the first moment happens before the agent starts.
        self.pass(self.time());
        loop {
            let agent = || Runner::new(schedule.clone(), world, self.state()).run();
            if let Err(cause) = catch_unwind(AssertUnwindSafe(agent))
                && !cause.is::<Killed>()
            {
                resume_unwind(cause);
            }
            let Some(down) = self.down_for.take() else { return self.note_end() };
            let from = self.time();
            let until = later(from, down);
            while self.time() < until && self.pass(until) != Some(Interruption::Ended) {}
            self.obstacles.borrow_mut().push((from, self.time()));
            // Who stops an agent that does not run changes nothing.
            self.down_for.set(None);
            if self.time() >= self.end.get() {
                return self.note_end();
            }
        }
    }

    fn note_end(&self) {
        if let Some((from, _, _)) = self.by_hand.get() {
            self.obstacles.borrow_mut().push((from, self.time()));
        }
    }

    /// The reasons of all attempts, with the true time at which each started.
    pub fn started(&self) -> Vec<(Timestamp, Reason)> {
        self.attempts.borrow().iter().map(|attempt| (attempt.started, attempt.reason.clone())).collect()
    }

    /// The due times for which there are base backups, in the order in which these were taken.
    pub fn answered(&self) -> Vec<Timestamp> {
        let attempts = self.attempts.borrow();
        let good = attempts.iter().filter(|attempt| attempt.good);
        good.filter_map(|attempt| if let Reason::Cron { due } = attempt.reason { Some(due) } else { None }).collect()
    }

    fn clock(&self) -> Timestamp {
        self.time().checked_add(self.ahead.get()).unwrap()
    }

    fn commit(&self, time: Timestamp, clock: Timestamp) {
        let timeline = TimelineId::new(self.timeline.get()).unwrap();
        let stop_lsn = Lsn::new(self.lsn.get());
        let backup = NewestBackup { started: clock, stopped: self.clock(), stop_lsn, timeline };
        self.backups.borrow_mut().push((time, backup));
    }

    /// Lets time pass up to `until`, or to what ends the wait.
    fn pass(&self, until: Timestamp) -> Option<Interruption> {
        loop {
            let by_hand = self.by_hand.get();
            let next = self.events.borrow().front().map(|(time, _)| *time);
            let stops = [Some(until), Some(self.end.get()), by_hand.map(|(_, _, end)| end), next];
            let stop = stops.into_iter().flatten().min().unwrap().max(self.time());
            self.time.set(stop);
            if let Some((time, clock, end)) = by_hand
                && end <= stop
            {
                self.by_hand.set(None);
                self.commit(time, clock);
                self.obstacles.borrow_mut().push((time, end));
                continue;
            }
            if stop >= self.end.get() {
                return Some(Interruption::Ended);
            }
            if next.is_some_and(|next| next <= stop) {
                let event = self.events.borrow_mut().pop_front();
                if let Some(interruption) = event.and_then(|(_, event)| self.happen(event)) {
                    return Some(interruption);
                }
                continue;
            }
            return None;
        }
    }

    fn happen(&self, event: Event) -> Option<Interruption> {
        match event {
            Event::Kill(down) => {
                self.down_for.set(Some(down));
                return Some(Interruption::Killed);
            }
            Event::Quit(down) => {
                self.down_for.set(Some(down));
                return Some(Interruption::Stopped);
            }
            Event::Step(step) => {
                self.ahead.set(self.ahead.get() + step);
                return None;
            }
            Event::Wal(bytes) => {
                self.lsn.set(self.lsn.get() + bytes);
                return None;
            }
            Event::Switch => self.timeline.set(self.timeline.get() + 1),
            Event::Gap => {
                self.lsn.set(self.lsn.get() + (16 << 20));
                let timeline = TimelineId::new(self.timeline.get()).unwrap();
                self.gaps.borrow_mut().push(WalGap { timeline, end: Lsn::new(self.lsn.get()) });
            }
            Event::ByHand(length) => {
                // It waits for one of the agent's, which sees its lease.
                if self.by_hand.get().is_none() && !self.in_backup() {
                    self.by_hand.set(Some((self.time(), self.clock(), later(self.time(), length))));
                }
                return None;
            }
            Event::Blind(length) => {
                let until = later(self.time(), length);
                self.obstacles.borrow_mut().push((self.time(), until));
                self.blind_until.set(self.blind_until.get().max(until));
                return None;
            }
            Event::Wake => {}
        }
        Some(Interruption::Woken)
    }

    fn in_backup(&self) -> bool {
        self.attempts.borrow().last().is_some_and(|attempt| attempt.ended == Timestamp::MAX)
    }
}

impl World for Virtual {
    fn now(&self) -> Timestamp {
        self.clock()
    }

    fn facts(&self) -> Result<Facts> {
        self.looks.set(self.looks.get() + 1);
        if self.time() < self.blind_until.get() {
            bail!("the bucket does not answer");
        }
        let timeline = TimelineId::new(self.timeline.get());
        let backups: Vec<_> = self.backups.borrow().iter().map(|(_, backup)| *backup).collect();
        let newest = if self.by_name.get() {
            backups.into_iter().max_by_key(|backup| backup.started)
        } else {
            NewestBackup::of(backups, timeline)
        };
        Ok(Facts {
            newest,
            wal_since: newest.map_or(0, |newest| self.lsn.get() - newest.stop_lsn.as_u64()),
            timeline,
            gaps: self.gaps.borrow().clone(),
            backup_runs: self.by_hand.get().is_some(),
        })
    }

    fn back_up(&self, reason: &Reason, deadline: Duration) -> Result<BackupOutcome> {
        assert!(!self.in_backup() && self.by_hand.get().is_none(), "two base backups at a time");
        let (number, started, clock) = (self.attempts.borrow().len(), self.time(), self.clock());
        let (reason, ended) = (reason.clone(), Timestamp::MAX);
        self.attempts.borrow_mut().push(Attempt { reason, deadline, started, ended, good: false });
        let (length, works) = (*self.plan.borrow())(number);
        let until = later(started, length.min(deadline));
        let interruption = loop {
            match self.pass(until) {
                Some(Interruption::Woken) => {}
                other => break other,
            }
        };
        self.obstacles.borrow_mut().push((started, self.time()));
        let good = interruption.is_none() && works && length <= deadline;
        if let Some(attempt) = self.attempts.borrow_mut().last_mut() {
            (attempt.ended, attempt.good) = (self.time(), good);
        }
        match interruption {
            Some(Interruption::Stopped) => return Ok(BackupOutcome::Stopped),
            Some(_) => resume_unwind(Box::new(Killed)),
            None if length > deadline => bail!("the deadline has passed"),
            None if !works => bail!("the disk is full"),
            None => {}
        }
        self.commit(started, clock);
        Ok(BackupOutcome::Committed { id: format!("backup {number}") })
    }

    fn wait(&self, time: Duration) -> bool {
        self.down_for.get().is_some()
            || !matches!(self.pass(later(self.time(), time)), None | Some(Interruption::Woken))
    }
}

/// How many cases to go through: so many, or in a full test many more.
pub fn campaign(cases: u64) -> u64 {
    if std::env::var_os("WALKEEP_FULL").is_some_and(|value| value == "1") { cases * 20 } else { cases }
}

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A schedule from lines of `[schedule]`.
pub fn schedule(settings: &str) -> Schedule {
    Schedule::new(&toml::from_str(settings).unwrap()).unwrap()
}

/// Numbers that look random and are the same for the same seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        // The step and mixing of splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub fn seconds(&mut self, limit: Duration) -> Duration {
        Duration::from_secs(self.below(limit.as_secs()))
    }
}
