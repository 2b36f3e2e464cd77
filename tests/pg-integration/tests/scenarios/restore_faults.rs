//! `walkeep-restore` when something is in the way or damaged: it refuses, names it, and never gives wrong data.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::RngExt;
use sha2::Digest as _;
use walkeep_pg_integration::faults::{ObjectKind, SmallDisk, flip_any_bit, flip_bit, objects, overwrite, truncate};
use walkeep_pg_integration::user::{TestUser, create_directory, write_file};
use walkeep_pg_integration::walkeep::Restore;
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Scratch, Seed, Walkeep, Workload, create_marker, is_full_run, scenario,
};

/// A cluster with two backups and three archived segments behind each.
fn kept(major: MajorVersion) -> (Cluster, Walkeep, Vec<String>) {
    let (cluster, walkeep) = kept_once(major);
    let mut segments = three_segments(&cluster, 0);
    walkeep.backup(&[]);
    segments.extend(three_segments(&cluster, 1));
    (cluster, walkeep, segments)
}

/// A cluster with one backup.
fn kept_once(major: MajorVersion) -> (Cluster, Walkeep) {
    let cluster = Cluster::options(major).wal_segment_mb(1).setting("autovacuum", "off").create();
    let walkeep = Walkeep::set_up(&cluster);
    Workload::seeded(Seed::fixed(3)).rows(300).populate(&cluster);
    walkeep.backup(&[]);
    (cluster, walkeep)
}

fn three_segments(cluster: &Cluster, round: u32) -> Vec<String> {
    let one = |number| {
        create_marker(cluster, &format!("round {round} number {number}"));
        cluster.archive_everything()
    };
    (0..3).map(one).collect()
}

/// What a restore must not leave behind: something that PostgreSQL would start.
#[track_caller]
fn fails(restore: &Restore<'_>, code: i32, says: &[&str]) -> Output {
    let output = restore.output().expect_code(code);
    assert!(output.stderr.contains("error: "), "{output}");
    for words in says {
        output.assert_says(words);
    }
    let control = restore.target().join("global/pg_control");
    assert!(!control.exists(), "a failed restore left a cluster that can be started\n{output}");
    output
}

fn only(root: &Path, kind: ObjectKind) -> PathBuf {
    objects(root, kind).into_iter().next().unwrap_or_else(|| panic!("there is no object of {kind:?}"))
}

