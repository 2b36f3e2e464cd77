//! `walkeep check`.

use anyhow::Result;
use serde::Serialize;
use walkeep_chunkstore::console::{Exit, print, print_json};

use crate::backup::{Finding, Severity, examine};
use crate::cli::Cli;
use crate::context::Context;

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    findings: &'a [Finding],
}

/// Looks for what would make a later restore fail; each finding comes with its remedy.
pub fn run(cli: &Cli) -> Result<Exit> {
    let context = Context::open(cli.config.as_deref())?;
    let findings = examine(&context);
    let ok = findings.iter().all(|finding| finding.severity != Severity::Problem);
    if cli.json {
        print_json(&Report { ok, findings: &findings });
    } else {
        for Finding { severity, subject, text, remedy } in &findings {
            let remedy = remedy.as_ref().map(|remedy| format!("\n         → {remedy}")).unwrap_or_default();
            print(&format!("{:8} {subject}: {text}{remedy}\n", severity.word()));
        }
    }
    Ok(if ok { Exit::Ok } else { Exit::CheckProblems })
}
