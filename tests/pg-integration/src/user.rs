//! Who runs servers and binaries, and where their files live.
//!
//! PostgreSQL refuses to run as root, and root would not notice a missing permission. So when the tests run as root,
//! everything they start runs as an ordinary user; otherwise as whoever runs the tests.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The unprivileged user of every process that a test starts.
#[derive(Debug, Clone)]
pub struct TestUser {
    /// The login name.
    pub name: String,
    /// The numeric user id.
    pub uid: u32,
    /// The numeric id of the user's primary group.
    pub gid: u32,
    switch: bool,
}

impl TestUser {
    /// The one user of this run.
    pub fn get() -> &'static Self {
        static USER: OnceLock<TestUser> = OnceLock::new();
        USER.get_or_init(Self::choose)
    }

    fn choose() -> Self {
        if !rustix::process::geteuid().is_root() {
            let name = std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned());
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            return Self { name, uid, gid, switch: false };
        }
        let wanted = std::env::var("WALKEEP_TEST_USER").ok();
        let names = wanted.as_deref().map_or_else(|| vec!["postgres", "nobody"], |name| vec![name]);
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        names
            .iter()
            .find_map(|name| Self::in_passwd(&passwd, name))
            .unwrap_or_else(|| panic!("running as root, and /etc/passwd has none of {names:?}: set WALKEEP_TEST_USER"))
    }

    fn in_passwd(passwd: &str, name: &str) -> Option<Self> {
        let fields: Vec<&str> = passwd.lines().map(|l| l.split(':').collect()).find(|f: &Vec<_>| f[0] == name)?;
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        Some(Self { name: name.to_owned(), uid, gid, switch: true })
    }

    /// Whether the tests run as root and this is another user.
    pub const fn is_switched(&self) -> bool {
        self.switch
    }

    /// A command that runs as this user, in `/`, with nothing on stdin.
    ///
    /// Variables that steer the harness, libpq, the AWS SDK or Walkeep do not leak into it: a test sets what it means.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["PG", "WALKEEP_", "AWS_", "LC_", "LANG", "RUST_LOG"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        if self.switch {
            command.uid(self.uid).gid(self.gid).env("USER", &self.name).env("LOGNAME", &self.name).env("HOME", "/");
        }
        command
    }

    /// Makes `path` belong to this user.
    pub fn own(&self, path: &Path) {
        if self.switch {
            chown(path, Some(self.uid), Some(self.gid))
                .unwrap_or_else(|e| panic!("unable to give {} to {}: {e}", path.display(), self.name));
        }
    }
}

/// A directory of the test user's, removed on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// Creates one; `label` is part of its name. Names are kept short: unix socket paths end at 107 bytes.
    pub fn new(label: &str) -> Self {
        let root = std::env::var_os("WALKEEP_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let mut dir = tempfile::Builder::new()
            .prefix(&format!("wk-{label}-"))
            .tempdir_in(&root)
            .unwrap_or_else(|e| panic!("unable to create a scratch directory in {}: {e}", root.display()));
        if std::env::var_os("WALKEEP_TEST_KEEP").is_some_and(|value| value != "0") {
            dir.disable_cleanup(true);
            eprintln!("keeping {}", dir.path().display());
        }
        TestUser::get().own(dir.path());
        Self { dir }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A new directory in it, private to the test user.
    pub fn subdirectory(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        create_directory(&path);
        path
    }
}

/// Creates a directory that only the test user may enter.
pub fn create_directory(path: &Path) {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .mode(0o700)
        .create(path)
        .unwrap_or_else(|e| panic!("unable to create {}: {e}", path.display()));
    TestUser::get().own(path);
}

/// Writes a file that belongs to the test user.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap_or_else(|e| panic!("unable to write {}: {e}", path.display()));
    TestUser::get().own(path);
}