fn refuses_a_place_that_is_taken(major: MajorVersion) {
    let (cluster, walkeep, _) = kept(major);
    let own = Scratch::new("taken");
    let full = own.subdirectory("full");
    write_file(&full.join("precious"), "do not touch");
    fails(&walkeep.restore().into_directory(&full), 7, &["is not empty", "precious", "hint: "]);
    assert_eq!(fs::read_to_string(full.join("precious")).ok().as_deref(), Some("do not touch"));
    let file = own.path().join("file");
    write_file(&file, "x");
    fails(&walkeep.restore().into_directory(&file), 7, &["is no directory"]);
    let inside = walkeep.repository_dir().join("restored");
    fails(&walkeep.restore().into_directory(&inside), 2, &["inside the repository"]);
    assert!(!inside.exists());

    let digest = Digest::of(&cluster);
    let output = walkeep.restore().into_directory(cluster.data()).output().expect_code(7);
    output.assert_says("is running");
    output.assert_says("postmaster.pid");
    digest.assert_equal(&Digest::of(&cluster));

    let closed = own.subdirectory("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o500)).expect("it is ours");
    let output = walkeep.restore().into_directory(closed.join("new")).output();
    assert!(output.code != Some(0) && output.stderr.contains("Permission denied"), "{output}");

    // An empty directory is as good as none.
    let empty = own.subdirectory("empty");
    walkeep.restore().into_directory(&empty).output().ok();
}
scenario!([V13, V18], refuses_a_place_that_is_taken);

fn refuses_what_is_not_there(major: MajorVersion) {
    let (_cluster, walkeep, _) = kept(major);
    fails(&walkeep.restore().args(&["--backup", "20010101T000000Z-abcd"]), 6, &["20010101T000000Z-abcd"]);
    fails(&walkeep.restore().args(&["--cluster", "other"]), 6, &["other"]);
    fails(&walkeep.restore().args(&["--timeline", "7"]), 6, &["timeline 7"]);
    let scratch = Scratch::new("none");
    let run = |repository: &Path| {
        let mut command = walkeep.restore_command(&["--target-dir"]);
        Output::of(command.arg(scratch.path().join("data")).arg("--repo").arg(repository))
    };
    let absent = run(&scratch.path().join("absent"));
    assert!(matches!(absent.code, Some(4 | 6)) && absent.stderr.contains("absent"), "{absent}");
    let empty = run(&scratch.subdirectory("empty"));
    assert!(matches!(empty.code, Some(4 | 6)), "{empty}");
    walkeep.restore_command(&[]);
    Output::of(&mut walkeep.restore_command(&["--target-dir", "/nowhere"])).expect_code(2).assert_says("--repo");
}
scenario!([V18], refuses_what_is_not_there);

fn damage_is_an_error_and_never_wrong_data(major: MajorVersion) {
    let (_cluster, walkeep) = kept_once(major);
    let root = walkeep.repository_dir().to_owned();
    let oldest = walkeep.backups()[0]["id"].as_str().expect("backups have names").to_owned();
    let from_oldest = || walkeep.restore().args(&["--backup", &oldest]);

    for kind in [ObjectKind::Packs, ObjectKind::Nodes] {
        let pack = only(&root, kind);
        let name = pack.file_name().and_then(|name| name.to_str()).expect("packs have plain names").to_owned();
        let content = fs::read(&pack).expect("it can be read");
        flip_bit(&pack, content.len() as u64 / 2);
        fails(&from_oldest(), 5, &["damaged", &name[..16]]);
        walkeep.run(&["verify"]).expect_code(5).assert_says(&name[..16]);
        flip_bit(&pack, content.len() as u64 / 2);

        truncate(&pack, content.len() as u64 / 2);
        fails(&from_oldest(), 5, &[&name[..16]]);
        walkeep.run(&["verify"]).expect_code(5).assert_says(&name[..16]);
        write_file(&pack, &content);

        fs::remove_file(&pack).expect("it is ours");
        let output = from_oldest().output();
        assert!(matches!(output.code, Some(5 | 6)), "{output}");
        output.assert_says(&name[..16]);
        walkeep.run(&["verify"]).expect_code(5).assert_says(&name[..16]);
        write_file(&pack, &content);
        walkeep.verify();
    }

    // A root that cannot be read hides no other backup.
    walkeep.backup(&[]);
    let manifest = root.join("clusters/main/backups").join(&oldest);
    let content = fs::read(&manifest).expect("it can be read");
    for length in [0, 10, 64, content.len() as u64 / 2, content.len() as u64 - 1] {
        truncate(&manifest, length);
        fails(&from_oldest(), 5, &[&oldest, "damaged"]);
        walkeep.restore().output().ok();
        walkeep.run(&["list"]).ok().assert_says("unreadable");
        walkeep.run(&["verify"]).expect_code(5).assert_says(&oldest);
        Output::of(walkeep.restore_command(&["windows", "--repo"]).arg(&root)).ok();
        write_file(&manifest, &content);
    }
    overwrite(&manifest, 8, &2u16.to_le_bytes());
    fails(&from_oldest(), 3, &["newer"]);
    write_file(&manifest, &content);

    let config = root.join("walkeep.json");
    let text = fs::read_to_string(&config).expect("it is text");
    let newer = text.replacen("\"format\": 1", "\"format\": 2", 1).replacen("\"format\":1", "\"format\":2", 1);
    assert_ne!(text, newer);
    write_file(&config, &newer);
    fails(&walkeep.restore(), 3, &["needs a newer Walkeep", "format 2"]);
    walkeep.run(&["list"]).expect_code(3).assert_says("needs a newer Walkeep");
    write_file(&config, &text);
    from_oldest().output().ok();
    walkeep.verify();
}
scenario!([V13, V18], damage_is_an_error_and_never_wrong_data);

/// Every file below a restored directory with its hash.
fn hashes(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let hash = sha2::Sha256::digest(fs::read(&path).expect("a restored file can be read"));
            let inside = path.strip_prefix(root).expect("it lies below").to_owned();
            found.insert(inside, format!("{hash:x?}"));
        }
    }
    found
}

