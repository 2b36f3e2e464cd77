//! A refusal: what is wrong, the code to exit with, and what to do next.

use walkeep_chunkstore::Error;
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
    if let Some(refusal) = error.chain().find_map(|cause| cause.downcast_ref::<Refusal>()) {
        return (refusal.exit, refusal.hints.clone());
    }
    let exit = walkeep_chunkstore::console::exit_of(error.as_ref());
    let cause = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    // What the service said is known better where it was heard.
    let hint = cause.and_then(Error::hint).or_else(|| general_hint(exit, cause));
    (exit, hint.into_iter().map(str::to_owned).collect())
}

fn general_hint(exit: Exit, cause: Option<&Error>) -> Option<&'static str> {
    match (exit, cause) {
        (Exit::Damaged, _) => Some("run `walkeep verify` to see what else is damaged; another backup may not need it"),
        (Exit::Unreachable, Some(Error::Bucket { .. })) => {
            Some("check the endpoint, the network and the credentials, then run the command again")
        }
        (Exit::Unreachable, _) => Some("check that the repository's path is right, mounted and readable for this user"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use walkeep_chunkstore::ErrorKind;

    use super::*;

    #[test]
    fn a_bucket_that_cannot_be_reached_is_no_path() {
        let error = |hint| {
            let problem = "no answer in time".to_owned();
            let kind = ErrorKind::Unreachable;
            let error = Error::Bucket { operation: "list", object: "s3://b/p/".to_owned(), problem, kind, hint };
            exit_and_hints(&anyhow::Error::from(error).context("unable to open"))
        };
        assert_eq!(error(Some("run NTP")), (Exit::Unreachable, vec!["run NTP".to_owned()]));
        let (exit, hints) = error(None);
        assert!(exit == Exit::Unreachable && hints.len() == 1 && hints[0].contains("endpoint"), "{hints:?}");
    }
}
