//! Where the binaries under test are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use crate::user::TestUser;

const NAMES: [&str; 2] = ["walkeep", "walkeep-restore"];
const PUBLISHED: &str = "walkeep-test-bin-";

/// A directory with `walkeep` and `walkeep-restore` that the test user can run them from.
///
/// They are looked for in `WALKEEP_BIN_DIR`, else in the directory above the test executable's (`target/release`).
/// Root's build directory is usually closed to other users; then this is a copy, made once per build.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let built = built();
        if reachable(&built) { built } else { copy(&built) }
    })
}

/// The path of one binary; panics when it was not built.
pub fn path(name: &str) -> PathBuf {
    directory().join(name)
}

/// The path of another program of the workspace, where it was built: only root may get there. Panics when it was not built.
pub fn for_root(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.is_file(), "no {}: build the whole workspace", path.display());
    path
}

fn built() -> PathBuf {
    let beside = || -> Option<PathBuf> { Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned()) };
    let directory = std::env::var_os("WALKEEP_BIN_DIR").map(PathBuf::from).or_else(beside).unwrap_or_default();
    for name in NAMES {
        assert!(
            directory.join(name).is_file(),
            "\n\n*** NO {name} IN {} ***\n*** build it in the profile of the tests (cargo build -p walkeep -p walkeep-restore), or set WALKEEP_BIN_DIR ***\n",
            directory.display()
        );
    }
    fs::canonicalize(&directory).unwrap_or(directory)
}

/// Whether the test user can get to the binaries: others may enter every directory on the way.
fn reachable(directory: &Path) -> bool {
    let open = |path: &Path| fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o001 != 0);
    !TestUser::get().is_switched()
        || (directory.ancestors().all(open) && NAMES.iter().all(|n| open(&directory.join(n))))
}

/// Copies the binaries to a directory named after this very build. Tests run in processes of their own, so several may
/// do this at once: each fills a directory under a passing name, and the first to give it the final name wins.
fn copy(built: &Path) -> PathBuf {
    let stamp: Vec<String> = NAMES
        .iter()
        .filter_map(|name| fs::metadata(built.join(name)).ok())
        .map(|m| format!("{:x}-{:x}-{:x}", m.ino(), m.mtime(), m.mtime_nsec()))
        .collect();
    let root = std::env::temp_dir();
    let published = root.join(format!("{PUBLISHED}{}", stamp.join("-")));
    if !published.is_dir() {
        remove_old_copies(&root);
        let passing =
            tempfile::Builder::new().prefix(".walkeep-test-bin").tempdir_in(&root).expect("a directory for binaries");
        for name in NAMES {
            fs::copy(built.join(name), passing.path().join(name))
                .unwrap_or_else(|e| panic!("unable to copy {name}: {e}"));
        }
        allow_everybody(passing.path());
        let passing = passing.keep();
        if publish(&passing, &published).is_err() {
            assert!(published.is_dir(), "unable to publish {}", published.display());
            let _ = fs::remove_dir_all(&passing);
        }
    }
    published
}

#[allow(clippy::disallowed_methods, reason = "a directory of the tests', no object of a repository")]
fn publish(passing: &Path, published: &Path) -> std::io::Result<()> {
    fs::rename(passing, published)
}

fn allow_everybody(directory: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for path in NAMES.iter().map(|name| directory.join(name)).chain([directory.to_owned()]) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own files can be opened to others");
    }
}

/// Removes copies of builds of yesterday and before.
fn remove_old_copies(root: &Path) {
    let old = |time: SystemTime| time.elapsed().is_ok_and(|age| age > Duration::from_secs(86_400));
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PUBLISHED);
        if ours && entry.metadata().and_then(|m| m.modified()).is_ok_and(old) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
