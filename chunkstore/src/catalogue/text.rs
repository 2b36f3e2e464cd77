//! The windows as both binaries print them.

use std::fmt;

use super::windows::{BranchWindows, Windows};

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.branches.iter().all(|branch| branch.windows.is_empty()) {
            writeln!(f, "cluster '{}': nothing can be restored", self.cluster)?;
        }
        for branch in &self.branches {
            branch.fmt(f)?;
        }
        for id in &self.unreadable_backups {
            writeln!(f, "backup {id} cannot be read: run `walkeep verify`")?;
        }
        Ok(())
    }
}

impl fmt::Display for BranchWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeline {}", self.timeline)?;
        if let Some(parent) = &self.parent {
            write!(f, ", left timeline {} at {}", parent.timeline, parent.lsn)?;
        }
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        writeln!(f)?;
        for window in &self.windows {
            writeln!(f, "  from {} ({})", window.from, window.from_lsn)?;
            writeln!(f, "    to {} ({}), the last transaction", window.to, window.to_lsn)?;
            if let Some(tail) = &window.tail {
                writeln!(f, "       the end is in a tail of WAL segment {tail}")?;
            }
            let backups: Vec<String> = window.backups.iter().map(ToString::to_string).collect();
            writeln!(f, "       backups {}", backups.join(", "))?;
            if let Some(gap) = &window.gap {
                writeln!(f, "       ends there because {gap}")?;
            }
        }
        for backup in &self.unusable {
            writeln!(f, "  backup {} cannot be restored: {}", backup.id, backup.problem)?;
        }
        Ok(())
    }
}
