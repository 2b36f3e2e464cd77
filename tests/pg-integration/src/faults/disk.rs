//! Disks that fill up.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::output::Output;
use crate::user::{Scratch, TestUser};

/// A file system of a few megabytes, mounted until dropped. Writing past its end gives ENOSPC, as a full disk does.
///
/// Mounting takes root with CAP_SYS_ADMIN; without it this panics and says so, since a test that did not run must not
/// look like one that passed. [`with_file_size_limit`] needs no privilege, but gives EFBIG and only per file.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    _scratch: Scratch,
}

impl SmallDisk {
    /// Mounts a tmpfs that holds `bytes` and belongs to the test user.
    #[track_caller]
    pub fn mount(bytes: u64) -> Self {
        let scratch = Scratch::new("disk");
        let path = scratch.subdirectory("mnt");
        let user = TestUser::get();
        let options = format!("size={bytes},mode=0700,uid={},gid={}", user.uid, user.gid);
        let output = Output::of(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "walkeep-test"]).arg(&path));
        assert!(
            output.succeeded(),
            "full-disk tests have to mount a tmpfs: run them as root, in a container with --cap-add SYS_ADMIN\n{output}"
        );
        Self { path, _scratch: scratch }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that can still be written.
    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.path).expect("the mount point can be asked");
        stat.f_bavail * stat.f_frsize
    }

    /// Takes away all free bytes but `keep`; [`SmallDisk::relieve`] gives them back.
    #[track_caller]
    pub fn fill_up_to(&self, keep: u64) {
        let file = File::options().create(true).append(true).open(self.ballast()).expect("ballast can be created");
        let size = file.metadata().map(|m| m.len()).unwrap_or_default() + self.free().saturating_sub(keep);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, size.max(1)).expect("ballast fits");
    }

    /// Undoes [`SmallDisk::fill_up_to`].
    pub fn relieve(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }

    fn ballast(&self) -> PathBuf {
        self.path.join(".ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmount = |lazily: &[&str]| Output::of(Command::new("umount").args(lazily).arg(&self.path));
        // A process of the test may still be ending in there: then detach now, and let the kernel finish.
        if !unmount(&[]).succeeded() && !unmount(&["-l"]).succeeded() {
            eprintln!("unable to unmount {}", self.path.display());
        }
    }
}

/// The same command under RLIMIT_FSIZE: no file it writes can grow past `bytes` (SIGXFSZ, or EFBIG where that is ignored).
pub fn with_file_size_limit(command: &Command, bytes: u64) -> Command {
    let mut limited = TestUser::get().command("prlimit");
    limited.arg(format!("--fsize={bytes}")).arg("--");
    handed_over(limited, command)
}

/// The same command, of whose calls of `call` the one of this number fails with `error`, in each of its threads.
pub fn with_failing_call(command: &Command, call: &str, number: u32, error: &str) -> Command {
    let mut traced = TestUser::get().command("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    traced.args(["-e", &format!("inject={call}:error={error}:when={number}"), "--"]);
    handed_over(traced, command)
}

/// A program that runs another.
fn handed_over(mut program: Command, command: &Command) -> Command {
    program.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => program.env(name, value),
            None => program.env_remove(name),
        };
    }
    program
}
