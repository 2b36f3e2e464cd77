//! `walkeep archive-push PATH`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use walkeep_chunkstore::console::{Exit, print_json};
use walkeep_chunkstore::wal::Pushed;

use crate::archive;
use crate::cli::Cli;
use crate::config::Config;
use crate::context::Context;
use crate::daemon::{self, AgentError, PushAnswer};
use crate::repository::Ask;

/// How long the agent may take before this process stores the file itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Stores one WAL file, by the agent where one runs. Success means that it is durable.
pub fn run(cli: &Cli, path: &Path) -> Result<Exit> {
    let config = Config::load(cli.config.as_deref())?;
    if let Some(answer) = by_agent(&config, path)? {
        if cli.json {
            print_json(&serde_json::json!({ "file": path.file_name().and_then(|n| n.to_str()), "new": answer.new,
                "stored_bytes": answer.stored_bytes, "by_agent": true, "ahead": answer.ahead }));
        }
        return Ok(Exit::Ok);
    }
    alone(cli, path)
}

/// `None` where no agent answers: then this process stores the file. What an agent refuses stays refused.
fn by_agent(config: &Config, path: &Path) -> Result<Option<PushAnswer>> {
    // The archiver's path is relative to the data directory.
    let asked = std::path::absolute(path)
        .with_context(|| format!("unable to find '{}'", path.display()))
        .and_then(|path| daemon::ask_push(&config.state.dir, &path, PATIENCE));
    asked.or_else(|error| match error.downcast_ref::<AgentError>() {
        Some(_) => Err(error),
        None => {
            tracing::info!("the agent does not answer: {error:#}");
            Ok(None)
        }
    })
}

fn alone(cli: &Cli, path: &Path) -> Result<Exit> {
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
                "by_agent": false, "requests": context.storages.requests() }),
        );
    }
    Ok(Exit::Ok)
}
