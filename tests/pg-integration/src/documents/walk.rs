//! One section of a page, block after block.

use std::collections::VecDeque;

use super::host::Host;
use super::page::{Block, Page};
use crate::output::Output;

/// A way through a section. Every block in it that a reader carries out with a server must be, in order, before it is dropped:
/// shell commands, SQL, lines for `pg_hba.conf`.
pub struct Walk<'a> {
    host: &'a Host,
    name: String,
    left: VecDeque<Block>,
    given: Vec<(String, String, bool)>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(host: &'a Host, page: &str, heading: &str) -> Self {
        let left: VecDeque<Block> =
            Page::read(page).blocks.into_iter().filter(|block| block.heading == heading).collect();
        assert!(!left.is_empty(), "{page} has no block under '{heading}'");
        Self { host, name: format!("{page}, '{heading}'"), left, given: Vec::new() }
    }

    /// What a reader would put in the place of an example, in all blocks from here on; it must occur.
    #[must_use]
    pub fn given(mut self, example: &str, real: &str) -> Self {
        self.given.push((example.to_owned(), real.to_owned(), false));
        self
    }

    /// Runs the next block of shell commands, which contains `text`, to success.
    #[track_caller]
    pub fn run(&mut self, text: &str) -> Output {
        let commands = self.next("sh", text);
        let output = self.host.run(&commands).ok();
        self.compare_shown(&output);
        output
    }

    /// Appends the next block of `language`, which contains `text`, to a file of the host.
    #[track_caller]
    pub fn append(&mut self, language: &str, text: &str, file: &str) {
        let content = self.next(language, text);
        self.host.append(file, &format!("\n{content}"));
    }

    /// Runs the next block of SQL, which contains `text`, as the server's superuser.
    #[track_caller]
    pub fn sql(&mut self, text: &str) {
        let statements = self.next("sql", text);
        self.host.sql(&statements);
    }

    /// The next block of `language`, with real values in place of the examples.
    #[track_caller]
    fn next(&mut self, language: &str, text: &str) -> String {
        let block = loop {
            let block =
                self.left.pop_front().unwrap_or_else(|| panic!("{}: no more {language} with '{text}'", self.name));
            if block.language == language && block.not_run.is_none() {
                break block;
            }
            assert!(is_done(&block), "{}: line {} was not run, '{text}' is behind it", self.name, block.line);
        };
        let mut commands = block.text;
        assert!(commands.contains(text), "{}: expected '{text}' in line {} and on:\n{commands}", self.name, block.line);
        for (example, real, used) in &mut self.given {
            *used |= commands.contains(example.as_str());
            commands = commands.replace(example.as_str(), real);
        }
        commands
    }

    /// A block of `text` behind the one that was run shows what it prints; `…` stands for anything.
    #[track_caller]
    fn compare_shown(&mut self, output: &Output) {
        if self.left.front().is_none_or(|block| block.language != "text") {
            return;
        }
        let shown = self.left.pop_front().map(|block| block.text).unwrap_or_default();
        let printed = format!("{}{}", output.stdout, output.stderr);
        let mut lines = printed.lines();
        for expected in shown.lines() {
            let found = lines.any(|line| is_like(line.trim_end(), expected));
            assert!(found, "{}: the page shows '{expected}', not in this place of\n{output}", self.name);
        }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let missed: Vec<usize> = self.left.iter().filter(|block| !is_done(block)).map(|block| block.line).collect();
        assert!(missed.is_empty(), "{}: the blocks in lines {missed:?} were not run", self.name);
        let unused: Vec<&str> = self.given.iter().filter(|given| !given.2).map(|given| given.0.as_str()).collect();
        assert!(unused.is_empty(), "{}: no block has {unused:?}", self.name);
    }
}

/// Whether nothing has to be run for it.
fn is_done(block: &Block) -> bool {
    !["sh", "sql", "pg_hba"].contains(&block.language.as_str()) || block.not_run.is_some()
}

/// Whether a line is what a page shows, in which `…` stands for anything.
fn is_like(line: &str, shown: &str) -> bool {
    let mut parts = shown.split('…');
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::is_like;

    #[test]
    fn an_ellipsis_stands_for_anything() {
        assert!(is_like("a 12 b 7 c", "a … b … c") && is_like("same", "same") && is_like("a 1", "a …"));
        for (line, shown) in [("a 12 b", "a … c"), ("same more", "same"), ("x a 1", "a …"), ("a c", "a … b … c")]
        {
            assert!(!is_like(line, shown), "{line} is not {shown}");
        }
    }
}
