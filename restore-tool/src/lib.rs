//! Rebuilds a PostgreSQL data directory as it was at a point of its past: catalogue → [`plan`] → [`apply`].
//!
//! The plan is decided and shown before a byte is written. [`fetch_wal`] is what the restored server asks for WAL.

pub mod apply;
pub mod cli;
mod commands;
pub mod failure;
pub mod fetch_wal;
pub mod plan;
pub mod repository;
pub mod target;

use std::ffi::OsString;
use std::io::IsTerminal;

use clap::Parser;
use walkeep_chunkstore::console::{self, Exit};

use cli::{Cli, Command};
use repository::Place;

/// Runs the program with these arguments and returns its exit code.
pub fn run(arguments: &[OsString]) -> u8 {
    // For PostgreSQL every code up to 125 means "no such file", so nothing that goes wrong here may end with one.
    let fetches = arguments.iter().any(|argument| argument == "fetch-wal");
    let outcome = std::panic::catch_unwind(|| match Cli::try_parse_from(arguments) {
        Ok(cli) => command(cli),
        Err(error) => {
            // A closed stderr is no reason to fail otherwise.
            let _ = error.print();
            error.exit_code().try_into().unwrap_or(Exit::Usage.code())
        }
    });
    match outcome {
        Ok(code) if fetches && code != fetch_wal::DELIVERED && code != fetch_wal::ABSENT => fetch_wal::CANNOT_TELL,
        Ok(code) => code,
        Err(_) if fetches => fetch_wal::CANNOT_TELL,
        Err(_) => Exit::Failed.code(),
    }
}

fn command(cli: Cli) -> u8 {
    let done = match &cli.command {
        Some(Command::FetchWal(args)) => return fetch(args),
        Some(Command::List(args)) => {
            log(&args.output);
            commands::list(args)
        }
        Some(Command::Windows(args)) => {
            log(&args.output);
            commands::windows(args)
        }
        None => {
            log(&cli.restore.output);
            commands::restore(&cli.restore)
        }
    };
    let Err(error) = done else { return Exit::Ok.code() };
    let (exit, hints) = failure::exit_and_hints(&error);
    console::report(error.as_ref(), &hints);
    exit.code()
}

fn fetch(args: &cli::FetchWalArgs) -> u8 {
    let place = match Place::find(&args.repository) {
        Ok(place) => place,
        Err(error) => {
            console::report(error.as_ref(), &failure::exit_and_hints(&error).1);
            return fetch_wal::CANNOT_TELL;
        }
    };
    let request = fetch_wal::Request { file: &args.file, path: &args.path, cluster: place.cluster.as_deref() };
    fetch_wal::run(|| place.open(), &request)
}

/// Diagnostics go to stderr; `RUST_LOG` decides if it is set.
fn log(output: &cli::OutputArgs) {
    let level = match output.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Set already when several commands run in one process, as in tests.
    let _ = subscriber.without_time().with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init();
}
