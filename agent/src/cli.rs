//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::backup::Source;

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
    /// Run beside the server: keeps mirrors up to date, answers `status` and metrics.
    Agent,
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
    /// Show what the agent does now and how far the mirrors are behind.
    Status,
    /// Look for everything that would make a later restore fail.
    Check,
    /// Read the repository and find damage.
    Verify(VerifyArgs),
    /// Copy the repository to another place, checking everything on the way.
    Sync(SyncArgs),
    /// Show who works with the repository now.
    Locks,
    /// Remove leases whose holders are gone.
    Unlock(UnlockArgs),
}

/// `walkeep init`.
#[derive(Clone, Debug, Args)]
pub struct InitArgs {
    /// The cluster's data directory; without it, --conninfo says where the server is, and base backups come over the wire.
    #[arg(long, value_name = "DIR", required_unless_present = "conninfo")]
    pub pgdata: Option<PathBuf>,
    /// Where backups and WAL go: a directory, or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    pub repo: String,
    /// A second place for them: s3://BUCKET/PREFIX, or a directory.
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Whether archive-push and backup wait for the mirror.
    #[arg(long, value_name = "LEVEL", value_parser = ["local", "mirror"])]
    pub durability: Option<String>,
    /// How to talk to a bucket.
    #[command(flatten)]
    pub s3: S3Args,
    /// Create the bucket if there is none.
    #[arg(long)]
    pub create_bucket: bool,
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

/// How to talk to a bucket; what is not given comes from AWS's own environment and profile.
#[derive(Clone, Debug, Default, Args)]
pub struct S3Args {
    /// Base URL of the S3 service, like `https://s3.example.com` [default: AWS].
    #[arg(long = "s3-endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    #[arg(long = "s3-region", value_name = "REGION")]
    pub region: Option<String>,
    /// Put the bucket's name into the path rather than the host name.
    #[arg(long = "s3-path-style", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub path_style: Option<bool>,
    /// PEM file of the authority that signed the endpoint's certificate.
    #[arg(long = "s3-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// How a backup begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckpointArg {
    /// At once.
    Fast,
    /// Spread over time like any other.
    Spread,
}

/// `walkeep backup`.
#[derive(Clone, Debug, Args)]
pub struct BackupArgs {
    /// Compare with no earlier backup. What the repository holds is still not stored twice.
    #[arg(long)]
    pub full_read: bool,
    /// Where the bytes come from: the files on this host, or the server, which sends them [default: the files where
    /// `cluster.pgdata` is set].
    #[arg(long, value_name = "SOURCE", value_enum)]
    pub source: Option<Source>,
    /// How the server begins: with a checkpoint at once, or with one spread over time.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CheckpointArg::Fast)]
    pub checkpoint: CheckpointArg,
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
    /// Read this share of packs and WAL completely, another one each day; of the rest, only structure and size.
    #[arg(long, value_name = "PCT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub sample: u8,
    /// Verify what this backup needs, and nothing else.
    pub id: Option<String>,
}

/// `walkeep sync`.
#[derive(Clone, Debug, Args)]
pub struct SyncArgs {
    /// Where to: an empty place or one that holds this repository, a directory or s3://BUCKET/PREFIX.
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// Whence, if not from the configured repository; no configuration file is needed then.
    #[arg(long, value_name = "URL")]
    pub from: Option<String>,
    /// How to talk to the bucket that is copied to.
    #[command(flatten)]
    pub s3: S3Args,
    /// How to talk to the bucket of --from, where it differs.
    #[command(flatten)]
    pub from_s3: FromS3Args,
    /// Create the bucket of --to if there is none.
    #[arg(long)]
    pub create_bucket: bool,
    /// Objects under way at once [default: 8 with a bucket, else one per core].
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Say what would be copied and change nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// How to talk to a bucket that is copied from.
#[derive(Clone, Debug, Default, Args)]
pub struct FromS3Args {
    /// As --s3-endpoint, for --from [default: the same].
    #[arg(long = "from-s3-endpoint", value_name = "URL", requires = "from")]
    pub from_endpoint: Option<String>,
    /// As --s3-region, for --from [default: the same].
    #[arg(long = "from-s3-region", value_name = "REGION", requires = "from")]
    pub from_region: Option<String>,
    /// As --s3-path-style, for --from [default: the same].
    #[arg(long = "from-s3-path-style", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", requires = "from")]
    pub from_path_style: Option<bool>,
    /// As --s3-ca-file, for --from [default: the same].
    #[arg(long = "from-s3-ca-file", value_name = "FILE", requires = "from")]
    pub from_ca_file: Option<PathBuf>,
}

/// `walkeep unlock`.
#[derive(Clone, Debug, Args)]
pub struct UnlockArgs {
    /// The lease, as `walkeep locks` prints it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub key: Option<String>,
    /// Every lease that counts for nothing any more.
    #[arg(long)]
    pub all: bool,
    /// Also a lease that is held, or cannot be read.
    #[arg(long)]
    pub force: bool,
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
