//! A refusal: what is wrong, the code to exit with, and what to do next.

use walkeep_chunkstore::console::Exit;

/// An error that says more than its text: printed as `error: …` and `hint: …` lines.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    message: String,
    /// The code to exit with.
    pub exit: Exit,
    /// What to do next, one line each.
    pub hints: Vec<String>,
}

impl Refusal {
    /// A refusal without hints.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { message: message.into(), exit, hints: Vec::new() }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds hints.
    #[must_use]
    pub fn hints(mut self, hints: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(hints);
        self
    }
}

/// The exit code and the hints of an error, wherever in its chain of causes they stand.
pub fn exit_and_hints(error: &anyhow::Error) -> (Exit, Vec<String>) {
    let refusal = error.chain().find_map(|cause| cause.downcast_ref::<Refusal>());
    match refusal {
        Some(refusal) => (refusal.exit, refusal.hints.clone()),
        None => {
            let exit = walkeep_chunkstore::console::exit_of(error.as_ref());
            (exit, general_hint(exit).into_iter().map(str::to_owned).collect())
        }
    }
}

fn general_hint(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::Damaged => Some("run `walkeep verify` to see what else is damaged; another backup may not need it"),
        Exit::Unreachable => Some("check that the repository's path is right, mounted and readable for this user"),
        _ => None,
    }
}
