//! Which entries of a data directory belong in a base backup, and which directories a restore must create empty.
//!
//! The rules are those of the server's own base backup (`backup/basebackup.c`), with the leftovers of recovery added.
//! Paths are relative to the data directory, with `/` between the parts.

use crate::identity::ForkNumber;
use crate::relation_file::{GLOBAL_TABLESPACE, RelationFile, is_temporary_relation_file};
use crate::version::MajorVersion;

/// What a base backup does with one entry of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// Take it; of a directory, look at each entry.
    Copy,
    /// Leave it out: a file, or a directory with everything in it.
    SkipFile,
    /// Take it as an empty directory, be it a directory or a symbolic link to one.
    KeepDirectoryDropContents,
}

/// Directories at the top whose contents are rebuilt at startup, or must not be copied beside a running server.
const EMPTIED_DIRECTORIES: [&str; 8] =
    ["pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Files at the top that describe a running server, another backup or an earlier recovery.
const SKIPPED_AT_THE_TOP: [&str; 12] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "backup_manifest.tmp",
    "recovery.signal",
    "standby.signal",
];

/// What a base backup does with the entry at `path`.
///
/// Left to the caller, who can see more than one path: unlogged relations ([`unlogged_init_sibling`]), entries that are
/// neither file nor directory, and what symbolic links point to.
pub fn exclusion(path: &str, is_dir: bool) -> Treatment {
    let (top, name) = (path.split('/').next().unwrap_or(path), path.rsplit('/').next().unwrap_or(path));
    if EMPTIED_DIRECTORIES.contains(&path) {
        return Treatment::KeepDirectoryDropContents;
    }
    let skipped_file = SKIPPED_AT_THE_TOP.contains(&path)
        || name == ".DS_Store"
        || name.starts_with("pg_internal.init")
        || is_temporary_relation_file(path);
    // `pgsql_tmp` is a directory as well as the beginning of file names in it.
    if EMPTIED_DIRECTORIES.contains(&top) || name.starts_with("pgsql_tmp") || (skipped_file && !is_dir) {
        return Treatment::SkipFile;
    }
    Treatment::Copy
}

/// The path of the init fork whose existence makes the file at `path` part of an unlogged relation, to be left out.
///
/// `None` if no such fork can exist or if the file is one: a restore needs init forks, startup copies them over the
/// rest. Look for it when the file is about to be copied, not when the directory was listed.
pub fn unlogged_init_sibling(path: &str) -> Option<String> {
    let file = RelationFile::parse(path)?;
    if file.fork == ForkNumber::Init || file.locator.tablespace == GLOBAL_TABLESPACE {
        return None;
    }
    let (directory, _) = path.rsplit_once('/')?;
    Some(format!("{directory}/{}_init", file.locator.relation))
}

/// Directories that a data directory must have although a backup may hold nothing in them; parents come first.
///
/// PostgreSQL does not start, or fails later, where one is missing.
pub const fn required_empty_directories(version: MajorVersion) -> &'static [&'static str] {
    match version {
        MajorVersion::V17 | MajorVersion::V18 => &REQUIRED_DIRECTORIES,
        MajorVersion::V13 | MajorVersion::V14 | MajorVersion::V15 | MajorVersion::V16 => {
            REQUIRED_DIRECTORIES.split_at(REQUIRED_DIRECTORIES.len() - 1).0
        }
    }
}

/// What `initdb` makes and leaves empty; the last one came with 17.
const REQUIRED_DIRECTORIES: [&str; 17] = [
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_wal/summaries",
];

/// The directory inside each tablespace that belongs to servers of this version; others there belong to other clusters.
pub fn tablespace_version_directory(version: MajorVersion) -> String {
    format!("PG_{version}_{}", version.catalog_version())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn paths(text: &str) -> impl Iterator<Item = &str> {
        text.split_whitespace()
    }

    #[test]
    fn files_of_the_running_server_stay_out() {
        for path in paths(
            "postmaster.pid postmaster.opts backup_label tablespace_map backup_manifest recovery.signal standby.signal \
             base/5/pg_internal.init global/pg_internal.init.4711 base/pgsql_tmp/pgsql_tmp1.0 base/5/t3_16384_fsm \
             .DS_Store base/.DS_Store pg_wal/000000010000000000000001 pg_replslot/a/state pg_stat_tmp/global.stat",
        ) {
            assert_eq!(exclusion(path, false), Treatment::SkipFile, "{path}");
        }
        for path in paths("base/pgsql_tmp pg_tblspc/9/PG_16_1/pgsql_tmp pg_replslot/a pg_wal/archive_status") {
            assert_eq!(exclusion(path, true), Treatment::SkipFile, "{path}");
        }
    }

    #[test]
    fn emptied_directories_stay() {
        for path in EMPTIED_DIRECTORIES {
            for is_dir in [false, true] {
                assert_eq!(exclusion(path, is_dir), Treatment::KeepDirectoryDropContents, "{path}");
            }
        }
    }

    #[test]
    fn everything_else_is_taken_unknown_files_too() {
        for path in paths(
            "PG_VERSION postgresql.conf postgresql.auto.conf global/pg_control global/pg_filenode.map base/5/16384 \
             base/5/16384_init pg_xact/0000 pg_stat/pgstat.stat pg_logical/replorigin_checkpoint pg_twophase/0001 \
             log/postgresql.log conf/backup_label mydir/pg_wal/x pg_walx global/t3_1 notes.txt",
        ) {
            assert_eq!(exclusion(path, false), Treatment::Copy, "{path}");
        }
        for path in paths("base base/5 global pg_tblspc pg_tblspc/9 pg_xact backup_label base/pg_notify") {
            assert_eq!(exclusion(path, true), Treatment::Copy, "{path}");
        }
    }

    #[test]
    fn init_forks_tell_unlogged_relations() {
        assert_eq!(unlogged_init_sibling("base/5/16384_fsm.1").as_deref(), Some("base/5/16384_init"));
        assert_eq!(unlogged_init_sibling("pg_tblspc/9/PG_16_1/5/7.2").as_deref(), Some("pg_tblspc/9/PG_16_1/5/7_init"));
        for path in ["base/5/16384_init", "global/1262", "base/5/PG_VERSION", "base/5/t3_1"] {
            assert_eq!(unlogged_init_sibling(path), None, "{path}");
        }
    }

    #[test]
    fn every_emptied_directory_is_created_again_behind_its_parent() {
        for version in MajorVersion::ALL {
            let required = required_empty_directories(version);
            assert!(EMPTIED_DIRECTORIES.iter().all(|directory| required.contains(directory)));
            for (index, directory) in required.iter().enumerate() {
                if let Some((parent, _)) = directory.rsplit_once('/') {
                    assert!(required[..index].contains(&parent), "{directory}");
                }
            }
            assert_eq!(required.contains(&"pg_wal/summaries"), version >= MajorVersion::V17);
        }
        assert_eq!(tablespace_version_directory(MajorVersion::V16), "PG_16_202307071");
    }

    proptest! {
        #[test]
        fn any_text_is_treated(path: String, is_dir: bool) {
            let _ = (exclusion(&path, is_dir), unlogged_init_sibling(&path));
        }
    }
}
