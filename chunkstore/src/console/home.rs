//! A home directory for a program that was started without one.
//!
//! What users keep in theirs, `~/.aws` and `~/.pgpass`, is found by `HOME`. systemd sets that for units with `User=` only:
//! a server that Debian's unit starts has none, and neither have its `archive_command` and `restore_command`. AWS's own
//! tools and libpq ask the user database then, and so does this.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Returns at once where `HOME` is set. Else begins the program anew, as the same process, with the home directory that
/// `/etc/passwd` has for its user; where there is none, or that fails, it returns and there is no home directory.
///
/// To be called first: nothing may have been started or opened before.
pub fn ensure_home() {
    if std::env::var_os("HOME").is_some_and(|home| !home.is_empty()) {
        return;
    }
    let Ok(users) = std::fs::read("/etc/passwd") else { return };
    let Some(home) = home_of(rustix::process::geteuid().as_raw(), &users) else { return };
    // The environment of a running process cannot be changed safely.
    let mut arguments = std::env::args_os();
    let mut anew = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        anew.arg0(name);
    }
    // Comes back only if it failed; the program then says itself what it does not find.
    let _failed = anew.args(arguments).env("HOME", home).exec();
}

/// The sixth field of the line whose third is the user's id.
fn home_of(user: u32, passwd: &[u8]) -> Option<OsString> {
    let id = user.to_string();
    let lines = passwd.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b':').collect::<Vec<_>>());
    let fields = lines.into_iter().find(|fields| fields.get(2).is_some_and(|field| *field == id.as_bytes()))?;
    let home = fields.get(5).filter(|home| !home.is_empty())?;
    Some(std::os::unix::ffi::OsStringExt::from_vec(home.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_home_directory_is_the_users() {
        let passwd =
            b"root:x:0:0:root:/root:/bin/bash\npostgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n\
                       bare:x:7\nempty:x:8:8:::\n\n";
        assert_eq!(home_of(101, passwd), Some("/var/lib/postgresql".into()));
        assert_eq!(home_of(0, passwd), Some("/root".into()));
        for user in [1, 7, 8, 104] {
            assert_eq!(home_of(user, passwd), None, "{user}");
        }
    }
}
