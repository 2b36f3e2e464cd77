//! What the documentation says in the middle of a sentence or a table of commands and options: the programs know it. Blocks of
//! commands are run by other tests.
#![expect(clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;

/// The pages, by their path from the sources' root.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = fs::read_dir(root.join("docs")).expect("there are pages").flatten().map(|entry| entry.path());
    let others = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "deploy/README.md", "docker/README.md"];
    let mut files: Vec<PathBuf> = docs.chain(others.map(|name| root.join(name))).collect();
    files.sort();
    let read = |path: &PathBuf| fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    files.iter().map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), read(path))).collect()
}

/// What stands between backticks on a page, outside its blocks. A span may go on in the next line.
fn spans(text: &str) -> Vec<String> {
    let prose: Vec<&str> = text.split("```").step_by(2).collect();
    prose
        .iter()
        .flat_map(|part| part.split('`').skip(1).step_by(2))
        .map(|span| span.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// The long options in a text.
fn options(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter_map(|word| word.strip_prefix("--")).filter(|name| !name.is_empty()).collect()
}

/// Whether a command has a long option, its own or one that all commands of the program have.
fn has_option(program: &Command, command: &Command, name: &str) -> bool {
    let is = |argument: &clap::Arg| argument.get_long() == Some(name);
    ["help", "version"].contains(&name)
        || command.get_arguments().any(is)
        || program.get_arguments().any(|argument| argument.is_global_set() && is(argument))
}

/// What is wrong with a command as a page writes it, with placeholders and brackets.
fn fault(programs: &[Command], span: &str) -> Option<String> {
    let mut words = span.split(' ');
    let program = programs.iter().find(|program| Some(program.get_name()) == words.clone().next())?;
    let first = words.nth(1).unwrap_or_default();
    // A label in the repository's format is none of our commands: `walkeep 2026 chunk id v1`.
    let is_command = !first.is_empty() && first.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
    let command = match program.find_subcommand(first) {
        Some(command) => command,
        None if is_command && !first.starts_with('-') => return Some(format!("no command '{first}'")),
        None => program,
    };
    let unknown: Vec<&str> = options(span).into_iter().filter(|name| !has_option(program, command, name)).collect();
    (!unknown.is_empty()).then(|| format!("no options {unknown:?}"))
}

#[test]
fn every_command_that_a_page_names_exists() {
    let programs = walkeep_pages::programs();
    let (mut seen, mut faults) = (BTreeSet::new(), Vec::new());
    for (page, text) in pages() {
        for span in spans(&text) {
            if span.starts_with("walkeep ") || span.starts_with("walkeep-restore ") {
                faults.extend(fault(&programs, &span).map(|fault| format!("{page}: `{span}`: {fault}")));
                seen.insert(span);
            }
        }
    }
    assert!(seen.len() > 40, "{seen:#?}");
    assert!(faults.is_empty(), "{faults:#?}");

    for wrong in ["walkeep backups", "walkeep backup --everything", "walkeep-restore --targte-time T"] {
        assert!(fault(&programs, wrong).is_some(), "{wrong}");
    }
}

#[test]
fn the_readme_knows_every_command_and_no_other_option() {
    let programs = walkeep_pages::programs();
    let (_, readme) = pages()
        .into_iter()
        .find(|(name, text)| name == "README.md" && text.starts_with("# Walkeep\n"))
        .expect("it is there");
    let spans = spans(&readme);
    for program in &programs {
        for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
            let call = format!("{} {}", program.get_name(), command.get_name());
            let named = spans.iter().any(|span| *span == call || span.starts_with(&format!("{call} ")));
            assert!(named, "README.md does not name {call}");
        }
    }
    let known = |name: &str| {
        programs.iter().any(|program| {
            has_option(program, program, name)
                || program.get_subcommands().any(|command| has_option(program, command, name))
        })
    };
    let options: BTreeSet<&str> =
        spans.iter().filter(|span| !span.starts_with("scripts/")).flat_map(|span| options(span)).collect();
    assert!(options.len() > 30, "{options:?}");
    // `--from-s3-…` stands for several.
    let unknown: Vec<&&str> = options.iter().filter(|name| !name.ends_with('-') && !known(name)).collect();
    assert!(unknown.is_empty(), "no such options: {unknown:?}");
}
