//! `archive-push`: what is acknowledged is there, byte for byte; what is wrong is refused, and costs nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use walkeep_pg_integration::faults::{ObjectKind, ReadOnly, SmallDisk, flip_bit, objects, overwrite, truncate};
use walkeep_pg_integration::user::{TestUser, create_directory, write_file};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{
    Cluster, MajorVersion, Output, StopMode, Walkeep, create_marker, poll, scenario, wait_until,
};

/// A cluster whose archiver has no command, so that every segment stays in `pg_wal`; and a desk for made-up files.
struct Bench {
    cluster: Cluster,
    walkeep: Walkeep,
    desk: PathBuf,
}

impl Bench {
    fn new(major: MajorVersion, segment_mb: u32) -> Self {
        let cluster = Cluster::options(major).wal_segment_mb(segment_mb).create();
        let walkeep = Walkeep::new(&cluster);
        walkeep.init(&[]).ok();
        let desk = cluster.scratch().subdirectory("desk");
        Self { cluster, walkeep, desk }
    }

    /// The file of a segment that was just closed.
    fn closed_segment(&self) -> PathBuf {
        self.cluster.sql("create table if not exists t (i int, s text)");
        self.cluster.sql("insert into t select i, md5(i::text) from generate_series(1, 200) i");
        self.wal(&self.cluster.switch_wal())
    }

    fn wal(&self, name: &str) -> PathBuf {
        self.cluster.data().join("pg_wal").join(name)
    }

    /// A copy of `file` on the desk, under a name.
    fn copy(&self, file: &Path, name: &str) -> PathBuf {
        let copy = self.desk.join(name);
        write_file(&copy, fs::read(file).expect("the original can be read"));
        copy
    }

    /// Pushes a file that must be refused with these words; the repository stays as it is.
    #[track_caller]
    fn refuses(&self, file: &Path, says: &[&str]) {
        let before = contents(self.walkeep.repository_dir());
        let output = self.walkeep.push(file).expect_code(1);
        for words in says {
            output.assert_says(words);
        }
        assert!(output.stderr.starts_with("error: "), "{output}");
        assert_eq!(before, contents(self.walkeep.repository_dir()), "a refused file changed the repository\n{output}");
    }
}

/// Every file below `root` with its size.
fn contents(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a repository can be listed").flatten() {
            let metadata = entry.metadata().expect("nothing writes here now");
            if metadata.is_dir() {
                directories.push(entry.path());
            } else {
                found.insert(entry.path(), metadata.len());
            }
        }
    }
    found
}

fn name_of(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).expect("WAL files have plain names")
}

/// The segment after this one, of the same 256 (1 MB segments: 4096).
fn next_name(name: &str) -> String {
    let low = u32::from_str_radix(&name[16..], 16).expect("the name is hexadecimal");
    format!("{}{:08X}", &name[..16], low + 1)
}

/// What a real archiver hands over around a promotion: segments, the label of a backup, a history, a partial segment.
fn archives_all_that_a_server_makes(major: MajorVersion) {
    let mut cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    let session = cluster.session("postgres");
    let (start, stop) = if major >= MajorVersion::V15 {
        ("pg_backup_start('by hand', true)", "pg_backup_stop(false)")
    } else {
        ("pg_start_backup('by hand', true, false)", "pg_stop_backup(false, false)")
    };
    session.sql(&format!("select {start}"));
    session.sql(&format!("select {stop}"));
    drop(session);
    for number in 0..3 {
        create_marker(&cluster, &format!("marker {number}"));
        cluster.archive_everything();
    }

    cluster.stop(StopMode::Fast);
    write_file(&cluster.data().join("standby.signal"), "");
    cluster.command_line("restore_command", "false");
    cluster.start();
    cluster.promote();
    cluster.archive_everything();
    let waiting = |kind: &str| {
        let status = fs::read_dir(cluster.data().join("pg_wal/archive_status")).expect("the server has made it");
        status.flatten().any(|entry| entry.file_name().to_string_lossy().ends_with(kind))
    };
    wait_until("everything to be archived", SOON, || !waiting(".ready"));

    let root = walkeep.repository_dir();
    assert_eq!(objects(root, ObjectKind::History).len(), 1);
    assert!(!objects(root, ObjectKind::Wal).is_empty());
    let rests = objects(root, ObjectKind::WalRests);
    let count = |kind: &str| rests.iter().filter(|path| name_of(path).contains(kind)).count();
    assert_eq!((count(".backup-"), count(".partial-")), (1, 1), "{rests:?}");
    assert!(objects(root, ObjectKind::Unknown).is_empty());
    // Everything is still in pg_wal or gone; what is there pushes again without a word and without a new object.
    let before = contents(root);
    for entry in fs::read_dir(cluster.data().join("pg_wal")).expect("the server has made it").flatten() {
        let status = format!("pg_wal/archive_status/{}.done", entry.file_name().to_string_lossy());
        if cluster.data().join(status).exists() {
            let output = walkeep.push(&entry.path()).ok();
            assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
        }
    }
    assert_eq!(before, contents(root));
    walkeep.verify();
}
scenario!(per_major, archives_all_that_a_server_makes);

