//! `walkeep agent`.

use anyhow::Result;
use walkeep_chunkstore::console::Exit;

use crate::cli::Cli;
use crate::daemon;

/// Runs the daemon until a signal ends it.
pub fn run(cli: &Cli) -> Result<Exit> {
    daemon::run(cli.config.as_deref())?;
    Ok(Exit::Ok)
}