/// Whatever bit turns, wherever an object ends: readers answer or say what is wrong, and what they restore is right.
fn any_damage_is_survived_by_readers(major: MajorVersion) {
    let rounds = if is_full_run() { 700 } else { 28 };
    let mut rng = Seed::take().rng();
    let (_cluster, walkeep, _) = kept(major);
    let root = walkeep.repository_dir().to_owned();
    let oldest = walkeep.backups()[0]["id"].as_str().expect("backups have names").to_owned();
    let sound = walkeep.restore().args(&["--backup", &oldest]);
    sound.output().ok();
    let expected = hashes(sound.target());
    let kinds = [
        ObjectKind::Packs,
        ObjectKind::Nodes,
        ObjectKind::Index,
        ObjectKind::Backups,
        ObjectKind::Wal,
        ObjectKind::Identity,
        ObjectKind::Root,
    ];
    for round in 0..rounds {
        let kind = kinds[round % kinds.len()];
        let candidates = objects(&root, kind);
        let object = &candidates[rng.random_range(0..candidates.len())];
        let content = fs::read(object).expect("it can be read");
        let flipped = if rng.random_bool(0.7) {
            Some(flip_any_bit(object, &mut rng))
        } else {
            let length = rng.random_range(0..content.len() as u64);
            eprintln!("fault: cut {} to {length}", object.display());
            truncate(object, length);
            None
        };
        let verified = walkeep.run(&["verify"]);
        let restore = walkeep.restore().args(&["--backup", &oldest]);
        let restored = restore.output();
        let others = [
            walkeep.run(&["list", "--json"]),
            walkeep.run(&["windows"]),
            walkeep.run(&["show", &oldest]),
            Output::of(walkeep.restore_command(&["list", "--repo"]).arg(&root)),
            Output::of(walkeep.restore_command(&["windows", "--json", "--repo"]).arg(&root)),
        ];
        for output in others.iter().chain([&verified, &restored]) {
            assert!(output.code.is_some() && !output.stderr.contains("panicked"), "a reader panicked\n{output}");
        }
        // Words of JSON for people are nobody's hash.
        let meaningless = matches!(kind, ObjectKind::Root | ObjectKind::Identity);
        assert!(
            verified.code != Some(0) || meaningless,
            "verify saw nothing wrong with {kind:?} at {flipped:?}\n{verified}"
        );
        if restored.succeeded() {
            let found = hashes(restore.target());
            let differ = |path: &&PathBuf| expected.get(*path) != found.get(*path);
            // Ours: a time is in the manifest, the label's own name in the settings.
            let wrong: Vec<&PathBuf> = expected.keys().chain(found.keys()).filter(differ).collect();
            assert!(wrong.is_empty(), "restored wrong data: {wrong:?}\n{restored}");
        } else {
            assert!(!restore.target().join("global/pg_control").exists(), "{restored}");
        }
        write_file(object, &content);
    }
    walkeep.verify();
}
scenario!([V17], any_damage_is_survived_by_readers);

fn a_full_disk_leaves_nothing_that_starts(major: MajorVersion) {
    let (_cluster, walkeep, _) = kept(major);
    let disk = SmallDisk::mount(16 << 20);
    let output = fails(&walkeep.restore().into_directory(disk.path().join("data")), 1, &["No space left on device"]);
    output.assert_says("cannot be started");
}
scenario!([V13, V18], a_full_disk_leaves_nothing_that_starts);

/// `fetch-wal` as PostgreSQL calls it: in a data directory, with a relative path.
fn fetch(walkeep: &Walkeep, directory: &Path, file: &str) -> Output {
    let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
    command.current_dir(directory).arg(walkeep.repository()).args([file, "delivered"]);
    Output::of(&mut command)
}

#[track_caller]
fn cannot_tell(output: &Output) {
    assert!(output.code >= Some(126), "the server would take this for the end of the WAL\n{output}");
    assert!(output.stderr.starts_with("error: "), "{output}");
}

fn fetch_wal_says_absent_only_when_it_is(major: MajorVersion) {
    let (cluster, walkeep, segments) = kept(major);
    let desk = Scratch::new("fetch");
    let delivered = desk.path().join("delivered");
    let root = walkeep.repository_dir().to_owned();
    let segment = segments.last().expect("there are some");
    fetch(&walkeep, desk.path(), segment).ok();
    let original = fs::read(cluster.data().join("pg_wal").join(segment)).expect("the last one is still there");
    assert_eq!(fs::read(&delivered).expect("it was delivered"), original);
    fs::remove_file(&delivered).expect("it is ours");

    for absent in ["0000000100000000000000FF", "00000002.history", "00000009.history", "000000020000000000000001"] {
        let output = fetch(&walkeep, desk.path(), absent).expect_code(1);
        assert!(!delivered.exists(), "{output}");
    }
    for odd in ["postgresql.conf", "", "../../etc/passwd", "0000000100000000000000F"] {
        cannot_tell(&fetch(&walkeep, desk.path(), odd));
    }
    cannot_tell(&Output::of(&mut walkeep.restore_command(&["fetch-wal"])));

    let object =
        objects(&root, ObjectKind::Wal).into_iter().find(|path| path.to_string_lossy().contains(segment.as_str()));
    let object = object.expect("the segment has an object");
    let content = fs::read(&object).expect("it can be read");
    flip_bit(&object, content.len() as u64 / 3);
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    truncate(&object, 100);
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    write_file(&object, &content);
    fs::set_permissions(&object, fs::Permissions::from_mode(0o000)).expect("it is ours");
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    fs::set_permissions(&object, fs::Permissions::from_mode(0o640)).expect("it is ours");
    let directory = object.parent().expect("it lies in one").to_owned();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o000)).expect("it is ours");
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    cannot_tell(&fetch(&walkeep, desk.path(), "0000000100000000000000FE"));
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).expect("it is ours");

    let away = walkeep.scratch().path().join("away");
    Output::of(TestUser::get().command("mv").arg(&root).arg(&away)).ok();
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    create_directory(&root); // a mount point without its disk
    cannot_tell(&fetch(&walkeep, desk.path(), segment));
    fs::remove_dir(&root).expect("it is empty");
    Output::of(TestUser::get().command("mv").arg(&away).arg(&root)).ok();

    let disk = SmallDisk::mount(256 << 10);
    cannot_tell(&fetch(&walkeep, disk.path(), segment));
    let left: Vec<_> = fs::read_dir(disk.path()).expect("it is mounted").flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "half a segment stays behind: {left:?}");
    // A standby would be killed by such an answer: it is told to ask again.
    write_file(&desk.path().join("standby.signal"), "");
    flip_bit(&object, content.len() as u64 / 3);
    fetch(&walkeep, desk.path(), segment).expect_code(1).assert_says("error: ");
}
scenario!([V18], fetch_wal_says_absent_only_when_it_is);

