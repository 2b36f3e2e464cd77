//! `walkeep locks`.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use walkeep_chunkstore::console::{Elapsed, Exit, print, print_json};
use walkeep_chunkstore::repository::{LeaseKind, LeaseState, ListedLease, list_leases};

use crate::cli::Cli;
use crate::context::Context;

/// Shows every lease of every cluster. One that cannot be read is shown with the reason.
pub fn run(cli: &Cli) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let (leases, now) = (list_leases(&context.repository)?, Timestamp::now());
    let views: Vec<LeaseView<'_>> = leases.iter().map(|lease| LeaseView::of(lease, now)).collect();
    if cli.json {
        print_json(&serde_json::json!({ "repository": context.repository.location(), "leases": views }));
    } else if views.is_empty() {
        print("no leases: nobody works with the repository\n");
    } else {
        views.iter().for_each(|view| print(&view.text(now)));
    }
    Ok(Exit::Ok)
}

/// A lease as it is shown.
#[derive(Serialize)]
pub struct LeaseView<'a> {
    key: &'a str,
    state: LeaseState,
    /// Absent when the lease cannot be read.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    record: Option<RecordView<'a>>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct RecordView<'a> {
    kind: LeaseKind,
    cluster: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    pid: u32,
    purpose: &'a str,
    since: Timestamp,
    expires: Timestamp,
    progress: Option<&'a str>,
}

impl<'a> LeaseView<'a> {
    /// What there is to show of a lease.
    pub fn of(lease: &'a ListedLease, now: Timestamp) -> Self {
        let record = lease.record.as_ref().ok().map(|record| RecordView {
            kind: record.kind,
            cluster: &record.cluster,
            user: record.holder.user.as_deref(),
            host: &record.holder.host,
            pid: record.holder.pid,
            purpose: &record.purpose,
            since: record.since,
            expires: record.expires,
            progress: record.progress.as_deref(),
        });
        let error = lease.record.as_ref().err().map(ToString::to_string);
        Self { key: lease.key.as_str(), state: lease.state(now), record, error }
    }

    /// The same for people: a line with the key, and one for each thing that is known.
    pub fn text(&self, now: Timestamp) -> String {
        let mut text = format!("{}  {}\n", self.key, self.state);
        let mut line = |name: &str, value: String| text.push_str(&format!("  {name:9} {value}\n"));
        if let Some(error) = &self.error {
            line("error", error.clone());
        }
        if let Some(record) = &self.record {
            let who = record.user.map_or(String::new(), |user| format!("{user}@"));
            line("cluster", format!("{}, {}", record.cluster, record.kind));
            line("holder", format!("{who}{}, process {}", record.host, record.pid));
            line("purpose", record.purpose.to_owned());
            line("since", format!("{}, {}", record.since, distance(record.since, now)));
            line("expires", format!("{}, {}", record.expires, distance(record.expires, now)));
            if let Some(progress) = record.progress {
                line("progress", progress.to_owned());
            }
        }
        text
    }
}

/// How far away a time is.
fn distance(time: Timestamp, now: Timestamp) -> String {
    let elapsed = Elapsed(now.duration_since(time).unsigned_abs());
    if time > now { format!("in {elapsed}") } else { format!("{elapsed} ago") }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walkeep_chunkstore::repository::{Lease, Repository};
    use walkeep_chunkstore::storage::{MemoryStorage, ObjectKey};

    use super::*;

    #[test]
    fn every_lease_is_shown_whatever_its_state() {
        let now = Timestamp::now();
        let repository = Arc::new(Repository::init(Arc::new(MemoryStorage::new()), now).unwrap().0);
        let mut lease = Lease::take(&repository, LeaseKind::Backup, "main", "backup", now).unwrap();
        lease.renew(now, Some("1.20 GiB of 3.40 GiB".to_owned())).unwrap();
        let unreadable = ObjectKey::new("leases/restore/x").unwrap();
        repository.storage().overwrite(&unreadable, b"{}").unwrap();
        let leases = list_leases(&repository).unwrap();
        let views: Vec<_> = leases.iter().map(|lease| LeaseView::of(lease, now)).collect();
        let text: String = views.iter().map(|view| view.text(now)).collect();
        for shown in
            ["  living\n", "main, backup", "1.20 GiB of 3.40 GiB", ", in 15 min 0 s", "leases/restore/x  unreadable"]
        {
            assert!(text.contains(shown), "'{shown}' in {text}");
        }
        let json = serde_json::to_value(&views).unwrap();
        assert_eq!((&json[0]["state"], &json[0]["pid"]), (&"living".into(), &std::process::id().into()));
        assert!(json[1]["error"].as_str().unwrap().contains("damaged"), "{json}");
    }
}
