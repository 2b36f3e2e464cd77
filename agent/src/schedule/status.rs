//! What `walkeep status` shows of the schedule.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::history::Run;

/// The base backup that comes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRun {
    /// Not before this moment, unless something happens that makes one due at once.
    pub at: Timestamp,
    /// Why then.
    pub why: String,
}

/// The schedule now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleStatus {
    /// Whether the agent takes base backups by itself.
    pub enabled: bool,
    /// What comes next; absent while one runs, and when only WAL, a gap or a timeline switch will tell.
    pub next: Option<NextRun>,
    /// The run that is under way.
    pub running: Option<Run>,
    /// Whether that run has passed its deadline, which should have ended it.
    pub overdue: bool,
    /// The last run that ended.
    pub last: Option<Run>,
    /// All runs that are remembered, newest first.
    pub history: Vec<Run>,
    /// What keeps the schedule from working: facts that cannot be had, a history that cannot be kept.
    pub problem: Option<String>,
}

impl fmt::Display for ScheduleStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.enabled {
            return f.write_str("off");
        }
        match (&self.running, &self.next) {
            (Some(run), _) => {
                write!(f, "running since {:.0} ({})", run.started, run.reason)?;
                if self.overdue {
                    f.write_str(", past its deadline")?;
                }
            }
            (None, Some(next)) => write!(f, "next at {:.0} ({})", next.at, next.why)?,
            (None, None) => f.write_str("next when needed")?,
        }
        if let Some(last) = &self.last {
            write!(f, "; last at {:.0}: {}", last.started, last.result)?;
        }
        if let Some(problem) = &self.problem {
            write!(f, "; {problem}")?;
        }
        Ok(())
    }
}
