//! `walkeep status`.

use std::time::Duration;

use anyhow::Result;
use walkeep_chunkstore::console::{Bytes, Elapsed, Exit, print, print_json};
use walkeep_chunkstore::mirror::Durability;

use crate::cli::Cli;
use crate::context::Context;
use crate::daemon::{self, MirrorStatus, Status};

/// Says what the agent knows; without one, what a comparison shows.
pub fn run(cli: &Cli) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let status = match daemon::ask(&context.config.state.dir)? {
        Some(status) => status,
        None => daemon::without_agent(&context)?,
    };
    if cli.json {
        print_json(&status);
    } else {
        print(&text(&status));
    }
    Ok(Exit::Ok)
}

fn text(status: &Status) -> String {
    let mut text = format!("cluster '{}' in '{}'\n", status.cluster, status.repository);
    text.push_str(&match &status.agent {
        Some(agent) => {
            format!("agent {} runs as process {} since {}\n", agent.version, agent.pid, agent.since)
        }
        None => "no agent runs: mirrors are not kept up to date in the background\n".to_owned(),
    });
    for mirror in &status.mirrors {
        text.push_str(&line(mirror));
    }
    text
}

fn line(mirror: &MirrorStatus) -> String {
    let lag = &mirror.lag;
    let waits = match mirror.durability {
        Durability::Local => "not waited for",
        Durability::Mirror => "waited for",
    };
    let behind = match (&lag.error, lag.compared, lag.objects) {
        (Some(error), _, objects) => format!("fails ({error}), at least {objects} objects behind"),
        (None, false, _) => "not compared yet".to_owned(),
        (None, true, 0) => "up to date".to_owned(),
        (None, true, objects) => {
            let age = Elapsed(Duration::from_secs(lag.seconds));
            format!("{objects} objects, {} behind, the oldest of {age} ago", Bytes(lag.bytes))
        }
    };
    format!("mirror '{}' ({waits}): {behind}\n", mirror.url)
}
