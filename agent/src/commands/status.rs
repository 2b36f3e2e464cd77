//! `walkeep status`.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::console::{Bytes, Elapsed, Exit, print, print_json};
use walkeep_chunkstore::mirror::Durability;

use crate::cli::Cli;
use crate::config::Config;
use crate::context::Context;
use crate::daemon::{self, MirrorStatus, Status};
use crate::stream::StreamStatus;

/// Says what the agent knows; without one, what a comparison shows.
pub fn run(cli: &Cli) -> Result<Exit> {
    let config = Config::load(cli.config.as_deref())?;
    let status = match daemon::ask_status(&config.state.dir)? {
        Some(status) => status,
        None => daemon::without_agent(&Context::open(cli.config.as_deref())?)?,
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
    if let Some(stream) = &status.stream {
        text.push_str(&stream_lines(stream));
    }
    if let Some(newest) = &status.newest_backup {
        let age = Timestamp::now().duration_since(newest.stopped);
        let age = Elapsed(Duration::try_from(age).unwrap_or_default());
        text.push_str(&format!("the newest base backup ended {age} ago\n"));
    }
    if let Some(schedule) = &status.schedule {
        text.push_str(&format!("schedule: {schedule}\n"));
    }
    for mirror in &status.mirrors {
        text.push_str(&line(mirror));
    }
    text
}

fn stream_lines(stream: &StreamStatus) -> String {
    let mut text = match (&stream.error, stream.streaming, stream.timeline) {
        (_, true, Some(timeline)) => format!(
            "streaming timeline {timeline}: server {}, durable here {}, in the repository {} ({} behind)\n",
            stream.server_lsn,
            stream.flushed_lsn,
            stream.stored_lsn,
            Bytes(stream.lag_bytes())
        ),
        (Some(error), ..) => format!("not streaming: {error}\n"),
        _ => "not streaming yet\n".to_owned(),
    };
    if let Some(error) = &stream.storing_error {
        text.push_str(&format!("streamed WAL waits: {error}\n"));
    }
    if let Some(seconds) = stream.rpo_seconds(Timestamp::now()) {
        text.push_str(&format!("would be lost with both hosts now: the last {seconds:.0} s\n"));
    }
    if let Some(restart) = stream.slot.restart_lsn {
        let (slot, retained) = (&stream.slot, Bytes(stream.slot.retained_bytes));
        let state = slot.wal_status.as_deref().unwrap_or("unknown");
        text.push_str(&format!("slot '{}' keeps {retained} from {restart} on ({state})\n", slot.name));
    }
    for gap in &stream.gaps {
        text.push_str(&format!("lost: {} to {} on timeline {} ({})\n", gap.from, gap.to, gap.timeline, gap.reason));
    }
    for branch in &stream.side_branches {
        let (timeline, left, held) = (branch.timeline, branch.left_at, branch.held_up_to);
        text.push_str(&format!(
            "side branch: the server left timeline {timeline} at {left}, WAL up to {held} is here\n"
        ));
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
    let has = mirror.mirrored_lsn.map(|lsn| format!(", has WAL up to {lsn}")).unwrap_or_default();
    format!("mirror '{}' ({waits}): {behind}{has}\n", mirror.url)
}
