//! The man pages and shell completions of both programs, from the command lines as they are defined.
//!
//! A crate of its own because it must see both programs, which never see each other. Nothing is written down twice: what a
//! page says of an option is what `--help` says. Only what no command line can tell is added: exit codes, files, other pages.

mod man;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Both programs' command lines: `walkeep`, `walkeep-restore`.
pub fn programs() -> [Command; 2] {
    [walkeep::cli::Cli::command(), walkeep_restore::cli::Cli::command()]
}

/// Writes everything below `directory`, laid out as below `/usr/share`, and returns the files in that order: man pages in
/// `man/man1`, completions where bash, zsh and fish look for them. What is there under these names is replaced.
pub fn write(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for program in programs() {
        for page in man::pages(&program)? {
            written.push(put(&directory.join("man/man1").join(page.name), &page.text)?);
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            written
                .push(put(&directory.join(completion_file(shell, program.get_name())), &completion(shell, &program))?);
        }
    }
    Ok(written)
}

/// Where a shell finds the completion of a program by itself, relative to `/usr/share`.
fn completion_file(shell: Shell, program: &str) -> PathBuf {
    match shell {
        Shell::Zsh => format!("zsh/site-functions/_{program}").into(),
        Shell::Fish => format!("fish/vendor_completions.d/{program}.fish").into(),
        _ => format!("bash-completion/completions/{program}").into(),
    }
}

fn completion(shell: Shell, program: &Command) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program.clone(), program.get_name(), &mut text);
    text
}

fn put(path: &Path, content: &[u8]) -> Result<PathBuf> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("unable to create '{}'", parent.display()))?;
    }
    fs::write(path, content).with_context(|| format!("unable to write '{}'", path.display()))?;
    Ok(path.to_owned())
}
