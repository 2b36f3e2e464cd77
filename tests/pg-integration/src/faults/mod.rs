//! What goes wrong: damaged files, missing objects, closed directories, full disks, sudden death.
//!
//! Every fault is real. Processes under test run as an ordinary user, so permissions bind them; a full disk is a full
//! file system.

mod disk;
mod pooler;
mod power;
mod relay;
mod repository;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

pub use disk::{SmallDisk, with_failing_call, with_file_size_limit};
pub use pooler::Pooler;
pub use power::PoweredDisk;
use rand::RngExt;
use rand::rngs::StdRng;
pub use relay::{Meddling, Relay};
pub use repository::{ObjectKind, objects};
use rustix::process::Signal;

use crate::cluster::{Cluster, kill_tree, send};

/// SIGHUP: a program reads its configuration again.
pub fn hang_up(child: &Child) {
    send(child.id(), Signal::HUP);
}

/// Flips one bit at `offset`.
#[track_caller]
pub fn flip_bit(path: &Path, offset: u64) {
    let mut byte = [0];
    let file = open(path);
    file.read_exact_at(&mut byte, offset).unwrap_or_else(|e| panic!("{} at {offset}: {e}", path.display()));
    overwrite(path, offset, &[byte[0] ^ 0x10]);
}

/// Flips one bit somewhere; returns where.
#[track_caller]
pub fn flip_any_bit(path: &Path, rng: &mut StdRng) -> u64 {
    let length = open(path).metadata().map(|m| m.len()).unwrap_or_default();
    assert!(length > 0, "{} is empty", path.display());
    let offset = rng.random_range(0..length);
    flip_bit(path, offset);
    eprintln!("fault: flipped a bit of {} at {offset} of {length}", path.display());
    offset
}

/// Replaces bytes.
#[track_caller]
pub fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    open(path).write_all_at(bytes, offset).unwrap_or_else(|e| panic!("{} at {offset}: {e}", path.display()));
}

/// Cuts a file to `length`.
#[track_caller]
pub fn truncate(path: &Path, length: u64) {
    open(path).set_len(length).unwrap_or_else(|e| panic!("unable to truncate {}: {e}", path.display()));
}

fn open(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap_or_else(|e| panic!("unable to open {}: {e}", path.display()))
}

/// Damages the line pointers' end of one page of a relation in a stopped cluster; its checksum no longer fits.
/// Take `file` from [`Cluster::relation_file`] before the stop.
#[track_caller]
pub fn corrupt_page(cluster: &mut Cluster, file: &Path, block: u64) {
    assert!(!cluster.is_running(), "stop the cluster first: a running server may write the page again");
    flip_bit(file, block * 8192 + 8000);
}

/// Makes every directory below and including `path` read-only until dropped: nothing can be created or removed there.
#[derive(Debug)]
pub struct ReadOnly {
    before: Vec<(PathBuf, fs::Permissions)>,
}

impl ReadOnly {
    /// Closes it.
    #[track_caller]
    pub fn close(path: &Path) -> Self {
        let mut before = Vec::new();
        for directory in directories(path) {
            let permissions = fs::metadata(&directory).expect("listed just now").permissions();
            let mode = permissions.mode();
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode & !0o222))
                .expect("own directories can be closed");
            before.push((directory, permissions));
        }
        Self { before }
    }

    /// Opens it again.
    pub fn reopen(self) {
        drop(self);
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        for (directory, permissions) in self.before.drain(..) {
            let _ = fs::set_permissions(directory, permissions);
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("unable to list {}: {e}", path.display()));
    let below = entries.flatten().map(|entry| entry.path()).filter(|p| p.is_dir() && !p.is_symlink());
    std::iter::once(path.to_owned()).chain(below.flat_map(|p| directories(&p))).collect()
}

/// Kills a child and all below it with SIGKILL at a moment between now and `latest`, or returns earlier when it ends
/// before. Returns whether it was killed. The moment comes from `rng`, so the printed seed replays it.
pub fn kill_at_random(child: &mut Child, latest: Duration, rng: &mut StdRng) -> bool {
    let wait = Duration::from_micros(rng.random_range(0..=u64::try_from(latest.as_micros()).unwrap_or(u64::MAX)));
    let moment = Instant::now() + wait;
    // The passing of time is the subject here, so this sleeps; in small steps, to notice the child's own end.
    while let Some(left) = moment.checked_duration_since(Instant::now()) {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return false;
        }
        std::thread::sleep(left.min(Duration::from_millis(2)));
    }
    let running = matches!(child.try_wait(), Ok(None));
    kill_tree(child);
    eprintln!("fault: {} after {} us", if running { "killed" } else { "already ended" }, wait.as_micros());
    running
}

/// Stops a process in its tracks (SIGSTOP) until dropped: it is there, and does nothing.
#[derive(Debug)]
pub struct Frozen {
    pid: u32,
}

impl Frozen {
    /// Freezes it.
    pub fn freeze(pid: u32) -> Self {
        send(pid, Signal::STOP);
        Self { pid }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        send(self.pid, Signal::CONT);
    }
}
