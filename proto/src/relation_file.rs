//! Which relation, fork and segment a file of a data directory holds, told from its path alone.
//!
//! Paths are relative to the data directory, with `/` between the parts. Names are those of `common/relpath.h`:
//! `<number>[_fsm|_vm|_init][.<segment>]`, temporary ones with `t<backend>_` in front.

use crate::identity::{BlockNumber, ForkNumber, Oid, RelFileLocator};

/// Tablespace of the files in `base` (`pg_default`).
pub const DEFAULT_TABLESPACE: Oid = 1663;

/// Tablespace of the files in `global` (`pg_global`).
pub const GLOBAL_TABLESPACE: Oid = 1664;

/// One file of one fork of a permanent or unlogged relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationFile {
    /// The relation.
    pub locator: RelFileLocator,
    /// The part of it.
    pub fork: ForkNumber,
    /// Which file of the fork, from 0: each but the last has `relseg_size` pages.
    pub segment: u32,
}

impl RelationFile {
    /// Understands a path in `base/<db>`, `global` or `pg_tblspc/<oid>/PG_<major>_<catalog>/<db>`.
    ///
    /// `None` for everything else, which includes the files of temporary relations.
    pub fn parse(path: &str) -> Option<Self> {
        let (directory, name) = RelationDirectory::split(path)?;
        let (relation, fork, segment) = parse_name(name)?;
        let RelationDirectory { tablespace, database } = directory;
        Some(Self { locator: RelFileLocator { tablespace, database, relation }, fork, segment })
    }

    /// The number of the file's first page inside its fork; `None` if no fork can be that long.
    ///
    /// `blocks_per_segment` comes from `pg_control`.
    pub const fn first_block(&self, blocks_per_segment: u32) -> Option<BlockNumber> {
        self.segment.checked_mul(blocks_per_segment)
    }
}

/// Whether the path names a file of a temporary relation, which no backup needs.
pub fn is_temporary_relation_file(path: &str) -> bool {
    let Some((directory, name)) = RelationDirectory::split(path) else { return false };
    let backend_and_name = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    // Shared relations are never temporary.
    directory.database != 0
        && backend_and_name.is_some_and(|(backend, name)| is_digits(backend) && parse_name(name).is_some())
}

/// Directories whose files are arrays of pages without a header (`access/slru.h`) and belong in a backup.
const SLRU_DIRECTORIES: [&str; 4] = ["pg_xact", "pg_multixact/members", "pg_multixact/offsets", "pg_commit_ts"];

/// Whether the path names a segment of a transaction log: `pg_xact/0000` and its like.
///
/// These files are changed in place page by page, but their pages have neither LSN nor checksum.
pub fn is_slru_file(path: &str) -> bool {
    path.rsplit_once('/').is_some_and(|(directory, name)| {
        // Four to six digits by tradition, fifteen where segment numbers have 64 bits.
        SLRU_DIRECTORIES.contains(&directory)
            && (4..=15).contains(&name.len())
            && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
    })
}

/// A directory that holds relation files.
struct RelationDirectory {
    tablespace: Oid,
    database: Oid,
}

impl RelationDirectory {
    /// Splits a path into such a directory and a file name.
    fn split(path: &str) -> Option<(Self, &str)> {
        let (directory, name) = path.rsplit_once('/')?;
        let mut parts = directory.split('/');
        let found = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("global", None, _, _) => Self { tablespace: GLOBAL_TABLESPACE, database: 0 },
            ("base", Some(database), None, _) => Self { tablespace: DEFAULT_TABLESPACE, database: oid(database)? },
            ("pg_tblspc", Some(tablespace), Some(version), Some(database)) if is_version_directory(version) => {
                Self { tablespace: oid(tablespace)?, database: oid(database)? }
            }
            _ => return None,
        };
        parts.next().is_none().then_some((found, name))
    }
}

/// `<number>[_fork][.<segment>]`, with numbers written as the server writes them.
fn parse_name(name: &str) -> Option<(Oid, ForkNumber, u32)> {
    let (stem, segment) = match name.split_once('.') {
        Some((stem, segment)) => (stem, oid(segment)?),
        None => (name, 0),
    };
    let (relation, fork) = match stem.split_once('_') {
        None => (stem, ForkNumber::Main),
        Some((relation, "fsm")) => (relation, ForkNumber::FreeSpaceMap),
        Some((relation, "vm")) => (relation, ForkNumber::VisibilityMap),
        Some((relation, "init")) => (relation, ForkNumber::Init),
        Some(_) => return None,
    };
    Some((oid(relation)?, fork, segment))
}

