//! `walkeep backup`.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde::Serialize;
use walkeep_chunkstore::console::{Bytes, Elapsed, Exit, Progress, Show, print, print_json};
use walkeep_chunkstore::repository::{BackupManifest, BackupStatus};
use walkeep_chunkstore::storage::RequestCounts;
use walkeep_proto::replication::base_backup::Checkpoint;

use super::show::BackupView;
use crate::backup::{self, BackupOptions};
use crate::cli::{BackupArgs, CheckpointArg, Cli};
use crate::context::Context;

/// Takes a base backup and says what it cost.
pub fn run(cli: &Cli, args: &BackupArgs) -> Result<Exit> {
    let mut context = Context::open(cli.config.as_deref())?;
    context.rates.follow_signals(cli.config.clone())?;
    context.config.limits.jobs = args.jobs.or(context.config.limits.jobs);
    let options = BackupOptions {
        full_read: args.full_read,
        source: args.source,
        checkpoint: match args.checkpoint {
            CheckpointArg::Fast => Checkpoint::Fast,
            CheckpointArg::Spread => Checkpoint::Spread,
        },
        notes: args.note.iter().cloned().collect(),
    };
    let show = if cli.quiet || cli.json { Show::Nothing } else { Show::Progress };
    let (progress, last) = (OnceLock::new(), AtomicU64::new(0));
    let manifest = backup::take(&context, &options, &|done, total| {
        let progress = progress.get_or_init(|| Progress::start("backup", total, show));
        let before = last.fetch_max(done, Ordering::Relaxed);
        progress.add(done.saturating_sub(before));
    });
    if let Some(progress) = progress.get() {
        progress.finish();
    }
    let manifest = manifest?;
    if cli.json {
        print_json(&Taken { backup: BackupView::of(&manifest), requests: context.storages.requests() });
    } else if !cli.quiet {
        print(&summary(&manifest));
        for (bucket, requests) in context.storages.requests() {
            print(&format!("requests to '{bucket}': {requests}\n"));
        }
    }
    Ok(report_page_errors(&manifest))
}

#[derive(Serialize)]
struct Taken<'a> {
    #[serde(flatten)]
    backup: BackupView<'a>,
    /// Requests to buckets.
    requests: BTreeMap<String, RequestCounts>,
}

fn summary(manifest: &BackupManifest) -> String {
    let statistics = &manifest.statistics;
    let elapsed = manifest.stopped.duration_since(manifest.started).unsigned_abs();
    format!(
        "backup {} is complete ({}): {} in {} files, {} new, {} stored, in {}\n\
         it restores to any time from {} on; WAL {} to {} on timeline {} makes it consistent\n",
        manifest.id,
        manifest.kind,
        Bytes(statistics.logical_bytes),
        statistics.files,
        Bytes(statistics.new_bytes),
        Bytes(statistics.stored_bytes),
        Elapsed(elapsed),
        manifest.stopped,
        manifest.start_lsn,
        manifest.stop_lsn,
        manifest.timeline,
    )
}

/// Names damaged pages. The backup is kept, marked, and older backups stay as they are.
fn report_page_errors(manifest: &BackupManifest) -> Exit {
    if manifest.status == BackupStatus::Ok {
        return Exit::Ok;
    }
    let mut text = format!(
        "error: the cluster has {} damaged pages; backup {} holds them as they are\n",
        manifest.page_error_count, manifest.id
    );
    for error in manifest.page_errors.iter().take(20) {
        text.push_str(&format!("error: '{}' block {}: {}\n", error.path, error.block, error.problem));
    }
    text.push_str("hint: earlier backups are untouched; restore from one that was taken before the damage\n");
    eprint!("{text}");
    Exit::Damaged
}
