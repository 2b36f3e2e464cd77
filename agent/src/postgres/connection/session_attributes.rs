//! Which kind of server is wanted: `target_session_attrs`.

use anyhow::{Context, Result, bail, ensure};
use walkeep_proto::replication::command;

use super::super::conninfo::TargetSessionAttributes;
use super::{Connection, Purpose};

/// What the hosts are searched for, in this order: the second only when no host is of the first kind.
pub(super) const fn passes(wanted: TargetSessionAttributes) -> &'static [TargetSessionAttributes] {
    use TargetSessionAttributes::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    match wanted {
        Any => &[Any],
        ReadWrite => &[ReadWrite],
        ReadOnly => &[ReadOnly],
        Primary => &[Primary],
        Standby => &[Standby],
        PreferStandby => &[Standby, Any],
    }
}

/// Fails with the reason when the server is of another kind.
pub(super) async fn check(connection: &mut Connection, wanted: TargetSessionAttributes) -> Result<()> {
    use TargetSessionAttributes::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
    match wanted {
        Any | PreferStandby => {}
        Primary => ensure!(!is_standby(connection).await?, "the server is a standby, a primary is wanted"),
        Standby => ensure!(is_standby(connection).await?, "the server is a primary, a standby is wanted"),
        ReadWrite => ensure!(!is_read_only(connection).await?, "the server is read-only, a writable one is wanted"),
        ReadOnly => ensure!(is_read_only(connection).await?, "the server is writable, a read-only one is wanted"),
    }
    Ok(())
}

/// From 14 on servers report it; before, SQL knows it. A walsender of 13 knows only whether its transactions are
/// read-only, which they are on a standby, or because the administrator wants them so.
async fn is_standby(connection: &mut Connection) -> Result<bool> {
    match (connection.parameter("in_hot_standby"), connection.facts.purpose) {
        (Some(value), _) => return on(value),
        (None, Purpose::Sql) => {
            let rows = connection.query("SELECT pg_catalog.pg_is_in_recovery()").await?;
            let value = rows.first().and_then(|rows| rows.text(0, 0)).context("the server gave no answer")?;
            return on(value);
        }
        (None, Purpose::PhysicalReplication) => {}
    }
    if !show(connection, "transaction_read_only").await? {
        return Ok(false);
    }
    if show(connection, "default_transaction_read_only").await? {
        bail!("unable to tell whether the server is a standby: its default_transaction_read_only is on");
    }
    Ok(true)
}

async fn is_read_only(connection: &mut Connection) -> Result<bool> {
    let reported = |name| connection.parameter(name).map(on).transpose();
    match (reported("default_transaction_read_only")?, reported("in_hot_standby")?) {
        (Some(by_default), Some(standby)) => Ok(by_default || standby),
        _ => show(connection, "transaction_read_only").await,
    }
}

async fn show(connection: &mut Connection, setting: &str) -> Result<bool> {
    let rows = connection.query(&command::show(setting)?).await?;
    on(rows.first().and_then(|rows| rows.text(0, 0)).with_context(|| format!("the server does not show {setting}"))?)
}

fn on(value: &str) -> Result<bool> {
    match value {
        "on" | "t" => Ok(true),
        "off" | "f" => Ok(false),
        other => bail!("the server says '{other}' where on or off is expected"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefer_standby_takes_anything_in_the_end() {
        use TargetSessionAttributes::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
        assert_eq!(passes(PreferStandby), [Standby, Any]);
        for wanted in [Any, Primary, ReadOnly, ReadWrite, Standby] {
            assert_eq!(passes(wanted), [wanted]);
        }
    }
}
