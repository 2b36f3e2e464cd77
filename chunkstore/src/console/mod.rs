//! What both binaries print, and the codes they exit with: one look, one meaning.
//!
//! Human output goes to stdout, diagnostics and progress to stderr. A reader that went away ([`print()`] into a closed pipe) is
//! no error.

mod exit;
mod home;
mod human;
mod progress;

pub use exit::{Exit, exit_of};
pub use home::ensure_home;
pub use human::{Bytes, Elapsed};
pub use progress::{Progress, Show};

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

/// Writes `error: …: cause: cause` and a `hint: …` line for each hint to stderr.
pub fn report(error: &(dyn Error + 'static), hints: &[String]) {
    // Nobody is left to be told that stderr is gone.
    let _ = std::io::stderr().lock().write_all(render(error, hints).as_bytes());
}

/// The lines that [`report`] writes.
pub fn render(error: &(dyn Error + 'static), hints: &[String]) -> String {
    let mut text = format!("error: {}\n", chain(error));
    for hint in hints {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

/// An error and its causes in one line.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut shown = text.clone();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        // A transparent wrapper says the same as what it wraps.
        if words != shown {
            let _ = write!(text, ": {words}");
        }
        shown = words;
        source = cause.source();
    }
    text
}

/// Writes text to stdout; a reader that stopped reading is no error.
pub fn print(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes one JSON object to stdout.
pub fn print_json<T: Serialize>(value: &T) {
    let text = serde_json::to_string_pretty(value).expect("plain structures with text keys always serialise");
    print(&format!("{text}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn causes_follow_each_other_and_hints_follow_them() {
        let source = std::io::Error::other("input/output error");
        let error = Error::Storage { operation: "read", object: "packs/00/00".to_owned(), source };
        let text = render(&error, &["run `walkeep verify`".to_owned()]);
        assert_eq!(text, "error: unable to read 'packs/00/00': input/output error\nhint: run `walkeep verify`\n");
    }
}
