//! The schedule at work: gathers facts, decides, takes base backups, remembers. One thread, one base backup at a time.

use std::path::Path;
use std::time::Duration;

use anyhow::{Error, Result};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::decide::{Decision, Schedule};
use super::facts::Facts;
use super::file::HistoryFile;
use super::history::{History, RunResult, later};
use super::reason::Reason;
use super::status::{NextRun, ScheduleStatus};

/// How often facts are gathered when nothing is awaited: WAL grows and clocks are stepped without anybody telling.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The shortest wait between two looks: a clock that seems to stand still must not keep a processor busy.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(10);

/// How a base backup ended that did not fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupOutcome {
    /// It is in the repository.
    Committed {
        /// Its id.
        id: String,
    },
    /// The agent stops, so it was broken off.
    Stopped,
}

/// What the schedule sees of the world, and does to it.
pub trait World {
    /// The clock's time.
    fn now(&self) -> Timestamp;

    /// The state of repository and cluster. Called every minute, and after each run: the list of base backups should not
    /// cost more than that bears. A backup that [`World::back_up`] committed is in them from then on.
    fn facts(&self) -> Result<Facts>;

    /// Takes one base backup. Returns within `deadline`, with an error if that was too short, and soon when the agent stops.
    fn back_up(&self, reason: &Reason, deadline: Duration) -> Result<BackupOutcome>;

    /// Waits this long, by a clock that nobody steps; less if the facts may have changed. True when the agent stops.
    fn wait(&self, time: Duration) -> bool;
}

impl<W: World + ?Sized> World for &W {
    fn now(&self) -> Timestamp {
        (**self).now()
    }

    fn facts(&self) -> Result<Facts> {
        (**self).facts()
    }

    fn back_up(&self, reason: &Reason, deadline: Duration) -> Result<BackupOutcome> {
        (**self).back_up(reason, deadline)
    }

    fn wait(&self, time: Duration) -> bool {
        (**self).wait(time)
    }
}

#[derive(Default)]
struct State {
    history: History,
    next: Option<NextRun>,
    facts_problem: Option<String>,
    file_problem: Option<String>,
}

/// The schedule of one agent.
pub struct Runner<W> {
    schedule: Schedule,
    world: W,
    file: HistoryFile,
    /// Only [`Runner::run`]'s thread changes it. Never locked while anything is waited for.
    state: Mutex<State>,
}

impl<W: World> Runner<W> {
    /// Reads the history. One that cannot be read is reported, and begun anew.
    pub fn new(schedule: Schedule, world: W, state_directory: &Path) -> Self {
        let file = HistoryFile::new(state_directory);
        let mut state = State::default();
        match file.load() {
            Ok(history) => state.history = history,
            Err(error) => {
                tracing::warn!("the schedule's history begins anew: {error:#}");
                state.file_problem = Some(format!("{error:#}"));
            }
        }
        let interrupted = state.history.resume();
        let runner = Self { schedule, world, file, state: Mutex::new(state) };
        if interrupted {
            tracing::warn!("the agent ended during a scheduled base backup: that is tried again");
            runner.save();
        }
        runner
    }

    /// Works until the agent stops.
    pub fn run(&self) {
        while !self.world.wait(self.look()) {}
    }

    /// The state of things now. Answers at once, also while a base backup runs.
    pub fn status(&self) -> ScheduleStatus {
        let state = self.state.lock();
        let running = state.history.running().cloned();
        let until = running.as_ref().map(|run| later(run.started, self.schedule.deadline()));
        ScheduleStatus {
            enabled: self.schedule.is_enabled(),
            next: state.next.clone(),
            overdue: until.is_some_and(|until| until < self.world.now()),
            running,
            last: state.history.runs().find(|run| run.result != RunResult::Running).cloned(),
            history: state.history.runs().cloned().collect(),
            problem: state.facts_problem.clone().or_else(|| state.file_problem.clone()),
        }
    }

    /// Looks once, and does what is due. Says when to look again.
    fn look(&self) -> Duration {
        if !self.schedule.is_enabled() {
            return LOOK_EVERY;
        }
        let facts = match self.world.facts() {
            Ok(facts) => facts,
            Err(error) => {
                self.note_facts(Some(error));
                return LOOK_EVERY;
            }
        };
        self.note_facts(None);
        // Later than the facts, which may have taken a while.
        let now = self.world.now();
        if self.change(|history| history.observe(now, &facts)) {
            self.save();
        }
        let decision = self.schedule.decide(now, &facts, &self.state.lock().history);
        match decision {
            Decision::Due(reason) => self.back_up(reason),
            Decision::NotBefore(moment, why) => {
                self.state.lock().next = Some(NextRun { at: moment, why: why.to_string() });
                let wait = Duration::try_from(moment.duration_since(now)).unwrap_or_default();
                wait.clamp(LOOK_AT_MOST_EVERY, LOOK_EVERY)
            }
            Decision::Idle => {
                self.state.lock().next = None;
                LOOK_EVERY
            }
        }
    }

    /// Takes one base backup. Says when to look again.
    fn back_up(&self, reason: Reason) -> Duration {
        let started = self.world.now();
        tracing::info!("a base backup is due: {reason}");
        self.state.lock().next = None;
        self.change(|history| history.start(reason.clone(), started));
        self.save();
        let outcome = self.world.back_up(&reason, self.schedule.deadline());
        let now = self.world.now();
        match outcome {
            Ok(BackupOutcome::Committed { id }) => {
                tracing::info!("scheduled base backup '{id}' is done");
                self.change(|history| history.succeed(id, now, self.schedule.answered(&reason, started)));
            }
            Ok(BackupOutcome::Stopped) => {
                self.change(|history| history.stop(now));
                self.save();
                return LOOK_EVERY;
            }
            Err(error) => {
                tracing::error!("the scheduled base backup failed: {error:#}");
                self.change(|history| history.fail(&format!("{error:#}"), now));
            }
        }
        self.save();
        Duration::ZERO
    }

    fn change<T>(&self, change: impl FnOnce(&mut History) -> T) -> T {
        change(&mut self.state.lock().history)
    }

    /// Keeps the history. If that fails the schedule goes on from memory.
    fn save(&self) {
        let history = self.state.lock().history.clone();
        let problem = self.file.save(&history).err().map(|error| format!("{error:#}"));
        if let Some(problem) = &problem {
            tracing::error!("{problem}");
        }
        self.state.lock().file_problem = problem;
    }

    /// Logs that facts cannot be had once for each cause, however long that lasts.
    fn note_facts(&self, error: Option<Error>) {
        let problem = error.map(|error| format!("unable to tell whether a base backup is due: {error:#}"));
        let mut state = self.state.lock();
        if problem != state.facts_problem {
            match &problem {
                Some(problem) => tracing::warn!("{problem}"),
                None => tracing::info!("the schedule works again"),
            }
            state.facts_problem = problem;
        }
    }
}
