//! `walkeep archive-push PATH`.

use std::path::Path;

use anyhow::Result;
use walkeep_chunkstore::console::{Exit, print_json};
use walkeep_chunkstore::wal::Pushed;

use crate::archive;
use crate::cli::Cli;
use crate::context::Context;
use crate::repository::Ask;

/// Stores one WAL file. Success means that it is durable.
pub fn run(cli: &Cli, path: &Path) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    if context.storages.waits_for_mirror() {
        // Asks once, when nothing is known of the mirror yet.
        context.join_mirrors(Ask::WhatIsUnknown)?;
    }
    let identity = context.identity()?;
    let pushed = archive::push(&context.archive(), &identity, path, context.config.compression.level)?;
    if cli.json {
        let (stored_bytes, new) = match pushed {
            Pushed::Stored(bytes) => (bytes, true),
            Pushed::AlreadyThere => (0, false),
        };
        print_json(
            &serde_json::json!({ "file": path.file_name().and_then(|n| n.to_str()), "new": new, "stored_bytes": stored_bytes,
                "requests": context.storages.requests() }),
        );
    }
    Ok(Exit::Ok)
}
