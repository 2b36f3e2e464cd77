//! What the schedule did: the last runs, which due times are settled, and what waits before it is tried again.
//!
//! It is memory, not authority: the repository's list of base backups says what there is. Without its history the schedule
//! forgets pauses and what it can show, and nothing else.

use std::collections::VecDeque;
use std::fmt;
use std::mem::discriminant;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::facts::Facts;
use super::reason::Reason;

/// Runs that are kept.
const RUNS: usize = 20;
/// Due times that are kept: as far as a clock may be stepped back without a second backup for one of them.
const SETTLED: usize = 50;
/// Characters of an error that are kept.
const ERROR_LENGTH: usize = 500;
/// The first pause; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// How long it is remembered that a reason was tried in vain.
const PAUSE_REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RunResult {
    /// Not yet.
    Running,
    /// With a base backup.
    Ok {
        /// Its id.
        backup: String,
    },
    /// Without one.
    Failed {
        /// Why.
        error: String,
    },
    /// With the agent, which stopped or died.
    Interrupted,
}

impl fmt::Display for RunResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("running"),
            Self::Ok { backup } => write!(f, "ok: {backup}"),
            Self::Failed { error } => write!(f, "failed: {error}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

/// One base backup that the schedule started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Why.
    pub reason: Reason,
    /// When it started.
    pub started: Timestamp,
    /// When it ended; absent while it runs, and when nobody saw its end.
    pub ended: Option<Timestamp>,
    /// How it ended.
    pub result: RunResult,
}

impl Run {
    /// How long it took, by the clock: too much or too little if that was stepped meanwhile, but never below 0.
    pub fn duration(&self) -> Option<Duration> {
        Some(self.ended?.duration_since(self.started).try_into().unwrap_or_default())
    }
}

/// A reason that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pause {
    reason: Reason,
    /// When the pause began.
    since: Timestamp,
    /// How many times running it was tried and did not help.
    tries: u32,
    /// Whether the last try failed; otherwise it gave a backup.
    failed: bool,
}

impl Pause {
    fn length(&self) -> Duration {
        let doubled = FIRST_PAUSE * (1 << self.tries.saturating_sub(1).min(10));
        doubled.min(LONGEST_PAUSE)
    }
}

/// What the schedule did and what follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Oldest first.
    runs: VecDeque<Run>,
    /// Due times for which there is a backup, in the order in which that became so.
    settled: VecDeque<Timestamp>,
    /// At most one for each kind of reason.
    pauses: Vec<Pause>,
    /// Since when the clock is behind something that has happened: it was stepped back then.
    behind: Option<Timestamp>,
}