/// A decimal number from 1 to 4294967295 without sign or leading zero.
fn oid(digits: &str) -> Option<Oid> {
    if digits.starts_with('0') || !is_digits(digits) { None } else { digits.parse().ok() }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `PG_<major>_<catalog version>`.
fn is_version_directory(name: &str) -> bool {
    name.strip_prefix("PG_")
        .and_then(|rest| rest.split_once('_'))
        .is_some_and(|(major, catalog)| is_digits(major) && is_digits(catalog))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(tablespace: Oid, database: Oid, relation: Oid, fork: ForkNumber, segment: u32) -> Option<RelationFile> {
        Some(RelationFile { locator: RelFileLocator { tablespace, database, relation }, fork, segment })
    }

    #[test]
    fn paths_name_relations() {
        let cases = [
            ("base/5/16384", file(1663, 5, 16384, ForkNumber::Main, 0)),
            ("base/5/16384.12", file(1663, 5, 16384, ForkNumber::Main, 12)),
            ("base/5/16384_fsm", file(1663, 5, 16384, ForkNumber::FreeSpaceMap, 0)),
            ("global/1262_vm.1", file(1664, 0, 1262, ForkNumber::VisibilityMap, 1)),
            ("pg_tblspc/24576/PG_16_202307071/5/1_init", file(24576, 5, 1, ForkNumber::Init, 0)),
            ("base/5/4294967295", file(1663, 5, u32::MAX, ForkNumber::Main, 0)),
        ];
        for (path, expected) in cases {
            assert_eq!(RelationFile::parse(path), expected, "{path}");
        }
    }

    #[test]
    fn nothing_else_is_a_relation() {
        let strangers = "/ base base/5 base/5/ base//1 base/5/PG_VERSION base/5/pg_filenode.map base/5/0 base/5/01 \
            base/5/4294967296 base/5/1. base/5/1.0 base/5/1.01 base/5/1.1.1 base/5/1_ base/5/1_new \
            base/5/1_fsm_vm base/5/+1 base/5/1/1 base/0/1 ./base/5/1 base/x/1 global/5/1 global/pg_control \
            pg_tblspc/1/5/1 pg_tblspc/1/PG_16/5/1 pg_tblspc/1/PG_16_1/1 pg_tblspc/1/PG_16_1/5/1/2 \
            pg_xact/0000 base/5/t3_16384 base/5/1.4294967296";
        for path in strangers.split(' ').chain([""]) {
            assert_eq!(RelationFile::parse(path), None, "{path:?}");
        }
    }

    #[test]
    fn temporary_relations_are_known_by_name() {
        for path in ["base/5/t3_16384", "base/5/t0_1_fsm.2", "pg_tblspc/9/PG_16_202307071/5/t12_3_vm"] {
            assert!(is_temporary_relation_file(path), "{path}");
        }
        for path in ["base/5/16384", "global/t3_1", "base/5/t_1", "base/5/t3_", "base/5/t3_x", "base/5/t3", "t3_1"] {
            assert!(!is_temporary_relation_file(path), "{path}");
        }
    }

    #[test]
    fn transaction_logs_are_known_by_name() {
        for path in ["pg_xact/0000", "pg_multixact/members/14078", "pg_commit_ts/00A9", "pg_xact/000000000001A2B"] {
            assert!(is_slru_file(path), "{path}");
        }
        for path in ["pg_xact", "pg_xact/", "pg_xact/000", "pg_xact/000g", "pg_subtrans/0000", "x/pg_xact/0000"] {
            assert!(!is_slru_file(path), "{path}");
        }
    }

    #[test]
    fn a_segment_knows_its_first_page() {
        let second = RelationFile::parse("base/5/16384.1").unwrap();
        assert_eq!(second.first_block(131_072), Some(131_072));
        assert_eq!(RelationFile::parse("base/5/16384.32768").unwrap().first_block(131_072), None);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(path: String, near in "(base|global|pg_tblspc)(/(PG_1_1|[0-9a-z_.]{0,12})){0,5}") {
            for path in [path, near] {
                let found = RelationFile::parse(&path);
                prop_assert!(!(found.is_some() && is_temporary_relation_file(&path)));
                prop_assert!(!(found.is_some() && is_slru_file(&path)));
            }
        }
    }
}