fn stores_any_segment_size(major: MajorVersion) {
    for megabytes in [1, 64] {
        let bench = Bench::new(major, megabytes);
        let segments = [bench.closed_segment(), bench.closed_segment()];
        for segment in &segments {
            let mut command = bench.walkeep.command(&["--json", "archive-push"]);
            let stored = Output::of(command.arg(segment)).ok().json();
            assert_eq!((&stored["new"], &stored["file"]), (&true.into(), &name_of(segment).into()), "{stored}");
            let again = Output::of(&mut command).ok().json();
            assert_eq!((&again["new"], &again["stored_bytes"]), (&false.into(), &0.into()), "{again}");
        }
        let second = objects(bench.walkeep.repository_dir(), ObjectKind::Wal)[1].metadata().expect("it is there").len();
        assert!(second < 256 << 10, "padding costs nothing, but the object has {second} bytes");
        let report = bench.walkeep.verify();
        assert_eq!(report["segments"], 2, "{report}");
    }
}
scenario!([V13, V18], stores_any_segment_size);

fn refuses_what_is_no_segment(major: MajorVersion) {
    let bench = Bench::new(major, 1);
    let good = bench.closed_segment();
    let name = name_of(&good).to_owned();
    let damaged = |damage: &dyn Fn(&Path)| {
        let copy = bench.copy(&good, &name);
        damage(&copy);
        copy
    };

    bench.refuses(&bench.desk.join(&name), &["unable to read", &name, "No such file"]);
    bench.refuses(&damaged(&|copy| truncate(copy, 1 << 19)), &["524288 bytes", "1048576"]);
    bench.refuses(&damaged(&|copy| truncate(copy, 0)), &["0 bytes", "1048576"]);
    bench.refuses(&damaged(&|copy| truncate(copy, (1 << 20) + 1)), &["1048577 bytes", "1048576"]);
    bench.refuses(&damaged(&|copy| overwrite(copy, 0, &[0xAD, 0xDE])), &["magic"]);
    bench.refuses(&damaged(&|copy| overwrite(copy, 0, &[0; 8192])), &[&name]);
    bench.refuses(&damaged(&|copy| flip_bit(copy, 8192 * 2 + 4000)), &["is damaged", &name]);
    bench.refuses(&damaged(&|copy| overwrite(copy, 32, &(16u32 << 20).to_le_bytes())), &["16777216", &name]);
    bench.refuses(&bench.copy(&good, &next_name(&name)), &["its first page says"]);
    bench.refuses(&bench.copy(&good, &format!("00000000{}", &name[8..])), &["no WAL file name"]);
    bench.refuses(&bench.copy(&good, &format!("{}00002000", &name[..16])), &["names no segment"]);

    let other = Bench::new(major, 1);
    let foreign = other.closed_segment();
    let (ours, theirs): (String, String) = {
        let query = "select system_identifier::text from pg_control_system()";
        (bench.cluster.query_one(query), other.cluster.query_one(query))
    };
    bench.refuses(&foreign, &[&ours, &theirs]);

    let odd = format!("{name}.bak");
    for name in ["postgresql.conf", "archive_status", &odd, "00000001000000000000000a", &name[..23]] {
        bench.refuses(&bench.copy(&good, name), &[name]);
    }
    let directory = bench.desk.join("directory").join(&name);
    create_directory(&bench.desk.join("directory"));
    create_directory(&directory);
    bench.refuses(&directory, &[&name]);

    for (name, text) in [
        ("00000002.history", "no history at all\n"),
        ("00000002.history", "2\t0/3000000\tits own parent\n"),
        ("00000001.history", ""),
    ] {
        write_file(&bench.desk.join(name), text);
        bench.refuses(&bench.desk.join(name), &[name]);
    }

    bench.walkeep.push(&good).ok();
    assert_eq!(bench.walkeep.verify()["segments"], 1);
}
scenario!([V13, V18], refuses_what_is_no_segment);

