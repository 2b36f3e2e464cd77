//! `list`: the backups of a cluster.

use std::fmt::Write;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console::{self, Bytes};
use walkeep_chunkstore::repository::{BackupKind, BackupManifest, BackupStatistics, BackupStatus};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use crate::cli::ListArgs;
use crate::repository::Place;

#[derive(Serialize)]
struct Listing<'a> {
    cluster: &'a str,
    backups: Vec<Row<'a>>,
    unreadable: Vec<Unreadable<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    status: BackupStatus,
    kind: BackupKind,
    major: u16,
    timeline: TimelineId,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    started: Timestamp,
    stopped: Timestamp,
    statistics: BackupStatistics,
}

impl<'a> Row<'a> {
    fn of(backup: &'a BackupManifest) -> Self {
        Self {
            id: backup.id.as_str(),
            status: backup.status,
            kind: backup.kind,
            major: backup.major.number(),
            timeline: backup.timeline,
            start_lsn: backup.start_lsn,
            stop_lsn: backup.stop_lsn,
            started: backup.started,
            stopped: backup.stopped,
            statistics: backup.statistics,
        }
    }
}

#[derive(Serialize)]
struct Unreadable<'a> {
    id: &'a str,
    problem: &'a str,
}

/// Prints the backups, oldest first.
pub fn list(args: &ListArgs) -> Result<()> {
    let place = Place::find(&args.repository)?;
    let catalogue = Catalogue::load(&place.open()?, place.cluster.as_deref())?;
    let listing = listing(&catalogue);
    if args.output.json {
        console::print_json(&listing);
    } else {
        console::print(&human(&listing));
    }
    Ok(())
}

fn listing(catalogue: &Catalogue) -> Listing<'_> {
    Listing {
        cluster: &catalogue.cluster,
        backups: catalogue.backups.iter().map(Row::of).collect(),
        unreadable: catalogue.unreadable.iter().map(|b| Unreadable { id: &b.id, problem: &b.problem }).collect(),
    }
}

fn human(listing: &Listing<'_>) -> String {
    let mut text = format!("{:<22} {:<20} {:>10} {:>3}  {}\n", "backup", "stopped (UTC)", "size", "tli", "LSN");
    for row in &listing.backups {
        let stopped = row.stopped.strftime("%Y-%m-%d %H:%M:%S").to_string();
        let size = Bytes(row.statistics.logical_bytes);
        let damage = if row.status == BackupStatus::PageErrors { "  has damaged pages" } else { "" };
        let (id, timeline, start, stop) = (row.id, row.timeline, row.start_lsn, row.stop_lsn);
        let _ =
            writeln!(text, "{id:<22} {stopped:<20} {size:>10} {:>3}  {start} to {stop}{damage}", timeline.to_string());
    }
    if listing.backups.is_empty() {
        text = format!("cluster '{}' has no backup\n", listing.cluster);
    }
    for broken in &listing.unreadable {
        let _ = writeln!(text, "{:<22} unreadable: {}", broken.id, broken.problem);
    }
    text
}
