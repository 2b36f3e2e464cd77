//! `walkeep sync`.

mod places;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use ulid::Ulid;
use walkeep_chunkstore::console::{Bytes, Elapsed, Exit, Progress, Show, print, print_json};
use walkeep_chunkstore::mirror::{Class, SyncReport, Syncing, missing};
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::RequestCounts;

use crate::cli::{Cli, SyncArgs};
use crate::config::Config;
use crate::rates::Rates;
use places::{Source, Target};

/// Requests by bucket.
type Requests = BTreeMap<String, RequestCounts>;

/// What is said at the end.
#[derive(Serialize)]
struct Outcome {
    from: String,
    to: String,
    repository_id: Ulid,
    dry_run: bool,
    #[serde(flatten)]
    report: SyncReport,
    from_requests: Requests,
    to_requests: Requests,
    seconds: f64,
}

/// Copies a repository to another place. Another run goes on where this one ended.
pub fn run(cli: &Cli, args: &SyncArgs) -> Result<Exit> {
    let config = Config::load(cli.config.as_deref())?;
    let source = Source::open(&config, args)?;
    let repository = Arc::new(Repository::open(Arc::clone(&source.storage))?);
    let target = Target::open(&config, args, &source, repository.config())?;
    let buckets = source.buckets().into_iter().chain(target.bucket()).collect();
    Rates::new(buckets, &config.limits).follow_signals(cli.config.clone())?;
    let missing = missing(&*source.storage, &*target.storage, &Class::ALL)?;
    let show = if cli.quiet || cli.json { Show::Nothing } else { Show::Progress };
    let progress = Progress::start("sync", missing.bytes(), show);
    let syncing = Syncing {
        repository: &repository,
        from: &source.storage,
        to: &*target.storage,
        threads: args.jobs.unwrap_or_else(|| threads(&config, &source, &target)),
        progress: &progress,
    };
    let report = if args.dry_run { syncing.plan(&missing)? } else { syncing.run(&missing)? };
    let outcome = Outcome {
        from: source.place.to_string(),
        to: target.place.to_string(),
        repository_id: repository.id(),
        dry_run: args.dry_run,
        report,
        from_requests: source.requests(),
        to_requests: target.requests(),
        seconds: progress.finish().as_secs_f64(),
    };
    if cli.json {
        print_json(&outcome);
    } else {
        print(&outcome.text(cli.quiet));
    }
    Ok(if outcome.report.is_complete() { Exit::Ok } else { Exit::Damaged })
}

/// A bucket answers many at once; a disk, as many as there are cores to check what it gives.
fn threads(config: &Config, source: &Source, target: &Target) -> usize {
    if source.storage.parallel_reads().max(target.storage.parallel_reads()) > 1 { 8 } else { config.jobs() }
}

impl Outcome {
    fn text(&self, quiet: bool) -> String {
        let Self { from, to, report, .. } = self;
        let mut text = String::new();
        for damage in &report.damaged {
            text.push_str(&format!("damaged    {}: {}\n", damage.object, damage.problem));
        }
        for backup in &report.held_back {
            text.push_str(&format!("held back  {}: {}\n", backup.object, backup.problem));
        }
        if quiet {
            return text;
        }
        let (objects, bytes, skipped) = (report.copied.objects, report.copied.bytes, report.skipped);
        if self.dry_run {
            let bytes = Bytes(bytes);
            text.push_str(&format!(
                "would copy {objects} objects, {bytes}, from '{from}' to '{to}'; {skipped} are there\n"
            ));
            return text;
        }
        let elapsed = Duration::from_secs_f64(self.seconds);
        let rate = Bytes((bytes as f64 / self.seconds.max(0.001)) as u64);
        let (bytes, elapsed) = (Bytes(bytes), Elapsed(elapsed));
        text.push_str(&format!(
            "copied {objects} objects, {bytes}, from '{from}' to '{to}' in {elapsed}, {rate}/s; {skipped} were there\n"
        ));
        for (bucket, requests) in self.from_requests.iter().chain(&self.to_requests) {
            text.push_str(&format!("requests to '{bucket}': {requests}\n"));
        }
        text.push_str(&if report.is_complete() {
            format!("complete: `walkeep-restore --repo {to}` restores from it\n")
        } else {
            "incomplete: what is named above was not copied, and nothing at the target was replaced\n".to_owned()
        });
        text
    }
}
