//! `walkeep verify`.

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::console::{Bytes, Exit, Progress, Show, print, print_json};
use walkeep_chunkstore::verify::{Sample, VerifyOptions, VerifyReport, verify};

use crate::cli::{Cli, VerifyArgs};
use crate::context::Context;

/// Reads the repository and reports all damage it finds.
pub fn run(cli: &Cli, args: &VerifyArgs) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let backup = args.id.as_ref().map(|id| id.parse()).transpose()?;
    // Who verifies a share every week, or every day, gets another one each time.
    let day = Timestamp::now().as_second().div_euclid(86_400);
    let sample = Sample { percent: args.sample, turn: day.unsigned_abs() };
    let options = VerifyOptions { sample, backup, jobs: context.config.jobs() };
    let show = if cli.quiet || cli.json { Show::Nothing } else { Show::Progress };
    let progress = Progress::start("verify", 0, show);
    let report = verify(&context.repository, &context.layout, &options, &progress);
    progress.finish();
    let report = report?;
    if cli.json {
        print_json(&report);
    } else {
        print(&text(&report, cli.quiet));
    }
    Ok(if report.damage.is_empty() { Exit::Ok } else { Exit::Damaged })
}

fn text(report: &VerifyReport, quiet: bool) -> String {
    let mut text = String::new();
    for damage in &report.damage {
        text.push_str(&format!("damaged  {}: {}\n", damage.object, damage.problem));
    }
    for note in &report.notes {
        text.push_str(&format!("note     {note}\n"));
    }
    if !quiet || !report.damage.is_empty() {
        let verdict = if report.damage.is_empty() { "no damage found" } else { "damage found" };
        text.push_str(&format!(
            "{verdict}: {} backups, {} packs, {} WAL segments checked, {} read\n",
            report.backups,
            report.packs,
            report.segments,
            Bytes(report.read_bytes)
        ));
    }
    text
}
