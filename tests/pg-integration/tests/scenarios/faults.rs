//! The faults: each does what it says to an ordinary process.

use std::time::{Duration, Instant};

use walkeep_pg_integration::faults::{
    Frozen, ObjectKind, PoweredDisk, ReadOnly, SmallDisk, flip_any_bit, kill_at_random, objects, truncate,
    with_file_size_limit,
};
use walkeep_pg_integration::user::{TestUser, create_directory, write_file};
use walkeep_pg_integration::{Output, Scratch, Seed, wait_until};

fn shell(script: &str) -> std::process::Command {
    let mut command = TestUser::get().command("sh");
    command.args(["-c", script]);
    command
}

#[test]
fn a_small_disk_fills_up() {
    let disk = SmallDisk::mount(8 << 20);
    let write = |megabytes: u32| {
        let file = disk.path().join("file");
        Output::of(&mut shell(&format!("dd if=/dev/zero of={} bs=1M count={megabytes}", file.display())))
    };
    write(4).ok();
    write(9).expect_code(1).assert_says("No space left on device");
    std::fs::remove_file(disk.path().join("file")).unwrap();
    disk.fill_up_to(1 << 20);
    assert!(disk.free() <= 1 << 20);
    write(4).expect_code(1).assert_says("No space left on device");
    disk.relieve();
    write(4).ok();
}

#[test]
fn a_small_disk_leaves_no_mount() {
    let path = SmallDisk::mount(1 << 20).path().to_owned();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    assert!(!mounts.contains(&*path.to_string_lossy()));
    assert!(!path.exists());
}

#[test]
fn a_file_size_limit_binds() {
    let scratch = Scratch::new("limit");
    let command = shell(&format!("trap '' XFSZ; dd if=/dev/zero of={}/f bs=1M count=3", scratch.path().display()));
    Output::of(&mut with_file_size_limit(&command, 4 << 20)).ok();
    Output::of(&mut with_file_size_limit(&command, 2 << 20)).expect_code(1).assert_says("File too large");
}

#[test]
fn a_closed_directory_cannot_be_written_to() {
    let scratch = Scratch::new("closed");
    let inner = scratch.subdirectory("outer").join("inner");
    create_directory(&inner);
    let touch = || Output::of(&mut shell(&format!("touch {}/file", inner.display())));
    let closed = ReadOnly::close(&scratch.path().join("outer"));
    touch().expect_code(1).assert_says("Permission denied");
    closed.reopen();
    touch().ok();
}

#[test]
fn objects_are_found_by_kind_and_damaged() {
    let scratch = Scratch::new("objects");
    let root = scratch.path();
    let (line, wal) = ("clusters/main/wal/00000001", "clusters/main/wal/00000001/00000000");
    for directory in ["packs", "packs/ab", "clusters", "clusters/main", "clusters/main/wal", line, wal] {
        create_directory(&root.join(directory));
    }
    let segment = format!("{wal}/000000010000000000000001-0123456789abcdef");
    let tail = format!("{wal}/000000010000000000000002.tail-0000000002000000-0123456789abcdef");
    let history = format!("{line}/00000001.history-0123456789abcdef");
    for key in ["walkeep.json", "packs/ab/abcd", &segment, &tail, &history] {
        write_file(&root.join(key), [0; 100]);
    }
    for kind in [ObjectKind::Root, ObjectKind::Packs, ObjectKind::Wal, ObjectKind::WalTails, ObjectKind::History] {
        assert_eq!(objects(root, kind).len(), 1, "{kind:?}");
    }
    assert!(objects(root, ObjectKind::Unknown).is_empty());

    let pack = &objects(root, ObjectKind::Packs)[0];
    let offset = flip_any_bit(pack, &mut Seed::take().rng());
    let bytes = std::fs::read(pack).unwrap();
    let changed: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] != 0).collect();
    assert_eq!(changed, [usize::try_from(offset).unwrap()]);
    truncate(pack, 10);
    assert_eq!(std::fs::read(pack).unwrap().len(), 10);
}

#[test]
fn a_kill_at_random_reaches_grandchildren() {
    let seed = Seed::take();
    let scratch = Scratch::new("kill");
    let alive = scratch.path().join("alive");
    let script = format!("sh -c 'while :; do date +%N > {}; sleep 0.01; done' & wait", alive.display());
    let mut child = shell(&script).spawn().unwrap();
    wait_until("the grandchild to write", Duration::from_secs(10), || alive.exists());
    assert!(kill_at_random(&mut child, Duration::from_millis(50), &mut seed.rng()));
    // `kill_at_random` returned, so all are gone: what is removed now stays removed.
    std::fs::remove_file(&alive).unwrap();
    let until = Instant::now() + Duration::from_millis(100);
    while Instant::now() < until {
        assert!(!alive.exists(), "the grandchild lives on");
    }

    let mut short = shell("exit 0").spawn().unwrap();
    wait_until("the child to end", Duration::from_secs(10), || short.try_wait().unwrap().is_some());
    assert!(!kill_at_random(&mut short, Duration::from_millis(5), &mut seed.rng()));
}

#[test]
fn a_frozen_process_goes_on_afterwards() {
    let state = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let mut child = shell("sleep 0.2; exit 3").spawn().unwrap();
    let frozen = Frozen::freeze(child.id());
    wait_until("the process to be stopped", Duration::from_secs(5), || state(child.id()).contains(") T "));
    assert!(child.try_wait().unwrap().is_none());
    drop(frozen);
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

/// What was synced is there afterwards, and nothing else is: not a file, not a name, not bytes within a file.
#[test]
fn a_power_failure_takes_what_was_not_synced() {
    let disk = PoweredDisk::mount(64);
    let here = disk.path().display().to_string();
    let run = |script: &str| Output::of(&mut shell(&format!("cd {here} && {script}"))).ok();
    run("printf old > changed && printf kept > kept && cp kept named && sync changed kept named .");
    run("printf new 1<> changed && printf more >> kept && printf lost > lost && mv named renamed");
    let read = |name: &str| std::fs::read_to_string(disk.path().join(name)).ok();
    let now = || ["changed", "kept", "lost", "named", "renamed"].map(read);
    let texts = |texts: [Option<&str>; 5]| texts.map(|text| text.map(str::to_owned));
    assert_eq!(now(), texts([Some("new"), Some("keptmore"), Some("lost"), None, Some("kept")]));
    disk.lose_power();
    assert_eq!(now(), texts([Some("old"), Some("kept"), None, Some("kept"), None]));
    run("printf new 1<> changed && sync --data changed && mv named renamed && sync .");
    disk.lose_power();
    assert_eq!(now(), texts([Some("new"), Some("kept"), None, None, Some("kept")]));
}
