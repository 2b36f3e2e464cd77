//! Whether a base backup is due: a pure function.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::calendar::Calendar;
use super::facts::{Facts, NewestBackup};
use super::history::{History, later};
use super::reason::Reason;
use crate::config::{ConfigError, ScheduleSection, full_read_every, length_of_time};

/// How long a base backup may take unless the settings say otherwise.
const DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// When to look again while somebody else takes a base backup.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The settings, checked.
#[derive(Clone, Debug)]
pub struct Schedule {
    calendar: Option<Calendar>,
    max_age: Option<Duration>,
    /// Bytes.
    max_wal: Option<u64>,
    deadline: Duration,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take a base backup.
    Due(Reason),
    /// Nothing before this moment, unless the facts change.
    NotBefore(Timestamp, Why),
    /// Nothing, until the facts change.
    Idle,
}

/// What a moment is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A base backup will be due.
    Planned(Reason),
    /// A base backup is due, but it has just been tried in vain.
    Pause {
        /// What it is due for.
        reason: Reason,
        /// How many times in a row it was tried.
        tries: u32,
    },
    /// A base backup is due, but one is being taken.
    BackupRuns(Reason),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned(reason) => reason.fmt(f),
            Self::Pause { reason, tries: 1 } => write!(f, "{reason}; tried once"),
            Self::Pause { reason, tries } => write!(f, "{reason}; tried {tries} times"),
            Self::BackupRuns(reason) => write!(f, "{reason}; a base backup is being taken"),
        }
    }
}

impl Schedule {
    /// Checks `[schedule]`. The time zone is the system's unless it is named; UTC where the system has none.
    pub fn new(section: &ScheduleSection) -> Result<Self> {
        let zone = match &section.timezone {
            Some(name) => TimeZone::get(name).map_err(|_| {
                let problem = "is not in the time zone database of this machine: expected a name like 'Europe/Berlin'";
                ConfigError(format!("[schedule] timezone '{name}' {problem}"))
            })?,
            None => TimeZone::try_system().unwrap_or(TimeZone::UTC),
        };
        let calendar = |text: &String| {
            Calendar::new(text, zone).map_err(|error| {
                ConfigError(format!("[schedule] base_backup '{text}' is no usable cron expression: {error}"))
            })
        };
        full_read_every(section)?;
        Ok(Self {
            calendar: section.base_backup.as_ref().map(calendar).transpose()?,
            max_age: above_0("max_age", section.max_age.as_deref())?,
            max_wal: section.max_wal.map(u64::from),
            deadline: above_0("deadline", section.deadline.as_deref())?.unwrap_or(DEADLINE),
        })
    }

    /// Whether the agent takes base backups by itself: at least one of cron expression, age and WAL is set.
    pub fn is_enabled(&self) -> bool {
        self.calendar.is_some() || self.max_age.is_some() || self.max_wal.is_some()
    }

    /// How long a base backup may take.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// The due times that a backup answers which started then: the calendar's latest, and the one it was started for.
    pub(super) fn answered(&self, reason: &Reason, started: Timestamp) -> impl Iterator<Item = Timestamp> {
        let own = if let Reason::Cron { due } = reason { Some(*due) } else { None };
        own.into_iter().chain(self.calendar.as_ref().and_then(|calendar| calendar.latest_until(started)))
    }

    /// What to do now.
    ///
    /// `history` has observed `now` and these facts ([`History::observe`]).
    pub fn decide(&self, now: Timestamp, facts: &Facts, history: &History) -> Decision {
        if !self.is_enabled() {
            return Decision::Idle;
        }
        let (mut due, mut waits) = (Vec::new(), Vec::new());
        match &facts.newest {
            None => due.push(Reason::FirstBackup),
            Some(newest) => {
                due.extend(broken(newest, facts));
                for (moment, reason) in self.timed(newest, now, history) {
                    if moment <= now { due.push(reason) } else { waits.push((moment, Why::Planned(reason))) }
                }
                if self.max_wal.is_some_and(|most| facts.wal_since >= most) {
                    due.push(Reason::MaxWal { since: newest.stop_lsn });
                }
            }
        }
        for reason in due {
            match history.pause(&reason, now) {
                Some((until, tries)) if until > now => waits.push((until, Why::Pause { reason, tries })),
                _ if facts.backup_runs || history.running().is_some() => {
                    return Decision::NotBefore(later(now, LOOK_AGAIN), Why::BackupRuns(reason));
                }
                _ => return Decision::Due(reason),
            }
        }
        let first = waits.into_iter().min_by_key(|(moment, _)| *moment);
        first.map_or(Decision::Idle, |(moment, why)| Decision::NotBefore(moment, why))
    }