fn recovery_aborts_when_it_cannot_tell(major: MajorVersion) {
    let (cluster, walkeep, segments) = kept(major);
    let expected = Digest::of(&cluster);
    let root = walkeep.repository_dir().to_owned();
    let oldest = walkeep.backups()[0]["id"].as_str().expect("backups have names").to_owned();
    let mut restored = walkeep.restore().args(&["--backup", &oldest]).files();

    // The repository goes away before recovery begins, …
    let away = walkeep.scratch().path().join("away");
    Output::of(TestUser::get().command("mv").arg(&root).arg(&away)).ok();
    restored.spawn();
    assert!(!restored.wait_exit(Duration::from_secs(60)).success());
    Output::of(TestUser::get().command("mv").arg(&away).arg(&root)).ok();

    // … and in the middle of it: what comes behind the second segment cannot be read.
    let late = objects(&root, ObjectKind::Wal).into_iter().find(|path| path.to_string_lossy().contains(&segments[4]));
    let late = late.expect("the segment has an object");
    fs::set_permissions(&late, fs::Permissions::from_mode(0o000)).expect("it is ours");
    restored.spawn();
    let status = restored.wait_exit(Duration::from_secs(60));
    let log = restored.log_tail();
    assert!(!status.success(), "{log}");
    assert!(log.contains(&format!("restored log file \"{}\" from archive", segments[3])), "{log}");
    assert!(log.contains("Permission denied"), "{log}");
    let promoted = ["archive recovery complete", "selected new timeline"].iter().any(|words| log.contains(words));
    assert!(!promoted, "it promoted a shorter history\n{log}");
    assert!(restored.data().join("recovery.signal").exists());
    fs::set_permissions(&late, fs::Permissions::from_mode(0o640)).expect("it is ours");

    // Once it can be read, the same directory goes on to the end.
    restored.start();
    restored.wait_writable();
    expected.assert_recovered(&Digest::of(&restored));
}
scenario!(per_major, recovery_aborts_when_it_cannot_tell);

fn a_gap_in_the_wal_is_named(major: MajorVersion) {
    let (_cluster, walkeep, segments) = kept(major);
    let root = walkeep.repository_dir().to_owned();
    let oldest = walkeep.backups()[0]["id"].as_str().expect("backups have names").to_owned();
    let lost = objects(&root, ObjectKind::Wal).into_iter().find(|path| path.to_string_lossy().contains(&segments[1]));
    fs::remove_file(lost.expect("the segment has an object")).expect("it is ours");
    let name = segments[1].as_str();
    fails(&walkeep.restore().args(&["--backup", &oldest]), 8, &[name]);
    fails(&walkeep.restore().args(&["--backup", &oldest, "--target-name", "round 1 number 0"]), 8, &[name]);
    // Before the gap, and behind the next backup, everything can be reached.
    let restored = walkeep.restore().args(&["--target-name", "round 0 number 0"]).promoted();
    assert_eq!(restored.query_one::<u32>("select count(*) from markers"), 1);
    drop(restored);
    let restored = walkeep.restore().promoted();
    assert_eq!(restored.query_one::<u32>("select count(*) from markers"), 6);
    walkeep.run(&["windows"]).ok().assert_says(name);
}
scenario!([V13, V18], a_gap_in_the_wal_is_named);