impl History {
    /// The runs, newest first.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().rev()
    }

    /// The run that is under way.
    pub fn running(&self) -> Option<&Run> {
        self.runs.back().filter(|run| run.result == RunResult::Running)
    }

    /// Since when the clock is behind something that has happened.
    pub(super) fn behind(&self) -> Option<Timestamp> {
        self.behind
    }

    /// Whether there is a backup for this due time.
    pub(super) fn is_settled(&self, due: Timestamp) -> bool {
        self.settled.contains(&due)
    }

    /// The latest due time up to `now` for which there is a backup.
    pub(super) fn settled_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.settled.iter().copied().filter(|due| *due <= now).max()
    }

    /// The latest start up to `now` of a run that gave a backup.
    pub(super) fn latest_start(&self, now: Timestamp) -> Option<Timestamp> {
        let good = |run: &&Run| matches!(run.result, RunResult::Ok { .. }) && run.started <= now;
        self.runs.iter().filter(good).map(|run| run.started).max()
    }

    /// Until when nothing may be started for this kind of reason, and how many times in a row it was tried in vain.
    pub(super) fn pause(&self, reason: &Reason, now: Timestamp) -> Option<(Timestamp, u32)> {
        let pause = self.pauses.iter().find(|pause| discriminant(&pause.reason) == discriminant(reason))?;
        Some((later(pause.since.min(now), pause.length()), pause.tries))
    }

    /// Notes a clock that was stepped back, and forgets what is long past. Says whether there is something new to keep.
    ///
    /// What seems to lie ahead is then taken to have happened at the moment when that was first seen: nothing waits until
    /// the clock gets to a time that it once wrongly showed.
    pub fn observe(&mut self, now: Timestamp, facts: &Facts) -> bool {
        let runs = self.runs.iter().map(|run| run.ended.unwrap_or(run.started).max(run.started));
        let known = runs.chain(self.pauses.iter().map(|pause| pause.since)).chain(self.settled.iter().copied());
        let ahead = known.chain(facts.newest.map(|newest| newest.started)).any(|moment| moment > now);
        let behind = ahead.then(|| self.behind.map_or(now, |since| since.min(now)));
        let mut changed = behind != self.behind;
        self.behind = behind;
        for pause in self.pauses.iter_mut().filter(|pause| pause.since > now) {
            pause.since = now;
            changed = true;
        }
        let pauses = self.pauses.len();
        self.pauses.retain(|pause| later(pause.since, PAUSE_REMEMBERED) > now);
        changed || self.pauses.len() < pauses
    }

    /// A run starts.
    pub fn start(&mut self, reason: Reason, now: Timestamp) {
        self.runs.push_back(Run { reason, started: now, ended: None, result: RunResult::Running });
        self.trim();
    }

    /// The run that is under way ended well. `settled` are the due times that it answers.
    pub fn succeed(&mut self, backup: String, now: Timestamp, settled: impl IntoIterator<Item = Timestamp>) {
        let Some(reason) = self.end(RunResult::Ok { backup }, Some(now)) else { return };
        for due in settled {
            if !self.settled.contains(&due) {
                self.settled.push_back(due);
            }
        }
        // Backups work again, so whatever else failed may be tried now.
        let tries =
            self.take_pause(&reason).filter(|last| !last.failed && last.reason == reason).map_or(0, |p| p.tries);
        self.pauses.retain(|pause| !pause.failed);
        // A settled due time never comes back. Other reasons may, at once, if the backup did not change what caused them.
        if !matches!(reason, Reason::Cron { .. }) {
            self.pauses.push(Pause { reason, since: now, tries: tries.saturating_add(1), failed: false });
        }
        self.trim();
    }

    /// The run that is under way failed.
    pub fn fail(&mut self, error: &str, now: Timestamp) {
        let error = error.chars().take(ERROR_LENGTH).collect();
        if let Some(reason) = self.end(RunResult::Failed { error }, Some(now)) {
            self.pause_after_failure(reason, now);
        }
    }

    /// The run that is under way ends because the agent does: the next agent tries again at once.
    pub fn stop(&mut self, now: Timestamp) {
        self.end(RunResult::Interrupted, Some(now));
    }

    /// The agent starts. A run that seems to be under way died with the last one; says whether there was one.
    ///
    /// It counts as a failure that happened at its start: if it is what kills the agent, pauses grow all the same.
    pub fn resume(&mut self) -> bool {
        let Some(started) = self.running().map(|run| run.started) else { return false };
        if let Some(reason) = self.end(RunResult::Interrupted, None) {
            self.pause_after_failure(reason, started);
        }
        true
    }

    fn end(&mut self, result: RunResult, ended: Option<Timestamp>) -> Option<Reason> {
        let run = self.runs.back_mut().filter(|run| run.result == RunResult::Running)?;
        run.result = result;
        run.ended = ended;
        Some(run.reason.clone())
    }

    fn take_pause(&mut self, reason: &Reason) -> Option<Pause> {
        let place = self.pauses.iter().position(|pause| discriminant(&pause.reason) == discriminant(reason))?;
        Some(self.pauses.swap_remove(place))
    }

    fn pause_after_failure(&mut self, reason: Reason, since: Timestamp) {
        let tries = self.take_pause(&reason).filter(|last| last.failed).map_or(0, |last| last.tries);
        self.pauses.push(Pause { reason, since, tries: tries.saturating_add(1), failed: true });
    }

    /// Keeps to the bounds, whatever was read from a file.
    pub(super) fn trim(&mut self) {
        self.runs.drain(..self.runs.len().saturating_sub(RUNS));
        self.settled.drain(..self.settled.len().saturating_sub(SETTLED));
        self.pauses.truncate(RUNS);
    }
}

