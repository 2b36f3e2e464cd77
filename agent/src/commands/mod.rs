//! One file per verb.

mod agent;
mod archive_push;
mod backup;
mod check;
mod init;
mod list;
mod locks;
mod show;
mod status;
mod sync;
mod unlock;
mod verify;
mod windows;

use anyhow::Result;
use walkeep_chunkstore::console::{self, Exit};

use crate::backup::{NotArchived, NotConfigured};
use crate::cli::{Cli, Command};
use crate::config::ConfigError;
use crate::postgres::SqlError;
use crate::postgres::conninfo::ConninfoError;

/// Runs what was asked for.
pub fn run(cli: &Cli) -> Result<Exit> {
    match &cli.command {
        Command::Init(args) => init::run(cli, args),
        Command::ArchivePush { path } => archive_push::run(cli, path),
        Command::Agent => agent::run(cli),
        Command::Backup(args) => backup::run(cli, args),
        Command::List => list::run(cli),
        Command::Show { id } => show::run(cli, id),
        Command::Windows => windows::run(cli),
        Command::Status => status::run(cli),
        Command::Check => check::run(cli),
        Command::Verify(args) => verify::run(cli, args),
        Command::Sync(args) => sync::run(cli, args),
        Command::Locks => locks::run(cli),
        Command::Unlock(args) => unlock::run(cli, args),
    }
}

/// The exit code for an error.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if error.chain().any(|cause| cause.is::<ConfigError>()) {
        return Exit::Configuration;
    }
    console::exit_of(error.as_ref())
}

/// What the operator can do about an error.
pub fn hints(cli: &Cli, error: &anyhow::Error) -> Vec<String> {
    let mut hints = Vec::new();
    for cause in error.chain() {
        if let Some(sql) = cause.downcast_ref::<SqlError>() {
            hints.extend(sql_hint(sql).map(str::to_owned));
        }
        hints.extend(cause.downcast_ref::<ConninfoError>().and_then(ConninfoError::hint).map(str::to_owned));
        if cause.is::<NotArchived>() {
            hints.push("run `walkeep check` to see whether archive_mode and archive_command are right".to_owned());
        }
        if cause.is::<NotConfigured>() {
            hints.push("run `walkeep init` again: it prints the settings; --apply sets them; then restart".to_owned());
        }
        if let Some(error) = cause.downcast_ref::<walkeep_chunkstore::Error>() {
            hints.extend(repository_hint(cli, error));
        }
    }
    hints
}

fn sql_hint(error: &SqlError) -> Option<&'static str> {
    match error.code.as_deref() {
        Some("42501") => Some(
            "connect as a superuser, or GRANT EXECUTE on the backup functions, pg_create_restore_point(text) and \
             pg_switch_wal(), and the role pg_monitor, to the user",
        ),
        Some("28000" | "28P01") => {
            Some("check user and password in [cluster] conninfo and pg_hba.conf; run as the server's own system user")
        }
        None => Some("check that the server runs and that [cluster] conninfo leads to it"),
        Some(_) => None,
    }
}

fn repository_hint(cli: &Cli, error: &walkeep_chunkstore::Error) -> Option<String> {
    use walkeep_chunkstore::Error;
    use walkeep_chunkstore::ErrorKind;
    if let Some(hint) = error.hint() {
        return Some(hint.to_owned());
    }
    match error.kind() {
        ErrorKind::NotFound if matches!(error, Error::NotFound { object } if object.contains("repository")) => {
            Some("run `walkeep init` to create it, or check [repository] in the configuration".to_owned())
        }
        ErrorKind::Full => {
            Some("free space where the repository is; nothing that was acknowledged is affected".to_owned())
        }
        ErrorKind::Failed if matches!(error, Error::Index { .. }) => {
            Some("the index can be deleted at any time: the next run builds it anew".to_owned())
        }
        ErrorKind::Unreachable => {
            Some("check that the repository is there and that this user may write to it".to_owned())
        }
        ErrorKind::Conflict if matches!(error, Error::Conflict { object, .. } if object.ends_with("is in use")) => Some(
            "`walkeep locks` shows all leases; if the holder is gone for good, `walkeep unlock KEY --force` removes its \
             lease before it lapses"
                .to_owned(),
        ),
        ErrorKind::Damaged if matches!(error, Error::Damaged { object, .. } if object.starts_with("leases/")) => {
            Some("`walkeep locks` shows all leases".to_owned())
        }
        ErrorKind::Damaged if !matches!(cli.command, Command::Verify(_)) => {
            Some("run `walkeep verify` to see what is affected".to_owned())
        }
        _ => None,
    }
}
