//! What surrounds the process: variables, the account, and the directories PostgreSQL's packages use.
//!
//! It is a value and not read where it is needed, so that the same text resolves to the same answer in every test.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::ConninfoError;

/// Where packages of PostgreSQL look for `pg_service.conf` when PGSYSCONFDIR does not say: Debian, Red Hat, the source.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// Where servers put their socket when nothing is configured: the packages of distributions, and the source.
///
/// libpq has one of them built in; this program serves servers of any package.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Everything besides the connection string that decides how to connect.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
    home: Option<PathBuf>,
    user: Option<String>,
    system_directories: Vec<PathBuf>,
    socket_directories: Vec<PathBuf>,
}

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        let account = Account::of_process();
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self {
            variables: variables.filter(|(name, _)| name.starts_with("PG")).collect(),
            home: home.or_else(|| account.as_ref().map(|account| account.home.clone())),
            user: account.map(|account| account.name),
            system_directories: SYSTEM_DIRECTORIES.map(PathBuf::from).to_vec(),
            socket_directories: SOCKET_DIRECTORIES.map(PathBuf::from).to_vec(),
        }
    }

    /// The same with another value of a variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// The same with another home directory, where the password and service files are.
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The same run by another account.
    #[must_use]
    pub fn with_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The same with other directories that are searched for `pg_service.conf`.
    #[must_use]
    pub fn with_system_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.system_directories = directories;
        self
    }

    /// The same with other directories that are searched for the socket of a local server.
    #[must_use]
    pub fn with_socket_directories(mut self, directories: Vec<PathBuf>) -> Self {
        self.socket_directories = directories;
        self
    }

    pub(super) fn variable(&self, name: &'static str) -> Result<Option<&str>, ConninfoError> {
        let Some(value) = self.variables.get(name) else { return Ok(None) };
        value.to_str().map(Some).ok_or(ConninfoError::VariableNotText(name))
    }

    pub(super) fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    pub(super) fn system_directories(&self) -> &[PathBuf] {
        &self.system_directories
    }

    pub(super) fn socket_directories(&self) -> &[PathBuf] {
        &self.socket_directories
    }
}

/// Names without values: PGPASSWORD may be among them.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&String> = self.variables.keys().collect();
        f.debug_struct("Environment")
            .field("variables", &variables)
            .field("home", &self.home)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// The account this process runs as: the role that peer authentication lets in.
struct Account {
    name: String,
    home: PathBuf,
}

impl Account {
    fn of_process() -> Option<Self> {
        // Accounts of a directory service are not in the file; their users say `user=`, or set PGUSER.
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        Self::find(&accounts, rustix::process::geteuid().as_raw())
    }

    /// `name:password:uid:gid:comment:home:shell`, the form of `/etc/passwd`.
    fn find(accounts: &str, uid: u32) -> Option<Self> {
        let uid = uid.to_string();
        let mut lines = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let account = lines.find(|fields| fields.get(2) == Some(&uid.as_str()))?;
        Some(Self { name: (*account.first()?).to_owned(), home: PathBuf::from(*account.get(5)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_an_account_by_its_number() {
        let accounts = "root:x:0:0:root:/root:/bin/sh\n\nbroken\npostgres:x:104:111::/var/lib/postgresql:/bin/bash\n";
        let account = Account::find(accounts, 104).unwrap();
        assert_eq!((account.name.as_str(), account.home.to_str()), ("postgres", Some("/var/lib/postgresql")));
        assert!(Account::find(accounts, 111).is_none());
    }

    #[test]
    fn debug_shows_no_value() {
        let environment = Environment::default().with_variable("PGPASSWORD", "sesame");
        let text = format!("{environment:?}");
        assert!(text.contains("PGPASSWORD") && !text.contains("sesame"), "{text}");
    }
}
