//! The history's file in the state directory.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use walkeep_chunkstore::storage::files;

use super::history::History;

/// Name in the state directory.
const NAME: &str = "schedule.json";
/// Largest file that is read: a history is a few kilobytes.
const LARGEST: u64 = 1 << 20;

/// Where the history is kept.
#[derive(Clone, Debug)]
pub struct HistoryFile {
    directory: PathBuf,
}

impl HistoryFile {
    /// The file in this state directory, which may be absent.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Reads it. No file is an empty history; one that cannot be read is an error, and the caller goes on without.
    pub fn load(&self) -> Result<History> {
        let path = self.directory.join(NAME);
        let failed = || format!("unable to read schedule history '{}'", path.display());
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(History::default()),
            other => other.with_context(failed)?,
        };
        let mut text = Vec::new();
        let length = file.take(LARGEST + 1).read_to_end(&mut text).with_context(failed)?;
        if length as u64 > LARGEST {
            bail!("{}: it is longer than {LARGEST} bytes", failed());
        }
        let mut history: History = serde_json::from_slice(&text).with_context(failed)?;
        history.trim();
        Ok(history)
    }

    /// Replaces it. Returns after fsync of file and directory: a crash leaves the old one or the new one.
    pub fn save(&self, history: &History) -> Result<()> {
        let path = self.directory.join(NAME);
        let text = serde_json::to_vec_pretty(history).context("unable to serialise the schedule history")?;
        files::replace_file(&path, &text)
            .with_context(|| format!("unable to write schedule history '{}'", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::schedule::Reason;

    #[test]
    fn what_was_saved_is_read_and_only_one_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let file = HistoryFile::new(&state);
        assert_eq!(file.load().unwrap(), History::default());
        let mut history = History::default();
        for second in 0..3 {
            let now = Timestamp::from_second(second).unwrap();
            history.start(Reason::Cron { due: now }, now);
            file.save(&history).unwrap();
            history.succeed(format!("backup {second}"), now, [now]);
            file.save(&history).unwrap();
            assert_eq!(file.load().unwrap(), history);
        }
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_read_names_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = HistoryFile::new(directory.path());
        let path = directory.path().join(NAME);
        let too_long = " ".repeat(LARGEST as usize + 1);
        for text in ["", "{", "[1]", r#"{"runs": [{"reason": {"kind": "moon"}}]}"#, "\0\0\0\0", &too_long] {
            std::fs::write(&path, text).unwrap();
            let error = format!("{:#}", file.load().unwrap_err());
            assert!(error.starts_with("unable to read schedule history '") && error.contains(NAME), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        file.load().unwrap_err();
        file.save(&History::default()).unwrap_err();
    }
}