fn refuses_wal_of_another_major(major: MajorVersion) {
    let bench = Bench::new(major, 1);
    let other = Cluster::options(MajorVersion::V18).wal_segment_mb(1).create();
    let segment = other.data().join("pg_wal").join(other.switch_wal());
    let ours: u64 = bench.cluster.query_one("select system_identifier from pg_control_system()");
    let copy = bench.copy(&segment, name_of(&segment));
    overwrite(&copy, 24, &ours.to_le_bytes());
    bench.refuses(&copy, &["PostgreSQL 18", "PostgreSQL 17"]);
}
scenario!([V17], refuses_wal_of_another_major);

/// Wrong usage, too, must look to PostgreSQL like any other failure.
fn fails_with_one_whatever_is_wrong(major: MajorVersion) {
    let bench = Bench::new(major, 1);
    let good = bench.closed_segment();
    bench.walkeep.run(&["archive-push"]).expect_code(1);
    bench.walkeep.run(&["archive-push", "--no-such-flag", "x"]).expect_code(1);
    let with_config = |config: &Path| {
        let mut command = TestUser::get().command(walkeep_pg_integration::binaries::path("walkeep"));
        Output::of(command.arg("--config").arg(config).arg("archive-push").arg(&good))
    };
    with_config(&bench.desk.join("absent.toml")).expect_code(1).assert_says("absent.toml");
    write_file(&bench.desk.join("wrong.toml"), "[repository]\npaht = 'x'\n");
    with_config(&bench.desk.join("wrong.toml")).expect_code(1).assert_says("repository.path");
    write_file(&bench.desk.join("empty.toml"), "");
    with_config(&bench.desk.join("empty.toml")).expect_code(1).assert_says("[repository] path is not set");
    let absent = bench.desk.join("no/such/repository");
    write_file(&bench.desk.join("absent-repository.toml"), format!("[repository]\npath = '{}'\n", absent.display()));
    with_config(&bench.desk.join("absent-repository.toml")).expect_code(1).assert_says("no/such/repository");
    assert!(!absent.exists(), "archive-push created a repository");
    create_directory(&bench.desk.join("hollow"));
    let hollow = format!("[repository]\npath = '{}'\n", bench.desk.join("hollow").display());
    write_file(&bench.desk.join("hollow.toml"), hollow);
    with_config(&bench.desk.join("hollow.toml")).expect_code(1);

    // SIGTERM while it waits for bytes: a FIFO has none.
    let fifo = bench.desk.join(name_of(&good));
    Output::of(TestUser::get().command("mkfifo").arg(&fifo)).ok();
    let mut child = bench.walkeep.command(&["archive-push"]).arg(&fifo).spawn().expect("walkeep can be started");
    // Bit 14 of the caught signals is SIGTERM: from then on the program answers for itself.
    wait_until("SIGTERM to be caught", SOON, || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << 14) != 0)
    });
    Output::of(Command::new("kill").arg("-TERM").arg(child.id().to_string())).ok();
    let status = poll("archive-push to end", SOON, || child.try_wait().expect("it is our child"));
    assert_eq!((status.code(), status.signal()), (Some(1), None));

    bench.walkeep.push(&good).ok();
    bench.walkeep.verify();
}
scenario!([V13, V18], fails_with_one_whatever_is_wrong);

