//! Recovery settings: a block of ours at the end of `postgresql.auto.conf`, and `recovery.signal`.
//!
//! The file's last word on a setting counts. Leftovers of earlier recoveries are commented out, everything else stays.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::storage::{self, S3Options};
use walkeep_proto::version::MajorVersion;

use super::files::Kept;
use super::manifest::Manifest;
use super::{Options, Place};
use crate::plan::{RestorePlan, Stop, TimelineSetting};

const NAME: &str = "postgresql.auto.conf";
const BEGIN: &str = "# BEGIN walkeep-restore";
const END: &str = "# END walkeep-restore";
const TAKEN_OUT: &str = "# taken out by walkeep-restore: ";

/// Settings, besides `recovery_target…`, that would lead the restored cluster elsewhere.
const LEFTOVERS: [&str; 6] = [
    "restore_command",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "archive_cleanup_command",
    "promote_trigger_file",
];

/// What the server does when it has reached the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TargetAction {
    /// Go into production on a new timeline.
    #[default]
    Promote,
    /// Wait, readable, until somebody promotes it.
    Pause,
    /// Stop.
    Shutdown,
}

impl TargetAction {
    const fn setting(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Pause => "pause",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How the server asks for archived WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchCommand {
    /// This program, as the server will find it.
    pub program: PathBuf,
    /// The repository's URL, which holds no secret.
    pub repository: String,
    /// How to talk to a bucket: what differs from AWS's own settings. Credentials are never among it.
    pub s3: S3Options,
    /// The cluster's name.
    pub cluster: String,
}

impl FetchCommand {
    /// The command line for `restore_command`: one layer of shell quotes, and PostgreSQL's own `%` doubled.
    pub fn restore_command(&self) -> String {
        let word = |text: &str| shell_word(text).replace('%', "%%");
        let (program, repository) = (word(&self.program.to_string_lossy()), word(&self.repository));
        let mut command = format!("{program} fetch-wal --repo {repository}");
        let ca_file = self.s3.ca_file.as_ref().map(|path| path.to_string_lossy());
        for (flag, value) in [
            ("--s3-endpoint", self.s3.endpoint.as_deref()),
            ("--s3-region", self.s3.region.as_deref()),
            ("--s3-path-style", self.s3.path_style.map(|yes| if yes { "true" } else { "false" })),
            ("--s3-ca-file", ca_file.as_deref()),
        ] {
            if let Some(value) = value {
                let _ = write!(command, " {}", word(&format!("{flag}={value}")));
            }
        }
        let _ = write!(command, " --cluster {} %f %p", word(&self.cluster));
        command
    }

    /// Whether the repository is a bucket, for which the server needs credentials.
    pub fn needs_credentials(&self) -> bool {
        matches!(self.repository.parse(), Ok(storage::Place::Bucket(_)))
    }
}

/// A word that the shell takes literally.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,=@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A value for a configuration file.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''").replace('\n', r"\n").replace('\r', r"\r"))
}

/// Writes both files. Returns the names of the settings that were taken out.
pub(super) fn write(
    place: &Place,
    plan: &RestorePlan,
    options: &Options,
    kept: Option<&Kept>,
    manifest: &mut Manifest,
) -> Result<Vec<String>> {
    let (mut content, taken_out) = without_leftovers(kept.map_or(&[], |kept| &kept.content));
    content.extend_from_slice(block(plan, options).as_bytes());
    let modified = kept.map_or_else(|| Timestamp::now().as_second(), |kept| kept.modified);
    place.write_file(NAME, &content)?;
    manifest.written(NAME, &content, modified)?;
    place.write_file("recovery.signal", b"")?;
    Ok(taken_out)
}

/// The file without earlier blocks of ours and with leftovers commented out, and the names of these.
fn without_leftovers(old: &[u8]) -> (Vec<u8>, Vec<String>) {
    let (mut kept, mut names) = (Vec::new(), Vec::new());
    let mut lines = old.split_inclusive(|byte| *byte == b'\n').peekable();
    let starts_with = |line: &[u8], mark: &str| line.trim_ascii_end() == mark.as_bytes();
    while let Some(line) = lines.next() {
        if starts_with(line, BEGIN) && lines.clone().any(|line| starts_with(line, END)) {
            lines.find(|line| starts_with(line, END));
            continue;
        }
        let name = setting_name(line);
        if name.starts_with("recovery_target") || LEFTOVERS.contains(&name.as_str()) {
            kept.extend_from_slice(TAKEN_OUT.as_bytes());
            names.push(name);
        }
        kept.extend_from_slice(line);
    }
    if kept.last().is_some_and(|last| *last != b'\n') {
        kept.push(b'\n');
    }
    names.dedup();
    (kept, names)
}

/// The setting that a line is about, in lower case as PostgreSQL compares it.
fn setting_name(line: &[u8]) -> String {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.')));
    String::from_utf8_lossy(&line[..end.unwrap_or(line.len())]).to_ascii_lowercase()
}

/// Our block.
fn block(plan: &RestorePlan, options: &Options) -> String {
    let backup = &plan.backup;
    let mut text = format!("{BEGIN}\n# Recovery from backup {} of cluster '{}'.\n", backup.id, backup.cluster);
    let mut set = |name: &str, value: &str| {
        let _ = writeln!(text, "{name} = {}", quoted(value));
    };
    set("restore_command", &options.fetch.restore_command());
    for name in ["primary_conninfo", "primary_slot_name", "recovery_end_command", "archive_cleanup_command"] {
        set(name, "");
    }
    if backup.major < MajorVersion::V16 {
        set("promote_trigger_file", "");
    }
    match plan.timeline_setting {
        TimelineSetting::Number(timeline) => set("recovery_target_timeline", &timeline.to_string()),
        TimelineSetting::Current => set("recovery_target_timeline", "current"),
    }
    // PostgreSQL refuses an empty target that follows a set one, so the one that counts is last.
    let target = match plan.stop {
        Stop::EndOfWal => None,
        Stop::Consistent => Some(("recovery_target", "immediate".to_owned())),
        Stop::Before(lsn) | Stop::After(lsn) => Some(("recovery_target_lsn", lsn.to_string())),
    };
    for name in [
        "recovery_target",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
        "recovery_target_lsn",
    ] {
        if target.as_ref().is_none_or(|(target, _)| *target != name) {
            set(name, "");
        }
    }
    if let Some((name, value)) = &target {
        set(name, value);
    }
    set("recovery_target_inclusive", if matches!(plan.stop, Stop::Before(_)) { "off" } else { "on" });
    set("recovery_target_action", options.action.setting());
    if !options.keep_archiving {
        set("archive_mode", "off");
    }
    text.push_str(END);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn command(program: &str, repository: &str) -> String {
        let s3 = S3Options::default();
        let fetch = FetchCommand { program: program.into(), repository: repository.into(), s3, cluster: "main".into() };
        assert!(!fetch.needs_credentials());
        quoted(&fetch.restore_command())
    }

    #[test]
    fn a_bucket_is_named_with_all_that_is_needed_to_reach_it() {
        let s3 = S3Options {
            endpoint: Some("https://s3.example.com:9000".to_owned()),
            region: Some("eu-1".to_owned()),
            path_style: Some(true),
            ca_file: Some("/etc/my ca.pem".into()),
            ..S3Options::default()
        };
        let mut fetch = FetchCommand {
            program: "/usr/bin/walkeep-restore".into(),
            repository: "s3://bucket/pre_fix".to_owned(),
            s3,
            cluster: "main".to_owned(),
        };
        assert!(fetch.needs_credentials());
        insta::assert_snapshot!(
            fetch.restore_command(),
            @"/usr/bin/walkeep-restore fetch-wal --repo s3://bucket/pre_fix --s3-endpoint=https://s3.example.com:9000 --s3-region=eu-1 --s3-path-style=true '--s3-ca-file=/etc/my ca.pem' --cluster main %f %p"
        );
        fetch.s3 = S3Options { path_style: Some(false), ..S3Options::default() };
        assert!(fetch.restore_command().contains(" --repo s3://bucket/pre_fix --s3-path-style=false --cluster main "));
    }

    #[test]
    fn any_path_survives_the_shell_and_the_configuration_file() {
        assert_eq!(
            command("/usr/bin/walkeep-restore", "/var/lib/walkeep"),
            "'/usr/bin/walkeep-restore fetch-wal --repo /var/lib/walkeep --cluster main %f %p'"
        );
        insta::assert_snapshot!(
            command("/opt/my tools/it's", r"/srv/100%\b&c"),
            @r"'''/opt/my tools/it''\\''''s'' fetch-wal --repo ''/srv/100%%\\b&c'' --cluster main %f %p'"
        );
    }

    #[test]
    fn leftovers_are_taken_out_and_nothing_else() {
        let old = format!(
            "# Do not edit this file manually!\nwork_mem = '64MB'\n  Recovery_Target_Time = 'x'\n{BEGIN}\nrestore_command = 'old'\n\
             {END}\nprimary_conninfo='host=a'\nrestore_command_x = '1'\n{BEGIN}\nport = '5433'"
        );
        let (new, names) = without_leftovers(old.as_bytes());
        assert_eq!(names, ["recovery_target_time", "primary_conninfo"]);
        insta::assert_snapshot!(String::from_utf8(new).unwrap(), @r"
        # Do not edit this file manually!
        work_mem = '64MB'
        # taken out by walkeep-restore:   Recovery_Target_Time = 'x'
        # taken out by walkeep-restore: primary_conninfo='host=a'
        restore_command_x = '1'
        # BEGIN walkeep-restore
        port = '5433'
        ");
    }

    proptest! {
        #[test]
        fn taking_out_twice_changes_nothing_more(old: Vec<u8>) {
            let (once, _) = without_leftovers(&old);
            let (twice, names) = without_leftovers(&once);
            prop_assert_eq!(names, Vec::<String>::new());
            prop_assert_eq!(once, twice);
        }
    }
}
