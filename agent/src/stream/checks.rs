//! What `walkeep check` looks at before a stream is relied upon.

use anyhow::Result;
use walkeep_chunkstore::repository::BackupManifest;

use super::attempt::answered;
use super::{Gap, StreamError, StreamStatus};
use crate::backup::Finding;
use crate::config::StreamSettings;
use crate::context::Context;
use crate::postgres::Session;
use crate::postgres::connection::{Connection, Purpose};

/// Looks at what the stream needs of the server.
pub fn examine(context: &Context, session: &Session, settings: &StreamSettings) -> Result<Vec<Finding>> {
    let mut findings = vec![entrance(context)];
    findings.push(role(session)?);
    findings.push(room(session)?);
    if settings.synchronous {
        findings.extend(synchronous(session, settings)?);
    }
    Ok(findings)
}

/// Whether the server lets a replication connection in: `pg_hba.conf` has lines of its own for those.
fn entrance(context: &Context) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = runtime.map_err(|error| StreamError::Connection(error.into())).and_then(|runtime| {
        let conninfo = super::conninfo(context)?;
        let answer = runtime.block_on(async {
            let mut connection = Connection::connect(&conninfo, Purpose::PhysicalReplication)
                .await
                .map_err(StreamError::of_connection)?;
            answered(connection.identify_system()).await
        });
        // A name may still be looked up, which nobody can interrupt.
        runtime.shutdown_background();
        answer
    });
    match asked {
        Ok(server) => Finding::ok("stream", format!("the server lets WAL be streamed; it is at {}", server.position)),
        Err(error) => {
            let remedy = "add a line for database 'replication' and this role to pg_hba.conf, or see the message";
            Finding::problem("stream", error.to_string(), remedy)
        }
    }
}

/// What the running agent has lost, or lacks.
pub fn losses(context: &Context, agent: &StreamStatus) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if let Some(error) = agent.error.as_ref().filter(|_| !agent.streaming) {
        findings.push(Finding::warning("agent", format!("it does not stream: {error}"), "see the message"));
    }
    if let Some(error) = &agent.storing_error {
        findings.push(Finding::warning("agent", format!("streamed WAL waits: {error}"), "see the message"));
    }
    if let Some(error) = &agent.slot.error {
        let text = format!("slot '{}' is not looked after: {error}", agent.slot.name);
        findings.push(Finding::warning(
            "slot",
            text,
            "see the message: meanwhile the server may remove WAL, or keep all",
        ));
    }
    let listed = context.repository.backups(&context.layout)?;
    let backups: Vec<&BackupManifest> = listed.iter().filter_map(|backup| backup.manifest.as_ref().ok()).collect();
    findings.extend(agent.gaps.iter().map(|gap| of_gap(gap, &backups)));
    findings.extend(agent.side_branches.iter().map(|branch| {
        let text = format!(
            "the server left timeline {} at {}, and the repository has WAL of it up to {}",
            branch.timeline, branch.left_at, branch.held_up_to
        );
        let remedy = "restore with --target-timeline to see what those commits were";
        Finding::warning("side branch", text, remedy)
    }));
    if findings.is_empty() {
        let (flushed, stored) = (agent.flushed_lsn, agent.stored_lsn);
        let text = format!("it has WAL up to {flushed} on disk, and up to {stored} in the repository");
        findings.push(Finding::ok("agent", text));
    }
    Ok(findings)
}

/// A gap is a problem until a base backup behind it makes the present restorable again.
fn of_gap(gap: &Gap, backups: &[&BackupManifest]) -> Finding {
    let text = format!("{} to {} on timeline {}: {}", gap.from, gap.to, gap.timeline, gap.reason);
    if backups.iter().any(|backup| backup.start_lsn >= gap.to) {
        let remedy = "nothing can be restored to between the gap and the base backup behind it; what is later can";
        Finding::warning("lost WAL", text, remedy)
    } else {
        Finding::problem("lost WAL", text, "run `walkeep backup`: nothing behind the gap can be restored before")
    }
}

fn role(session: &Session) -> Result<Finding> {
    let row = session.row("SELECT rolname, rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user")?;
    let name = row.first().cloned().unwrap_or_default();
    Ok(match row.get(1).map(String::as_str) {
        Some("t") => Finding::ok("stream role", format!("'{name}' may stream WAL")),
        _ => {
            let remedy = format!("ALTER ROLE \"{name}\" REPLICATION, or set [stream] enabled = false");
            Finding::problem("stream role", format!("'{name}' has no REPLICATION privilege"), remedy)
        }
    })
}

/// Places for one walsender and one slot.
fn room(session: &Session) -> Result<Finding> {
    let row = session.row(
        "SELECT current_setting('max_wal_senders')::int, current_setting('max_replication_slots')::int, \
         (SELECT count(*) FROM pg_stat_replication), (SELECT count(*) FROM pg_replication_slots)",
    )?;
    let number = |index: usize| row.get(index).and_then(|text: &String| text.parse::<i64>().ok()).unwrap_or(0);
    Ok(if number(0) == 0 {
        Finding::problem("max_wal_senders", "0: nobody can stream WAL", "set max_wal_senders = 10 and restart")
    } else if number(1) == 0 {
        let remedy = "set max_replication_slots = 10 and restart, or [stream] slot = ''";
        Finding::warning("max_replication_slots", "0: WAL that the repository lacks can be removed", remedy)
    } else {
        let text = format!("{} of {} walsenders, {} of {} slots are taken", number(2), number(0), number(3), number(1));
        Finding::ok("replication", text)
    })
}

/// What waits for the agent, and whether it waits for something that will never come.
fn synchronous(session: &Session, settings: &StreamSettings) -> Result<Vec<Finding>> {
    let name = &settings.application_name;
    let listed = session.value("SELECT current_setting('synchronous_standby_names')")?;
    let names = |listed: &str| {
        let mut words = listed.split([',', '(', ')', ' ', '"']);
        words.any(|word| word == "*" || word.eq_ignore_ascii_case(name))
    };
    if !names(&listed) {
        let remedy = format!("set synchronous_standby_names = '{name}' and reload, or [stream] synchronous = false");
        let text = format!("'{listed}' does not name '{name}': no commit waits for the agent");
        return Ok(vec![Finding::warning("synchronous_standby_names", text, remedy)]);
    }
    let mut findings = vec![Finding::ok("synchronous_standby_names", format!("'{listed}' names '{name}'"))];
    let rows = session.rows(
        "SELECT 'the server', current_setting('synchronous_commit') WHERE current_setting('synchronous_commit') IN ('remote_apply', 'local', 'off') \
         UNION ALL SELECT concat_ws(' in ', 'role ' || rolname, 'database ' || datname), substr(setting, 20) \
         FROM pg_db_role_setting LEFT JOIN pg_roles r ON r.oid = setrole LEFT JOIN pg_database d ON d.oid = setdatabase, \
         unnest(setconfig) AS setting WHERE setting LIKE 'synchronous\\_commit=%' \
         AND substr(setting, 20) IN ('remote_apply', 'local', 'off')",
    )?;
    for row in rows {
        let mut fields = row.into_iter().map(Option::unwrap_or_default);
        let (of, value) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        findings.push(if value == "remote_apply" {
            let text = format!("remote_apply for {of}: the agent replays nothing, such commits wait for ever");
            Finding::problem("synchronous_commit", text, "set it to on or remote_write")
        } else {
            let text = format!("{value} for {of}: such commits do not wait for the agent");
            Finding::warning("synchronous_commit", text, "set it to on where the data matters")
        });
    }
    Ok(findings)
}
