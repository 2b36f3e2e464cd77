//! The restore itself: catalogue → plan → apply.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;
use walkeep_chunkstore::catalogue::Catalogue;
use walkeep_chunkstore::console::{self, Bytes, Elapsed, Exit, Show};
use walkeep_chunkstore::storage::S3Options;

use crate::apply::{self, FetchCommand, Options, Restored, TargetAction};
use crate::cli::{NamedTarget, RestoreArgs};
use crate::failure::Refusal;
use crate::plan::{self, Request, RestorePlan, Stop};
use crate::repository::Place;
use crate::target::{Instant, RecoveryTarget};

/// Said after a restore from a bucket: the server is the next to read from it.
const CREDENTIALS: &str = "until recovery is over, PostgreSQL's own environment needs the credentials for that bucket: \
                           AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with files that its user can read, \
                           or the machine's role. They were not written into the cluster";

#[derive(Serialize)]
struct Outcome<'a> {
    plan: &'a RestorePlan,
    target_time: Option<String>,
    restored: Option<&'a Restored>,
}

/// Restores, or prints what it would do.
pub fn restore(args: &RestoreArgs) -> Result<()> {
    let request = request(args)?;
    let target_dir = target_dir(args)?;
    let place = Place::find(&args.repository)?;
    let repository = place.open()?;
    let catalogue = Catalogue::load(&repository, place.cluster.as_deref())?;
    let plan = plan::plan(&catalogue, &catalogue.archived_wal(&repository)?, &request)?;
    let talks = !(args.output.json || args.output.quiet);
    if talks {
        announce(args, &request, &plan);
    }
    let mut restored = None;
    if !args.dry_run {
        let options = options(args, target_dir, &place, &plan)?;
        let done = apply::apply(&repository, &plan, &options)?;
        if talks {
            console::print(&closing(&done, &plan, &options));
        }
        restored = Some(done);
    }
    if args.output.json {
        let target_time = if let RecoveryTarget::Time(time) = request.target { Some(time.to_string()) } else { None };
        console::print_json(&Outcome { plan: &plan, target_time, restored: restored.as_ref() });
    }
    Ok(())
}

fn request(args: &RestoreArgs) -> Result<Request> {
    let target = if let Some(time) = args.target_time {
        RecoveryTarget::Time(time.instant)
    } else if let Some(lsn) = args.target_lsn {
        RecoveryTarget::Lsn(lsn)
    } else if let Some(xid) = args.target_xid {
        RecoveryTarget::Transaction(xid)
    } else if let Some(name) = &args.target_name {
        RecoveryTarget::Name(name.clone())
    } else if args.target == Some(NamedTarget::Immediate) {
        RecoveryTarget::Immediate
    } else {
        RecoveryTarget::Latest
    };
    let may_be_excluded =
        matches!(target, RecoveryTarget::Time(_) | RecoveryTarget::Lsn(_) | RecoveryTarget::Transaction(_));
    if args.exclusive && !may_be_excluded {
        let message = format!("--exclusive makes no sense with target {target}");
        return Err(Refusal::new(Exit::Usage, message)
            .hint("it goes with --target-time, --target-lsn and --target-xid")
            .into());
    }
    Ok(Request {
        target,
        exclusive: args.exclusive,
        timeline: args.timeline,
        backup: args.backup.clone(),
        promote: args.target_action == TargetAction::Promote,
    })
}

/// The target directory, which only a dry run can do without.
fn target_dir(args: &RestoreArgs) -> Result<PathBuf> {
    match &args.target_dir {
        Some(directory) => Ok(directory.clone()),
        None if args.dry_run => Ok(PathBuf::new()),
        None => {
            let refusal = Refusal::new(Exit::Usage, "no target directory is named");
            Err(refusal.hint("name a new or empty one with --target-dir DIR, or look first with --dry-run").into())
        }
    }
}

fn options(args: &RestoreArgs, target: PathBuf, place: &Place, plan: &RestorePlan) -> Result<Options> {
    let program = match &args.fetch_with {
        Some(program) => program.clone(),
        None => {
            std::env::current_exe().context("unable to find out where this program is: name it with --fetch-with")?
        }
    };
    let s3 = if place.is_bucket() { place.s3.clone() } else { S3Options::default() };
    let fetch = FetchCommand { program, repository: place.url.to_string(), s3, cluster: plan.backup.cluster.clone() };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    Ok(Options {
        target,
        tablespaces: args.tablespace_map.clone(),
        jobs: args.jobs.map_or(cores, usize::from),
        action: args.target_action,
        keep_archiving: args.keep_archiving,
        fetch,
        owner: args.owner,
        show: if args.output.json || args.output.quiet { Show::Nothing } else { Show::Progress },
    })
}

/// Says what the target was understood as, and the plan.
fn announce(args: &RestoreArgs, request: &Request, plan: &RestorePlan) {
    let mut text = format!("{:<17}{}", "target", request.target);
    if let RecoveryTarget::Time(time) = request.target {
        if let Some(local) = Instant(time).local() {
            text.push_str(&format!(" ({local} here)"));
        }
        if args.target_time.is_some_and(|time| time.assumed_utc) {
            text.push_str(", taken for UTC because no offset was given");
        }
    }
    text.push_str(if request.exclusive { ", exclusive\n" } else { "\n" });
    text.push_str(&plan::human(plan));
    console::print(&text);
}

fn closing(done: &Restored, plan: &RestorePlan, options: &Options) -> String {
    let rate = (done.bytes as f64 / done.duration.as_secs_f64().max(0.001)) as u64;
    let directory = done.target.display();
    let mut text = format!(
        "\nrestored {} files, {} into '{directory}' in {}, {}/s\n",
        done.files,
        Bytes(done.bytes),
        Elapsed(done.duration),
        Bytes(rate)
    );
    if !done.neutralised.is_empty() {
        text.push_str(&format!("taken out of postgresql.auto.conf: {}\n", done.neutralised.join(", ")));
    }
    text.push_str(&format!("next: start it with PostgreSQL {}: pg_ctl -D '{directory}' start\n", plan.backup.major));
    text.push_str(match (plan.stop, options.action) {
        (Stop::EndOfWal, _) => {
            "it will recover everything that is archived by then and go into production on a new timeline\n"
        }
        (_, TargetAction::Promote) => "it will recover to the target and go into production on a new timeline\n",
        (_, TargetAction::Pause) => {
            "it will recover to the target and wait there: SELECT pg_wal_replay_resume() promotes it\n"
        }
        (_, TargetAction::Shutdown) => "it will recover to the target and stop there\n",
    });
    text.push_str(&format!("it gets its WAL by: {}\n", options.fetch.restore_command()));
    if options.fetch.needs_credentials() {
        text.push_str(&format!("{CREDENTIALS}\n"));
    }
    if !options.keep_archiving {
        text.push_str(
            "archive_mode is off in it; to archive again: ALTER SYSTEM SET archive_mode = on, then restart\n",
        );
    }
    text
}
