//! `walkeep list`.

use anyhow::Result;
use walkeep_chunkstore::console::{Bytes, Elapsed, Exit, print, print_json};

use super::show::BackupView;
use crate::cli::Cli;
use crate::context::Context;
use crate::daemon;
use crate::schedule::ScheduleStatus;

/// Lists the base backups, oldest first. One that cannot be read is listed with the reason.
pub fn run(cli: &Cli) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let listed = context.repository.backups(&context.layout)?;
    // An agent that does not answer is no reason to keep the list back.
    let status = daemon::ask_status(&context.config.state.dir).ok().flatten();
    let schedule = status.and_then(|status| status.schedule);
    if cli.json {
        let rows: Vec<serde_json::Value> = listed
            .iter()
            .map(|backup| match &backup.manifest {
                Ok(manifest) => serde_json::to_value(BackupView::of(manifest)),
                Err(error) => {
                    Ok(serde_json::json!({ "id": backup.id, "status": "unreadable", "error": error.to_string() }))
                }
            })
            .collect::<Result<_, _>>()?;
        print_json(
            &serde_json::json!({ "cluster": context.config.cluster_name(), "backups": rows, "schedule": schedule }),
        );
        return Ok(Exit::Ok);
    }
    if listed.is_empty() {
        print(&format!("no backups yet: run `walkeep backup`\n{}", runs(schedule.as_ref())));
        return Ok(Exit::Ok);
    }
    let heading = ["id", "started (UTC)", "kind", "size", "new", "stored", "timeline", "stop LSN", "took", "status"];
    let mut rows = vec![heading.map(str::to_owned)];
    for backup in &listed {
        rows.push(match &backup.manifest {
            Ok(manifest) => {
                let view = BackupView::of(manifest);
                let statistics = &manifest.statistics;
                [
                    manifest.id.to_string(),
                    manifest.started.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                    manifest.kind.to_string(),
                    Bytes(statistics.logical_bytes).to_string(),
                    Bytes(statistics.new_bytes).to_string(),
                    Bytes(statistics.stored_bytes).to_string(),
                    manifest.timeline.to_string(),
                    manifest.stop_lsn.to_string(),
                    Elapsed(manifest.stopped.duration_since(manifest.started).unsigned_abs()).to_string(),
                    view.status.to_owned(),
                ]
            }
            Err(error) => {
                let mut row = [const { String::new() }; 10];
                row[0].clone_from(&backup.id);
                row[9] = format!("unreadable: {error}");
                row
            }
        });
    }
    print(&columns(&rows));
    print(&runs(schedule.as_ref()));
    Ok(Exit::Ok)
}

/// Next run and earlier ones of the agent's schedule; nothing where no agent keeps one.
fn runs(schedule: Option<&ScheduleStatus>) -> String {
    let Some(schedule) = schedule.filter(|schedule| schedule.enabled) else { return String::new() };
    let mut text = format!("\nschedule: {schedule}\n");
    for run in &schedule.history {
        text.push_str(&format!("  {:.0}  {} ({})\n", run.started, run.result, run.reason));
    }
    text
}

/// Rows with every column as wide as its widest cell.
fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}
