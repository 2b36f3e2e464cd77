//! `walkeep show ID`.

use anyhow::Result;
use serde::Serialize;
use walkeep_chunkstore::console::{Bytes, Exit, print, print_json};
use walkeep_chunkstore::repository::{BackupManifest, BackupStatus};

use crate::cli::Cli;
use crate::context::Context;

/// A backup as `--json` shows it: its root without the references into the repository.
#[derive(Debug, Serialize)]
pub struct BackupView<'a> {
    /// `ok` or `page_errors`.
    pub status: &'static str,
    /// From start to stop.
    pub duration_seconds: f64,
    /// Everything else.
    #[serde(flatten)]
    manifest: serde_json::Value,
    #[serde(skip)]
    of: std::marker::PhantomData<&'a BackupManifest>,
}

impl<'a> BackupView<'a> {
    /// The view of a backup.
    pub fn of(manifest: &'a BackupManifest) -> Self {
        let status = match manifest.status {
            BackupStatus::Ok => "ok",
            BackupStatus::PageErrors => "page_errors",
        };
        let mut value = serde_json::to_value(manifest).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("file_lists");
            object.remove("status");
        }
        let duration_seconds = manifest.stopped.duration_since(manifest.started).as_secs_f64();
        Self { status, duration_seconds, manifest: value, of: std::marker::PhantomData }
    }
}

/// Shows everything about one backup.
pub fn run(cli: &Cli, id: &str) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let manifest = context.repository.backup(&context.layout, &id.parse()?)?;
    if cli.json {
        print_json(&BackupView::of(&manifest));
    } else {
        print(&text(&manifest));
    }
    Ok(Exit::Ok)
}

fn text(manifest: &BackupManifest) -> String {
    let statistics = &manifest.statistics;
    let mut lines = vec![
        ("backup", manifest.id.to_string()),
        ("cluster", format!("{} (system identifier {})", manifest.cluster, manifest.system_identifier)),
        ("server", manifest.server_version.clone()),
        ("kind", manifest.kind.to_string()),
        ("status", BackupView::of(manifest).status.to_owned()),
        ("compared with", manifest.parent.as_ref().map_or("nothing".to_owned(), ToString::to_string)),
        ("started", manifest.started.to_string()),
        ("stopped", manifest.stopped.to_string()),
        ("timeline", manifest.timeline.to_string()),
        ("start LSN", manifest.start_lsn.to_string()),
        ("stop LSN", manifest.stop_lsn.to_string()),
        ("files", statistics.files.to_string()),
        ("size", Bytes(statistics.logical_bytes).to_string()),
        ("read", Bytes(statistics.read_bytes).to_string()),
        ("new", Bytes(statistics.new_bytes).to_string()),
        (
            "stored",
            format!("{}, of it {} maps and lists", Bytes(statistics.stored_bytes), Bytes(statistics.node_bytes)),
        ),
        ("pages", format!("{}, of them {} changed", statistics.pages, statistics.changed_pages)),
        ("page checksums", if manifest.data_checksums { "verified" } else { "the cluster has none" }.to_owned()),
        ("host", manifest.host.clone()),
        ("walkeep", manifest.tool_version.clone()),
    ];
    for tablespace in &manifest.tablespaces {
        let location = tablespace.location.as_deref().unwrap_or("in place");
        lines.push(("tablespace", format!("{}: {location}", tablespace.oid)));
    }
    for (key, value) in &manifest.notes {
        lines.push(("note", format!("{key}={value}")));
    }
    for error in &manifest.page_errors {
        lines.push(("damaged page", format!("'{}' block {}: {}", error.path, error.block, error.problem)));
    }
    lines.iter().map(|(name, value)| format!("{name:15} {value}\n")).collect()
}
