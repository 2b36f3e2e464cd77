//! `walkeep unlock`.

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::{Exit, print, print_json};
use walkeep_chunkstore::repository::{ListedLease, list_leases, remove_lease};

use super::locks::LeaseView;
use crate::cli::{Cli, UnlockArgs};
use crate::context::Context;

/// Removes leases that count for nothing; with `--force`, any. What counts is shown and stays.
pub fn run(cli: &Cli, args: &UnlockArgs) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let now = Timestamp::now();
    let chosen = choose(list_leases(&context.repository)?, args)?;
    let (held, free): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|lease| lease.state(now).counts() && !args.force);
    for lease in &free {
        remove_lease(&context.repository, &lease.key)?;
    }
    let (held, free) = (views(&held, now), views(&free, now));
    if cli.json {
        print_json(&serde_json::json!({ "removed": free, "held": held }));
    } else {
        if !cli.quiet {
            free.iter().for_each(|view| print(&format!("removed {}", view.text(now))));
        }
        held.iter().for_each(|view| eprint!("{}", view.text(now)));
        if !held.is_empty() {
            eprintln!("error: what is held was not removed");
            eprintln!("hint: if its holder is gone for good, add --force; one that still runs stops when it notices");
        } else if free.is_empty() && !cli.quiet {
            print("no leases\n");
        }
    }
    Ok(if held.is_empty() { Exit::Ok } else { Exit::Conflict })
}

/// The leases that are meant: all, or the one whose key, or last part of a key, was given.
fn choose(leases: Vec<ListedLease>, args: &UnlockArgs) -> Result<Vec<ListedLease>> {
    let Some(key) = &args.key else { return Ok(leases) };
    let meant = |lease: &ListedLease| lease.key.as_str() == key || lease.key.name() == key;
    let chosen: Vec<ListedLease> = leases.into_iter().filter(meant).collect();
    if chosen.is_empty() {
        return Err(Error::not_found(format_args!("lease '{key}'")).into());
    }
    Ok(chosen)
}

fn views(leases: &[ListedLease], now: Timestamp) -> Vec<LeaseView<'_>> {
    leases.iter().map(|lease| LeaseView::of(lease, now)).collect()
}