fn keeps_both_of_two_contents(major: MajorVersion) {
    // A copy of a stopped cluster that is started beside it writes the same timeline once more: a split brain.
    let mut bench = Bench::new(major, 1);
    bench.closed_segment();
    bench.cluster.stop(StopMode::Fast);
    let twin_scratch = walkeep_pg_integration::Scratch::new("twin");
    let twin_data = twin_scratch.path().join("data");
    Output::of(TestUser::get().command("cp").arg("-a").arg(bench.cluster.data()).arg(&twin_data)).ok();
    let mut twin = Cluster::adopt(bench.cluster.server().clone(), twin_scratch, twin_data);
    bench.cluster.start();
    twin.start();
    let first = bench.closed_segment();
    twin.sql("insert into t select i, 'the twin' from generate_series(1, 100) i");
    let second = twin.data().join("pg_wal").join(twin.switch_wal());
    assert_eq!(name_of(&first), name_of(&second), "both continue at the same segment");

    bench.walkeep.push(&first).ok();
    for _ in 0..2 {
        let refused = bench.walkeep.push(&second).expect_code(1);
        refused.assert_says("other content");
        refused.assert_says(".conflict-");
        refused.assert_says(name_of(&first));
    }
    let root = bench.walkeep.repository_dir();
    assert_eq!(objects(root, ObjectKind::Wal).len(), 1);
    assert_eq!(objects(root, ObjectKind::WalConflicts).len(), 1);
    bench.walkeep.push(&first).ok();
    let report = bench.walkeep.verify();
    assert!(report["notes"].to_string().contains(".conflict-"), "{report}");
    bench.walkeep.run(&["check"]).expect_code(10).assert_says("second content");

    // The other file kinds are held to the same rule.
    write_file(&bench.desk.join("00000002.history"), "1\t0/3000000\tno recovery target specified\n");
    bench.walkeep.push(&bench.desk.join("00000002.history")).ok();
    write_file(&bench.desk.join("00000002.history"), "1\t0/3000028\tno recovery target specified\n");
    bench.walkeep.push(&bench.desk.join("00000002.history")).expect_code(1).assert_says("other content");
}
scenario!([V13, V18], keeps_both_of_two_contents);

fn many_pushes_of_one_segment_make_one_object(major: MajorVersion) {
    let bench = Bench::new(major, 1);
    let good = bench.closed_segment();
    let spawn = || bench.walkeep.command(&["archive-push"]).arg(&good).spawn().expect("walkeep can be started");
    let children: Vec<_> = (0..8).map(|_| spawn()).collect();
    for mut child in children {
        assert!(child.wait().expect("it is our child").success());
    }
    assert_eq!(objects(bench.walkeep.repository_dir(), ObjectKind::Wal).len(), 1);
    bench.walkeep.verify();
}
scenario!([V18], many_pushes_of_one_segment_make_one_object);

/// PostgreSQL keeps what was refused and tries again: nothing is lost to a repository that cannot be written to.
fn loses_nothing_to_a_closed_repository(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    cluster.archive_everything();
    let closed = ReadOnly::close(walkeep.repository_dir());
    let segment = cluster.switch_wal();
    let failed = "select failed_count > 0 from pg_stat_archiver";
    wait_until("an attempt to fail", SOON, || cluster.query_one::<String>(failed) == "t");
    walkeep.push(&cluster.data().join("pg_wal").join(&segment)).expect_code(1).assert_says("Permission denied");
    closed.reopen();
    cluster.archive_everything();
    cluster.wait_archived(&segment, Duration::from_secs(5));
    walkeep.verify();
}
scenario!([V13, V18], loses_nothing_to_a_closed_repository);

fn loses_nothing_to_a_full_disk(major: MajorVersion) {
    let disk = SmallDisk::mount(32 << 20);
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::new(&cluster).repository_at(disk.path().join("repository"));
    walkeep.init(&[]).ok();
    walkeep.archive_from(&cluster);
    cluster.archive_everything();
    disk.fill_up_to(0);
    cluster.sql("create table random_rows as select gen_random_uuid() from generate_series(1, 10000)");
    let segment = cluster.switch_wal();
    let failed = "select failed_count > 0 from pg_stat_archiver";
    wait_until("an attempt to fail", SOON, || cluster.query_one::<String>(failed) == "t");
    let output = walkeep.push(&cluster.data().join("pg_wal").join(&segment)).expect_code(1);
    output.assert_says("No space left on device");
    output.assert_says("hint: free space");
    assert!(contents(&walkeep.repository_dir().join(".tmp")).is_empty(), "half an object stays behind");
    disk.relieve();
    cluster.archive_everything();
    cluster.wait_archived(&segment, Duration::from_secs(5));
    walkeep.verify();
}
scenario!([V17], loses_nothing_to_a_full_disk);
