//! `walkeep windows`.

use anyhow::Result;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console::{Exit, print, print_json};

use crate::cli::Cli;
use crate::context::Context;

/// Shows the ranges of time that can be restored, per timeline, with gaps and branches.
pub fn run(cli: &Cli) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let catalogue = Catalogue::load(&context.repository, Some(context.config.cluster_name()))?;
    let windows = catalogue.windows(&catalogue.archived_wal(&context.repository)?)?;
    if cli.json {
        print_json(&windows);
    } else {
        print(&windows.to_string());
    }
    Ok(Exit::Ok)
}
