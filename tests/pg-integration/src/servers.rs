//! Which PostgreSQL programs exist, as `scripts/postgres-servers` prepares them.
//!
//! The servers of most majors come without client programs, so a judge of a cluster is the newest program that
//! understands that cluster's major. What reads `pg_control` or WAL needs the very format: where no such program
//! exists, [`Tools`] says `None` and the harness checks by other means.

use std::path::{Path, PathBuf};

use walkeep_proto::version::MajorVersion;

/// The server programs of one major.
#[derive(Debug, Clone)]
pub struct Server {
    major: MajorVersion,
    bin: PathBuf,
}

impl Server {
    /// The server of `major`. Panics when it is not there: a missing server must never look like a passed test.
    pub fn of(major: MajorVersion) -> Self {
        let bin = root().join(major.to_string()).join("bin");
        for program in ["postgres", "initdb"] {
            require(&bin.join(program), &format!("PostgreSQL {major}"));
        }
        Self { major, bin }
    }

    /// The major.
    pub const fn major(&self) -> MajorVersion {
        self.major
    }

    /// `postgres`, `initdb` or `pg_ctl`; the others are [`Tools`].
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The programs that can judge a cluster of this major.
    pub const fn tools(&self) -> Tools {
        Tools { major: self.major }
    }
}

/// Client programs for clusters of one major.
#[derive(Debug, Clone, Copy)]
pub struct Tools {
    major: MajorVersion,
}

impl Tools {
    /// The programs that can judge a cluster of `major`.
    pub const fn of(major: MajorVersion) -> Self {
        Self { major }
    }

    /// A program that talks SQL or the replication protocol (`psql`, `pgbench`, `pg_dump`, `pg_basebackup`,
    /// `pg_amcheck` …), the newest: 18's clients talk to every supported server. (For `pg_verifybackup` see
    /// [`crate::compare::verify_backup`].)
    pub fn client(self, name: &str) -> PathBuf {
        Self::in_directory("tools/18", name)
    }

    /// A program that reads `pg_control` (`pg_checksums`, `pg_controldata`, `pg_resetwal`): it must know the very
    /// layout. 13 to 16 share one, so 15's stands in for 13's and 14's, but does not find their tablespaces. None is
    /// packaged for 17.
    pub fn reading_control_file(self, name: &str) -> Option<PathBuf> {
        let directory = match self.major {
            MajorVersion::V13 | MajorVersion::V14 | MajorVersion::V15 => "15",
            MajorVersion::V16 => "tools/16",
            MajorVersion::V17 => return None,
            MajorVersion::V18 => "tools/18",
        };
        Some(Self::in_directory(directory, name))
    }

    /// `pg_waldump`, whose own major must be the WAL's; none is packaged for 13, 14 and 17.
    pub fn waldump(self) -> Option<PathBuf> {
        let directory = match self.major {
            MajorVersion::V13 | MajorVersion::V14 | MajorVersion::V17 => return None,
            MajorVersion::V15 => "15",
            MajorVersion::V16 => "tools/16",
            MajorVersion::V18 => "tools/18",
        };
        Some(Self::in_directory(directory, "pg_waldump"))
    }

    /// `pg_verifybackup`, which knows manifests of version 1: those of 13 to 16.
    pub(crate) fn verifybackup() -> PathBuf {
        Self::in_directory("tools/16", "pg_verifybackup")
    }

    fn in_directory(directory: &str, name: &str) -> PathBuf {
        let path = root().join(directory).join("bin").join(name);
        require(&path, name);
        path
    }
}

/// Where the servers are: the rule of `scripts/postgres-servers`.
fn root() -> PathBuf {
    if let Some(dir) = std::env::var_os("WALKEEP_PG_DIR") {
        PathBuf::from(dir)
    } else if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache/walkeep/postgres")
    } else {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/walkeep/postgres")
    }
}

fn require(program: &Path, what: &str) {
    assert!(
        program.is_file(),
        "\n\n*** {what} IS MISSING: no {} ***\n*** run scripts/packages and scripts/postgres-servers (WALKEEP_PG_DIR says where to look) ***\n",
        program.display()
    );
}
