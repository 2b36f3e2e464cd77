//! Base backups that the agent takes by itself: when one is due, and what became of the last ones.
//!
//! Deciding and acting are apart. [`Schedule::decide`] is a pure function of settings, [`Facts`], [`History`] and the time;
//! [`Runner`] gathers the facts through a [`World`], does what was decided, and keeps the history in the state directory.
//!
//! - One base backup at a time, never two for one due time, and one for all due times that passed while none could be
//!   taken. Due times are the calendar's: how long a backup took or when the agent started moves none of them.
//! - After a failure each reason pauses for 1 minute, 2, 4, … up to an hour; so does a reason that a backup did not end.
//! - The clock may be stepped: a due time for which there is a backup stays settled, and nothing waits for a time that the
//!   clock once wrongly showed.

mod calendar;
mod decide;
mod facts;
mod file;
mod history;
mod reason;
mod run;
mod status;
#[cfg(test)]
mod tests;

pub use calendar::Calendar;
pub use decide::{Decision, Schedule, Why};
pub use facts::{Facts, NewestBackup, WalGap};
pub use file::HistoryFile;
pub use history::{History, Run, RunResult};
pub use reason::Reason;
pub use run::{BackupOutcome, Runner, World};
pub use status::{NextRun, ScheduleStatus};
