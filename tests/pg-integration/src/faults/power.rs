//! A disk whose power fails.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::output::Output;
use crate::user::{Scratch, TestUser};

/// A file system on a disk that is a file: what is not in that file when the power fails never happened.
///
/// ext4 keeps what processes write in memory until somebody syncs it, and [`PoweredDisk::lose_power`] goes on with the file
/// as it is then: the journal is replayed as after any power failure, and the rest is gone. The mount options keep ext4 from
/// being kinder than POSIX: no commit of its own accord for minutes, no data flushed before the metadata that names it, no
/// flush at a rename.
///
/// Not emulated: a disk that loses what it confirmed, writes that are torn or arrive in another order, a kernel that wrote
/// back old pages by itself (it does so after 30 s, so do not wait that long), other file systems. And ext4 commits all of
/// its metadata when it commits any, so a missing sync of a directory may be made up for by the next sync of a file.
///
/// Mounting takes root with CAP_SYS_ADMIN and loop devices; without them this panics and says so.
#[derive(Debug)]
pub struct PoweredDisk {
    mounted: PathBuf,
    /// How often the power has failed: each time the disk's file is another one.
    failures: Cell<u32>,
    scratch: Scratch,
}

const OPTIONS: &str = "loop,noatime,commit=600,data=writeback,noauto_da_alloc";

impl PoweredDisk {
    /// Makes a file system of so many megabytes that belongs to the test user, and mounts it.
    #[track_caller]
    pub fn mount(megabytes: u32) -> Self {
        let scratch = Scratch::new("power");
        let mounted = scratch.subdirectory("mnt");
        let disk = Self { mounted, failures: Cell::new(0), scratch };
        let user = TestUser::get();
        let owner = format!("root_owner={}:{},lazy_itable_init=0,lazy_journal_init=0", user.uid, user.gid);
        let mut make = Command::new("mkfs.ext4");
        make.args(["-q", "-F", "-m", "0", "-E", &owner]).arg(disk.image()).arg(format!("{megabytes}M"));
        Output::of(&mut make).ok();
        disk.attach();
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// The power fails now: what was not synced is gone. No process may use the disk any more.
    #[track_caller]
    pub fn lose_power(&self) {
        let before = self.image();
        self.failures.set(self.failures.get() + 1);
        Output::of(Command::new("cp").arg("--sparse=always").args([&before, &self.image()])).ok();
        // What unmounting writes goes to a disk that nobody will look at again.
        Output::of(Command::new("umount").arg(&self.mounted)).ok();
        std::fs::remove_file(before).expect("the disk's file is ours");
        self.attach();
    }

    fn image(&self) -> PathBuf {
        self.scratch.path().join(format!("disk-{}", self.failures.get()))
    }

    #[track_caller]
    fn attach(&self) {
        let output = Output::of(Command::new("mount").args(["-o", OPTIONS]).arg(self.image()).arg(&self.mounted));
        assert!(
            output.succeeded(),
            "tests of power failures have to mount a loop device: run them as root, in a container with --privileged\n{output}"
        );
    }
}

impl Drop for PoweredDisk {
    fn drop(&mut self) {
        let unmount = |lazily: &[&str]| Output::of(Command::new("umount").args(lazily).arg(&self.mounted));
        // A process of the test may still be ending in there: then detach now, and let the kernel finish.
        if !unmount(&[]).succeeded() && !unmount(&["-l"]).succeeded() {
            eprintln!("unable to unmount {}", self.mounted.display());
        }
    }
}
