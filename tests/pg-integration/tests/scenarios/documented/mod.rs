//! The pages: what they tell users to type is typed here, in order, on a [`walkeep_pg_integration::documents::Host`], or by
//! `scripts/check-deploy` and `scripts/check-docker`, which take it from the page; what they quote exists. A block that is not run
//! says why on the line above: `<!-- not run: REASON -->`.

mod another_host;
mod blocks;
mod configurations;
mod deployed;
mod five_minutes;
mod installed;
mod links;
mod messages;
mod moving;
mod patroni;
mod runbook;
mod synchronous;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use walkeep_pg_integration::documents::repository_root;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the sources are there").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The functions of a file that are run as tests: by an attribute just above, or as a scenario.
fn tests_of(source: &str) -> Vec<String> {
    let name = |line: &str| {
        let (before, behind) = line.split_once("fn ")?;
        before.trim().trim_start_matches("async").is_empty().then_some(behind.split('(').next()?.to_owned())
    };
    let lines: Vec<&str> = source.lines().collect();
    let mut tests = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let Some(name) = name(line) else { continue };
        let above = lines[..number].iter().rev().map(|line| line.trim());
        let attributed = above.take_while(|line| line.starts_with("#[")).any(|line| line.contains("test]"));
        if attributed || source.contains(&format!(", {name});")) && source.contains("scenario!(") {
            tests.push(name);
        }
    }
    tests
}

#[test]
fn every_named_test_exists() {
    let root = repository_root();
    let mut files = Vec::new();
    for place in ["proto", "chunkstore", "agent", "restore-tool", "tools", "tests"] {
        sources(&root.join(place), &mut files);
    }
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source can be read");
    let tests: BTreeSet<String> = files.iter().flat_map(|path| tests_of(&read(path))).collect();
    let page = read(&root.join("docs/testing.md"));
    let rows = page.lines().filter_map(|line| line.strip_suffix(" |")?.rsplit_once(" | ")).map(|(_, names)| names);
    let named: Vec<&str> = rows.flat_map(|names| names.split('`').skip(1).step_by(2)).collect();
    assert!(named.len() > 50, "{} names were read", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "no tests of these names: {missing:?}");
}
