//! Man pages: one for each program and each of its subcommands.

use std::io::Write;

use anyhow::Result;
use clap::Command;
use clap_mangen::Man;

/// One page.
pub(crate) struct Page {
    /// Its file's name, like `walkeep-init.1`.
    pub(crate) name: String,
    /// Its source, in roff.
    pub(crate) text: Vec<u8>,
}

/// The page of a program, and one for each subcommand.
pub(crate) fn pages(program: &Command) -> Result<Vec<Page>> {
    let mut program = program.clone().disable_help_subcommand(true);
    // Gives subcommands the options that all of them share, and their names.
    program.build();
    let names: Vec<String> = commands(&program).map(page_name).collect();
    commands(&program).map(|command| page(command, &names)).collect()
}

/// The program itself and its subcommands.
fn commands(program: &Command) -> impl Iterator<Item = &Command> {
    std::iter::once(program).chain(program.get_subcommands().filter(|command| !command.is_hide_set()))
}

fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

fn page(command: &Command, names: &[String]) -> Result<Page> {
    let name = page_name(command);
    let man = Man::new(command.clone());
    // No date: the same sources give the same bytes. clap_mangen would leave the place of an empty one out.
    let title = name.to_uppercase().replace('-', "\\-");
    let mut text = format!(".TH {title} 1 \"\" \"Walkeep {}\" Walkeep\n", env!("CARGO_PKG_VERSION")).into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    let mut options = Vec::new();
    man.render_options_section(&mut options)?;
    // Lists of values come with a doubled line break, which man's checkers call a fault.
    text.extend(String::from_utf8(options)?.replace(".br\n\n.br\n", ".br\n").into_bytes());
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    text.write_all(exit_status(&name).as_bytes())?;
    text.write_all(FILES.as_bytes())?;
    text.write_all(see_also(&name, names).as_bytes())?;
    Ok(Page { name: format!("{name}.1"), text })
}

/// The codes that a command can end with: PostgreSQL interprets those of the two that it runs itself.
fn exit_status(name: &str) -> String {
    let codes: &[(&str, &str)] = match name {
        "walkeep-archive-push" => {
            &[("0", "the file is durable in the repository"), ("1", "anything else: PostgreSQL tries again")]
        }
        "walkeep-restore-fetch-wal" => &[
            ("0", "the file was delivered"),
            ("1", "the archive certainly has no such file"),
            ("126", "it cannot be told whether there is one: PostgreSQL stops recovery"),
        ],
        _ => &[
            ("0", "done"),
            ("1", "the operation failed"),
            ("2", "wrong usage"),
            ("3", "configuration"),
            ("4", "repository unreachable"),
            ("5", "damage found"),
            ("6", "not found"),
            ("7", "conflict: locked, other content under the same name, another cluster, a directory in use"),
            ("8", "recovery target not reachable"),
            ("10", "walkeep check found problems"),
        ],
    };
    let rows: String = codes.iter().map(|(code, meaning)| format!(".TP\n{code}\n{meaning}\n")).collect();
    format!(".SH EXIT STATUS\n{rows}")
}

const FILES: &str = ".SH FILES\n.TP\n/etc/walkeep/walkeep.toml\nthe configuration\n.TP\n/var/lib/walkeep\nindex, spool, \
                     the agent's socket and lock\n";

fn see_also(name: &str, names: &[String]) -> String {
    let other = if name.starts_with("walkeep-restore") { "walkeep" } else { "walkeep-restore" };
    let pages = names.iter().map(String::as_str).filter(|page| *page != name).chain([other]);
    let pages: Vec<String> = pages.map(|page| format!("\\fB{}\\fR(1)", page.replace('-', "\\-"))).collect();
    format!(".SH SEE ALSO\n{}\n", pages.join(",\n"))
}
