//! Whether every block of every page is carried out by somebody.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use walkeep_pg_integration::documents::{Block, Page, repository_root};

use super::sources;

/// How many blocks nobody runs. Each says why; a new one is a reason to think again.
const NOT_RUN: usize = 6;

/// The pages with blocks of `text` that show a layout. All others show what the commands above them print.
const LAYOUTS: [&str; 3] = ["ARCHITECTURE.md", "docs/format.md", "docs/s3.md"];

/// The first `N` literals behind each occurrence of a call, in the texts of files.
fn literals<const N: usize>(files: &[PathBuf], call: &str, quote: char) -> BTreeSet<[String; N]> {
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a source can be read");
        for behind in text.split(call).skip(1) {
            let words: Vec<String> = behind.split(quote).skip(1).step_by(2).take(N).map(str::to_owned).collect();
            found.extend(<[String; N]>::try_from(words).ok());
        }
    }
    found
}

/// What carries out the blocks.
struct Runners {
    /// Page and heading of what tests walk through: shell commands, SQL, lines for `pg_hba.conf`.
    walked: BTreeSet<[String; 2]>,
    /// Page, language and heading of what tests take by itself.
    taken: BTreeSet<[String; 3]>,
    /// Page, language, heading and a text in it: what the checks of `deploy/` and `docker/` ask `scripts/documented` for.
    checked: BTreeSet<[String; 4]>,
}

impl Runners {
    fn read() -> Self {
        let root = repository_root();
        let mut tests = Vec::new();
        sources(&root.join("tests/pg-integration/tests/scenarios/documented"), &mut tests);
        tests.retain(|path| !path.ends_with("documented/blocks.rs"));
        let mut checks = vec![root.join("scripts/check-deploy")];
        for place in ["scripts/deploy", "docker/test"] {
            checks.extend(fs::read_dir(root.join(place)).expect("they are there").flatten().map(|entry| entry.path()));
        }
        Self {
            walked: literals(&tests, ".walk(", '"'),
            taken: literals(&tests, "Page::only(", '"'),
            checked: literals(&checks, "scripts/documented\"", '\''),
        }
    }

    fn run(&self, page: &str, block: &Block) -> bool {
        let is_checked = |asked: &[String; 4]| is_asked_for(asked, page, block);
        let [page, language, heading] = [page, &block.language, &block.heading].map(str::to_owned);
        self.checked.iter().any(is_checked)
            || self.taken.contains(&[page.clone(), language.clone(), heading.clone()])
            || ["sh", "sql", "pg_hba"].contains(&language.as_str()) && self.walked.contains(&[page, heading])
    }
}

fn is_asked_for([page, language, heading, text]: &[String; 4], name: &str, block: &Block) -> bool {
    page == name && *language == block.language && *heading == block.heading && block.text.contains(text.as_str())
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let (runners, pages) = (Runners::read(), Page::all());
    let (mut run, mut not_run, mut neither) = (0, Vec::new(), Vec::new());
    for page in &pages {
        let mut above = None;
        for block in &page.blocks {
            let place = format!("{}:{} ({}, {})", page.name, block.line, block.heading, block.language);
            let is_run = match block.language.as_str() {
                // Each is read by the program: `every_configuration_is_accepted`.
                "toml" => true,
                // A walk compares it with what the block above it prints.
                "text" => LAYOUTS.contains(&page.name.as_str()) || above == Some(("sh", &block.heading)),
                _ => runners.run(&page.name, block),
            };
            match &block.not_run {
                Some(reason) if reason.len() > 10 => not_run.push(format!("{place}: {reason}")),
                Some(reason) => neither.push(format!("{place}: '{reason}' is no reason")),
                None if is_run => run += 1,
                None => neither.push(place),
            }
            above = block.not_run.is_none().then_some((block.language.as_str(), &block.heading));
        }
    }
    println!("{run} blocks are run, {} are not:\n{}", not_run.len(), not_run.join("\n"));
    assert!(neither.is_empty(), "nobody runs these, and they do not say why: {neither:#?}");
    assert!(run > 70, "{run}");
    assert_eq!(not_run.len(), NOT_RUN, "{not_run:#?}");

    // What a check asks for is there once, so that the check is not the one to find out.
    let blocks: Vec<(&str, &Block)> =
        pages.iter().flat_map(|page| page.blocks.iter().map(|block| (page.name.as_str(), block))).collect();
    let count = |asked: &[String; 4]| blocks.iter().filter(|(page, block)| is_asked_for(asked, page, block)).count();
    let wrong: Vec<&[String; 4]> = runners.checked.iter().filter(|asked| count(asked) != 1).collect();
    assert!(wrong.is_empty(), "no such block, or several: {wrong:#?}");
    assert!(runners.checked.len() >= 15, "{:#?}", runners.checked);
}
