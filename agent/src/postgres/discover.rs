//! Where a data directory's server listens: `postmaster.pid` says it.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a running postmaster wrote into its data directory (`utils/pidfile.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postmaster {
    /// Its process.
    pub pid: u32,
    /// When it started, seconds since 1970.
    pub started: i64,
    /// Its port.
    pub port: u16,
    /// Directory of its socket; empty if it has none.
    pub socket_directory: String,
    /// First address it listens on; empty if none.
    pub listen_address: String,
}

impl Postmaster {
    /// Reads `postmaster.pid`; `None` where there is none: the server is down.
    pub fn of(pgdata: &Path) -> Result<Option<Self>> {
        let path = pgdata.join("postmaster.pid");
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("unable to read '{}'", path.display()))?,
        };
        let mut lines = text.lines();
        let mut next = || lines.next().unwrap_or_default().trim().to_owned();
        let (pid, _directory, started, port) = (next(), next(), next(), next());
        let (socket_directory, listen_address) = (next(), next());
        match (pid.parse(), started.parse(), port.parse()) {
            (Ok(pid), Ok(started), Ok(port)) => Ok(Some(Self { pid, started, port, socket_directory, listen_address })),
            _ => bail!("'{}' is not complete: the server is starting or has crashed", path.display()),
        }
    }
}

/// A connection string for the server of a data directory.
pub fn conninfo_for(pgdata: &Path) -> Result<String> {
    let Some(postmaster) = Postmaster::of(pgdata)? else {
        bail!("no server runs on '{}': it has no postmaster.pid", pgdata.display());
    };
    let host = match (postmaster.socket_directory.as_str(), postmaster.listen_address.as_str()) {
        ("", "" | "*" | "0.0.0.0" | "::") => "localhost",
        ("", address) => address,
        (directory, _) => directory,
    };
    let user = std::env::var("PGUSER").ok().or_else(system_user).unwrap_or_else(|| "postgres".to_owned());
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    Ok(format!("host='{}' port={} user='{}' dbname=postgres", quote(host), postmaster.port, quote(&user)))
}

/// Name of the user this process runs as: the role that peer authentication lets in.
fn system_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = accounts.lines().map(|line| line.split(':'));
    fields.find_map(|mut account| {
        let name = account.next()?;
        (account.nth(1)? == uid).then(|| name.to_owned())
    })
}
