//! Where the servers' programs are, as `scripts/s3-servers` prepares them.

use std::path::PathBuf;

/// `rclone`; panics when it is not there.
pub(crate) fn rclone() -> PathBuf {
    require("rclone/rclone", "rclone", "run scripts/s3-servers")
}

/// `garage`; panics when it is not there.
pub(super) fn garage() -> PathBuf {
    require("garage/bin/garage", "Garage", "run scripts/s3-servers --full")
}

fn require(program: &str, what: &str, hint: &str) -> PathBuf {
    let path = root().join(program);
    assert!(
        path.is_file(),
        "\n\n*** {what} IS MISSING: no {} ***\n*** {hint} (WALKEEP_S3_DIR says where to look) ***\n",
        path.display()
    );
    path
}

/// The rule of `scripts/s3-servers`.
fn root() -> PathBuf {
    if let Some(dir) = std::env::var_os("WALKEEP_S3_DIR") {
        PathBuf::from(dir)
    } else if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/cache/walkeep/s3")
    } else {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/walkeep/s3")
    }
}
