//! What `walkeep check` looks at before a stream is relied upon.

use anyhow::Result;

use crate::backup::Finding;
use crate::config::StreamSettings;
use crate::postgres::Session;

/// Looks at what the stream needs of the server.
pub fn examine(session: &Session, settings: &StreamSettings) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.push(role(session)?);
    findings.push(room(session)?);
    if settings.synchronous {
        findings.extend(synchronous(session, settings)?);
    }
    Ok(findings)
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
