//! The command line.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use walkeep_proto::identity::Oid;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::record::TransactionId;

use crate::apply::{Owner, TargetAction};
use crate::target::{TargetTime, parse_name, parse_xid};

/// Rebuilds a PostgreSQL data directory as it was at a point of its past.
#[derive(Debug, Parser)]
#[command(name = "walkeep-restore", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What to do instead of restoring.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The restore.
    #[command(flatten)]
    pub restore: RestoreArgs,
}

/// What to do instead of restoring.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Lists the backups
    List(ListArgs),
    /// Shows the times that can be restored, per timeline, with gaps and branches
    Windows(ListArgs),
    /// Delivers an archived WAL file: for restore_command
    FetchWal(FetchWalArgs),
}

/// Which repository and cluster.
#[derive(Debug, Args)]
pub struct RepositoryArgs {
    /// The repository: a directory, or s3://BUCKET/PREFIX [env: WALKEEP_REPOSITORY_URL, WALKEEP_REPOSITORY_PATH]
    #[arg(long, value_name = "URL")]
    pub repo: Option<String>,
    /// How to talk to a bucket.
    #[command(flatten)]
    pub s3: S3Args,
    /// The cluster's name in the repository; needed if it holds several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The agent's configuration file, for the repository and the cluster's name
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// How to talk to a bucket; what is not given comes from AWS's own environment variables and profile.
#[derive(Debug, Default, Args)]
pub struct S3Args {
    /// Base URL of the S3 service, like `https://s3.example.com`; by default AWS [env: WALKEEP_MIRROR_ENDPOINT]
    #[arg(long = "s3-endpoint", value_name = "URL")]
    pub endpoint: Option<String>,
    /// Region that requests are signed for [env: WALKEEP_MIRROR_REGION]
    #[arg(long = "s3-region", value_name = "REGION")]
    pub region: Option<String>,
    /// Put the bucket's name into the path rather than the host name [env: WALKEEP_MIRROR_PATH_STYLE]
    #[arg(long = "s3-path-style", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub path_style: Option<bool>,
    /// PEM file of the authority that signed the endpoint's certificate [env: WALKEEP_MIRROR_CA_FILE]
    #[arg(long = "s3-ca-file", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// How to print.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print nothing but errors and what was asked for
    #[arg(short, long)]
    pub quiet: bool,
    /// Say more; twice for even more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// `list` and `windows`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Where.
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// How.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// `fetch-wal`.
#[derive(Debug, Args)]
pub struct FetchWalArgs {
    /// Where.
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// The file's name: %f
    pub file: String,
    /// Where to put it: %p
    pub path: PathBuf,
}

/// A restore.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("goal").multiple(false))]
pub struct RestoreArgs {
    /// Where from.
    #[command(flatten)]
    pub repository: RepositoryArgs,
    /// The data directory to make: new or empty
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// Recover what was committed by this time, as in '2026-11-21 10:30:00+01'
    #[arg(long, value_name = "TIME", group = "goal")]
    pub target_time: Option<TargetTime>,
    /// Recover up to this position
    #[arg(long, value_name = "LSN", group = "goal")]
    pub target_lsn: Option<Lsn>,
    /// Recover up to the end of this transaction
    #[arg(long, value_name = "XID", group = "goal", value_parser = parse_xid)]
    pub target_xid: Option<TransactionId>,
    /// Recover up to this restore point
    #[arg(long, value_name = "NAME", group = "goal", value_parser = parse_name)]
    pub target_name: Option<String>,
    /// Recover as little or as much as there is; the default is latest
    #[arg(long, value_name = "WHICH", group = "goal")]
    pub target: Option<NamedTarget>,
    /// Stop just before the target instead of just behind it
    #[arg(long)]
    pub exclusive: bool,
    /// Recover along this timeline; by default the one that holds the target
    #[arg(long, value_name = "N")]
    pub timeline: Option<TimelineId>,
    /// Start from this backup; by default the latest that serves
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// Put a tablespace elsewhere than where it was; may be given several times
    #[arg(long, value_name = "OID=DIR", value_parser = parse_mapping)]
    pub tablespace_map: Vec<(Oid, PathBuf)>,
    /// What the server does at the target
    #[arg(long, value_name = "ACTION", default_value = "promote")]
    pub target_action: TargetAction,
    /// Let the restored cluster go on archiving with the settings it had
    #[arg(long)]
    pub keep_archiving: bool,
    /// Who shall own the files, if root restores: USER, USER:GROUP or numbers
    #[arg(long, value_name = "USER[:GROUP]")]
    pub owner: Option<Owner>,
    /// Where walkeep-restore will be on the machine that starts the cluster, for restore_command
    #[arg(long, value_name = "PATH")]
    pub fetch_with: Option<PathBuf>,
    /// Threads; by default as many as there are cores
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub jobs: Option<u16>,
    /// Print what would be done and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// How to print.
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Targets without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NamedTarget {
    /// As soon as the backup is consistent
    Immediate,
    /// The end of the archived WAL
    Latest,
}

/// Reads `OID=DIR`.
fn parse_mapping(text: &str) -> Result<(Oid, PathBuf), String> {
    let (oid, directory) = text.split_once('=').ok_or("expected OID=DIR")?;
    let oid =
        oid.parse::<Oid>().ok().filter(|oid| *oid > 0).ok_or_else(|| format!("'{oid}' is no tablespace's OID"))?;
    if directory.is_empty() { Err("the directory is missing behind =".to_owned()) } else { Ok((oid, directory.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("walkeep-restore").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert!(parse("--repo r --target-dir d --target-lsn 0/3000028 --exclusive --tablespace-map 16400=/x").is_ok());
        assert!(matches!(parse("fetch-wal --repo r 00000001 p").unwrap().command, Some(Command::FetchWal(_))));
        assert!(matches!(parse("windows --repo r --json").unwrap().command, Some(Command::Windows(_))));
        for (text, expected) in [
            ("", None),
            ("--s3-path-style", Some(true)),
            ("--s3-path-style=false", Some(false)),
            ("--s3-path-style true", Some(true)),
        ] {
            let cli = parse(&format!("--repo s3://b --target-dir d {text}")).unwrap();
            assert_eq!(cli.restore.repository.s3.path_style, expected, "{text}");
        }
        assert!(
            parse("fetch-wal --repo s3://b --s3-path-style=true --s3-endpoint http://h:1 --s3-region r 00000001 p")
                .is_ok()
        );
    }

    #[test]
    fn contradictions_and_garbage_are_refused() {
        for line in [
            "--repo r --target-dir d --target-lsn 0/1 --target-xid 5",
            "--repo r --target-dir d --target latest --target-name n",
            "--repo r --target-dir d --target-lsn 0/3000028x",
            "--repo r --target-dir d --target newest",
            "--repo r --target-dir d --timeline 0",
            "--repo r --target-dir d --tablespace-map 16400",
            "--repo r --target-dir d --tablespace-map x=/y",
            "--repo r --target-dir d --jobs 0",
            "--repo r --target-dir d --s3-path-style=perhaps",
            "fetch-wal --repo r",
            "fetch-wal --repo r a b c",
            "lists",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
