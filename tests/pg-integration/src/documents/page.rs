//! A page of documentation, and the fenced blocks in it.

use std::fs;
use std::path::{Path, PathBuf};

/// What stands before a block that is not run, with the reason behind it.
const NOT_RUN: &str = "<!-- not run: ";

/// A fenced block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The nearest heading above it, without its `#`.
    pub heading: String,
    /// What stands behind the opening fence: `sh`, `toml`, … or nothing.
    pub language: String,
    /// The line of the opening fence, counted from 1.
    pub line: usize,
    /// The lines in it.
    pub text: String,
    /// Why it is not run: the comment `<!-- not run: REASON -->` on the line above says so.
    pub not_run: Option<String>,
}

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its path, relative to the sources' root.
    pub name: String,
    /// Its blocks, from top to bottom.
    pub blocks: Vec<Block>,
}

impl Page {
    /// Reads a page, given relative to the sources' root.
    #[track_caller]
    pub fn read(name: &str) -> Self {
        let path = repository_root().join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("unable to read {}: {e}", path.display()));
        Self { name: name.to_owned(), blocks: blocks(&text) }
    }

    /// Every page below the sources' root.
    pub fn all() -> Vec<Self> {
        let mut names = Vec::new();
        pages(&repository_root(), "", &mut names);
        names.sort();
        names.iter().map(|name| Self::read(name)).collect()
    }

    /// What stands in the one block of a language below a heading of a page.
    #[track_caller]
    pub fn only(name: &str, language: &str, heading: &str) -> String {
        let mut blocks = Self::read(name).blocks;
        blocks.retain(|block| block.language == language && block.heading == heading);
        match <[Block; 1]>::try_from(blocks) {
            Ok([block]) => block.text,
            Err(others) => panic!("{name} has {} blocks of {language} under '{heading}', not one", others.len()),
        }
    }
}

/// The names of the pages in a directory of the sources, which `prefix` leads to, and below it.
fn pages(directory: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(directory).expect("the sources are there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_directory = entry.file_type().expect("the sources are there").is_dir();
        if is_directory && !name.starts_with('.') && name != "target" {
            pages(&entry.path(), &format!("{prefix}{name}/"), names);
        } else if !is_directory && name.ends_with(".md") {
            names.push(format!("{prefix}{name}"));
        }
    }
}

/// Where the sources are.
pub fn repository_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the tests lie two levels below the root")
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let (mut heading, mut above, mut open) = (String::new(), "", None::<Block>);
    for (number, line) in text.lines().enumerate() {
        // Blocks in a list are indented with it.
        let fence = line.trim_start().strip_prefix("```");
        match (open.take(), fence) {
            (Some(block), Some(_)) => found.push(block),
            (Some(mut block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, Some(language)) => {
                let not_run = above.trim().strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix(" -->"));
                open = Some(Block {
                    heading: heading.clone(),
                    language: language.trim().to_owned(),
                    line: number + 1,
                    text: String::new(),
                    not_run: not_run.map(str::to_owned),
                });
            }
            (None, None) => {
                if let Some(title) = line.strip_prefix('#') {
                    heading = title.trim_start_matches('#').trim().to_owned();
                }
            }
        }
        above = line;
    }
    assert!(open.is_none(), "a fence is left open: {open:?}");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_know_their_heading_and_why_they_are_not_run() {
        let text = "# One\n```sh\na\n# b\n```\n## Two\n<!-- not run: it is late -->\n```sh\nc\n```\n\n```\nd\n```\n";
        let found = blocks(text);
        let brief: Vec<(&str, &str, &str, Option<&str>, usize)> = found
            .iter()
            .map(|b| (b.heading.as_str(), b.language.as_str(), b.text.as_str(), b.not_run.as_deref(), b.line))
            .collect();
        assert_eq!(
            brief,
            [
                ("One", "sh", "a\n# b\n", None, 2),
                ("Two", "sh", "c\n", Some("it is late"), 8),
                ("Two", "", "d\n", None, 12),
            ]
        );
    }
}
