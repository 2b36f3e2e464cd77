//! The `walkeep` program: parse, run, say how it ended.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use walkeep::cli::{Cli, Command};
use walkeep::commands;
use walkeep_chunkstore::console::{Exit, ensure_home, report};

fn main() -> ExitCode {
    ensure_home();
    // PostgreSQL restarts its archiver when archive_command dies by a signal or exits above 125, and gives up its plan to
    // retry: for archive-push everything that is not success is 1, a wrong flag and a panic included.
    let archiving = std::env::args_os().any(|argument| argument == "archive-push");
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nobody is left to be told that the terminal is gone.
            let _ = error.print();
            let code = if archiving && error.use_stderr() { Exit::Failed } else { usage_exit(&error) };
            return code.into();
        }
    };
    start_logging(cli.verbose);
    let is_push = matches!(cli.command, Command::ArchivePush { .. });
    if is_push {
        exit_on_termination();
    }
    let outcome = std::panic::catch_unwind(|| commands::run(&cli));
    match outcome {
        Ok(Ok(exit)) => exit.into(),
        Ok(Err(error)) => {
            report(error.as_ref(), &commands::hints(&cli, &error));
            let exit = if is_push { Exit::Failed } else { commands::exit_of(&error) };
            exit.into()
        }
        // The panic has printed its own message.
        Err(_) => Exit::Failed.into(),
    }
}

fn usage_exit(error: &clap::Error) -> Exit {
    if error.use_stderr() { Exit::Usage } else { Exit::Ok }
}

/// SIGTERM ends an archive-push with code 1 instead of death by signal.
fn exit_on_termination() {
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        let armed = Arc::new(AtomicBool::new(true));
        if let Err(error) = signal_hook::flag::register_conditional_shutdown(signal, 1, armed) {
            tracing::warn!("signal {signal} cannot be watched: {error}");
        }
    }
}

fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).without_time().init();
}