    /// What time alone brings, and when.
    fn timed(&self, newest: &NewestBackup, now: Timestamp, history: &History) -> Vec<(Timestamp, Reason)> {
        let cron = self.calendar.as_ref().and_then(|calendar| cron(calendar, newest, now, history));
        let cron = cron.map(|due| (due, Reason::Cron { due }));
        let age = self.max_age.map(|most| {
            // A clock that was stepped back makes the newest backup one of the future: then its age counts from that step,
            // or from the last backup since.
            let behind = history.latest_start(now).max(history.behind());
            let since = if newest.started <= now { newest.started } else { behind.unwrap_or(now) };
            (later(since, most), Reason::MaxAge { since })
        });
        cron.into_iter().chain(age).collect()
    }
}

/// The due time that has passed without a backup, or else the next one.
fn cron(calendar: &Calendar, newest: &NewestBackup, now: Timestamp, history: &History) -> Option<Timestamp> {
    // Every due time up to here has its backup. One that was started for a due time may bear another machine's time, which
    // is earlier, so the history is asked too.
    let started = Some(newest.started).filter(|started| *started <= now);
    let answered = history.settled_until(now).max(started).or(history.behind()).unwrap_or(now);
    let next = calendar.next_after(answered)?;
    if next <= now {
        // One backup answers all that have passed.
        return calendar.latest_until(now);
    }
    // After a step back, due times lie ahead that have their backup already.
    std::iter::successors(Some(next), |due| calendar.next_after(*due)).find(|due| !history.is_settled(*due))
}

/// Why nothing can be restored beyond some point in spite of the newest backup.
fn broken(newest: &NewestBackup, facts: &Facts) -> impl Iterator<Item = Reason> {
    let switched = facts.timeline.filter(|timeline| *timeline != newest.timeline);
    let switch = switched.map(|to| Reason::TimelineSwitch { from: newest.timeline, to });
    switch.into_iter().chain(facts.gap_after(newest).map(|end| Reason::Gap { end }))
}

/// A length of time of `[schedule]`.
fn above_0(key: &str, text: Option<&str>) -> Result<Option<Duration>> {
    let Some(text) = text else { return Ok(None) };
    let key = format!("[schedule] {key}");
    let length = length_of_time(&key, text)?;
    if length.is_zero() {
        return Err(ConfigError(format!("{key} '{text}' is no time at all: expected more than 0")).into());
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(section: &ScheduleSection) -> String {
        let error = Schedule::new(section).unwrap_err();
        assert!(error.is::<ConfigError>());
        error.to_string()
    }

    #[test]
    fn wrong_settings_are_named() {
        let section = |key: &str, value: &str| toml::from_str(&format!("{key} = '{value}'")).unwrap();
        let error = refusal(&section("base_backup", "0 3 * *"));
        assert!(error.starts_with("[schedule] base_backup '0 3 * *' is no usable cron expression: "), "{error}");
        let error = refusal(&section("timezone", "Europe/Bonn"));
        assert!(error.starts_with("[schedule] timezone 'Europe/Bonn' is not in"), "{error}");
        let error = refusal(&section("max_age", "1 month"));
        assert!(error.starts_with("[schedule] max_age '1 month' is no length of time"), "{error}");
        let error = refusal(&section("deadline", "0s"));
        assert!(error.starts_with("[schedule] deadline '0s' is no time at all"), "{error}");
        let error = refusal(&section("full_read_every", "1 month"));
        assert!(error.starts_with("[schedule] full_read_every '1 month' is no length of time"), "{error}");
    }

    #[test]
    fn without_settings_nothing_is_ever_due() {
        let schedule = Schedule::new(&toml::from_str("timezone = 'Europe/Berlin'").unwrap()).unwrap();
        assert!(!schedule.is_enabled());
        assert_eq!(schedule.deadline(), Duration::from_secs(86_400));
        let decision = schedule.decide(Timestamp::UNIX_EPOCH, &Facts::default(), &History::default());
        assert_eq!(decision, Decision::Idle);
    }
}
