//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Backup and point-in-time recovery for PostgreSQL.
#[derive(Clone, Debug, Parser)]
#[command(name = "walkeep", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file [default: /etc/walkeep/walkeep.toml].
    #[arg(long, global = true, env = "WALKEEP_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print one JSON object instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors and what was asked for.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more on stderr; twice for every detail.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Create the repository, register the cluster, write the configuration.
    Init(InitArgs),
    /// Store one WAL file; for archive_command = 'walkeep archive-push %p'.
    ArchivePush {
        /// The file, as PostgreSQL's %p gives it.
        path: PathBuf,
    },
    /// Take a base backup now.
    Backup(BackupArgs),
    /// List the base backups.
    List,
    /// Show everything about one base backup.
    Show {
        /// Its id, as `walkeep list` prints it.
        id: String,
    },
    /// Show the ranges of time that can be restored.
    Windows,
    /// Look for everything that would make a later restore fail.
    Check,
    /// Read the repository and find damage.
    Verify(VerifyArgs),
}

/// `walkeep init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The cluster's data directory.
    #[arg(long, value_name = "DIR")]
    pub pgdata: PathBuf,
    /// Where backups and WAL go: a directory.
    #[arg(long, value_name = "URL")]
    pub repo: String,
    /// The cluster's name in the repository [default: main].
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// How to connect [default: what postmaster.pid in the data directory says].
    #[arg(long, value_name = "CONNINFO")]
    pub conninfo: Option<String>,
    /// Set PostgreSQL's settings with ALTER SYSTEM.
    #[arg(long)]
    pub apply: bool,
}

/// `walkeep backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// Compare with no earlier backup. What the repository holds is still not stored twice.
    #[arg(long)]
    pub full_read: bool,
    /// A note to keep with the backup; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = note)]
    pub note: Vec<(String, String)>,
    /// Threads [default: `jobs` of the configuration, else one per core].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
}

/// `walkeep verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Read this share of packs and WAL completely; of the rest, only structure and size.
    #[arg(long, value_name = "PCT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub sample: u8,
    /// Verify what this backup needs, and nothing else.
    pub id: Option<String>,
}

fn note(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }
}