/// The moment this much later, or the last one that can be written down.
pub(super) fn later(moment: Timestamp, time: Duration) -> Timestamp {
    moment.checked_add(time).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use walkeep_proto::lsn::Lsn;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn paused(history: &History, reason: &Reason, now: Timestamp) -> Option<i64> {
        let (until, _) = history.pause(reason, now)?;
        Some(until.duration_since(now).as_secs())
    }

    #[test]
    fn pauses_double_up_to_an_hour_for_each_kind_of_reason() {
        let mut history = History::default();
        let lengths: Vec<_> = (0..9)
            .map(|day| {
                let reason = Reason::Cron { due: at(day) };
                history.start(reason.clone(), at(day));
                history.fail("disk full", at(day));
                paused(&history, &reason, at(day)).unwrap()
            })
            .collect();
        assert_eq!(lengths, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        assert_eq!(history.pause(&Reason::FirstBackup, at(9)), None);
        // A backup for any reason ends them.
        history.start(Reason::FirstBackup, at(10));
        history.succeed("b".to_owned(), at(11), []);
        assert_eq!(history.pause(&Reason::Cron { due: at(0) }, at(11)), None);
    }

    #[test]
    fn a_backup_that_does_not_help_is_followed_by_growing_pauses() {
        let mut history = History::default();
        let mut take = |reason: &Reason, second| {
            history.start(reason.clone(), at(second));
            history.succeed("b".to_owned(), at(second), []);
            paused(&history, reason, at(second)).unwrap()
        };
        let gap = Reason::Gap { end: Lsn::new(0x100) };
        assert_eq!((take(&gap, 0), take(&gap, 60), take(&gap, 180)), (60, 120, 240));
        let other = Reason::Gap { end: Lsn::new(0x200) };
        assert_eq!(take(&other, 500), 60);
    }

    #[test]
    fn a_run_that_the_agent_did_not_survive_is_seen() {
        let mut history = History::default();
        history.start(Reason::FirstBackup, at(0));
        assert!(history.running().is_some() && history.resume() && !history.resume());
        assert_eq!(history.runs().next().unwrap().result, RunResult::Interrupted);
        assert_eq!(paused(&history, &Reason::FirstBackup, at(0)), Some(60));
        assert_eq!(history.running(), None);
    }

    #[test]
    fn a_clock_stepped_back_delays_nothing() {
        let mut history = History::default();
        history.start(Reason::FirstBackup, at(1_000_000));
        history.fail("x", at(1_000_000));
        assert!(history.observe(at(0), &Facts::default()));
        assert_eq!((history.behind(), paused(&history, &Reason::FirstBackup, at(30))), (Some(at(0)), Some(30)));
        assert!(!history.observe(at(60), &Facts::default()));
        // Again, and then the clock is past everything.
        assert!(history.observe(at(-60), &Facts::default()) && history.behind() == Some(at(-60)));
        assert!(history.observe(at(1_000_000), &Facts::default()) && history.behind().is_none());
        assert_eq!(history.pause(&Reason::FirstBackup, at(1_000_000)), None);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut history = History::default();
        for second in 0..100 {
            history.start(Reason::Cron { due: at(second) }, at(second));
            history.succeed("b".to_owned(), at(second), [at(second)]);
        }
        assert_eq!((history.runs().count(), history.settled.len()), (RUNS, SETTLED));
        assert_eq!(history.runs().next().unwrap().started, at(99));
        assert_eq!((history.settled_until(at(70)), history.is_settled(at(10))), (Some(at(70)), false));
        history.start(Reason::FirstBackup, at(100));
        history.fail(&"é".repeat(10_000), at(100));
        assert!(serde_json::to_string(&history).unwrap().len() < 10_000);
    }
}
