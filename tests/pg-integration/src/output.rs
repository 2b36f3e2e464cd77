//! What a finished command said.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// The end of a command: how it ended and everything it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// The exit code, or `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Runs `command` to its end.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let line = command_line(command);
        let output = command.output().unwrap_or_else(|e| panic!("unable to run {line}: {e}"));
        Self {
            command: line,
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it exited with 0.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, if it exited with 0; panics with all it said otherwise.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect_code(0)
    }

    /// Itself, if it exited with `code`; panics with all it said otherwise.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// The JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str(&self.stdout) {
            Ok(document) => document,
            Err(e) => panic!("stdout is no JSON document: {e}\n{self}"),
        }
    }

    /// Panics unless stdout or stderr contains `text`.
    #[track_caller]
    pub fn assert_says(&self, text: &str) {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "expected '{text}' in the output of\n{self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, code, signal, stdout, stderr } = self;
        write!(f, "$ {command}\nexit code {code:?}, signal {signal:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
