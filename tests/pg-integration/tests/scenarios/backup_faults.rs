//! `backup` when something is wrong: it says what, lists nothing that is not whole, and leaves what was there alone.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt;
use serde_json::Value;
use walkeep_pg_integration::faults::{Frozen, ObjectKind, Pooler, ReadOnly, SmallDisk, corrupt_page, objects};
use walkeep_pg_integration::user::{TestUser, create_directory, write_file};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_load};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Scratch, Seed, StopMode, Walkeep, Workload, amcheck, scenario, wait_until,
};

pub fn small(major: MajorVersion) -> (Cluster, Walkeep) {
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    (cluster, walkeep)
}

/// A file of PostgreSQL's directory that takes a while to read, and no space.
pub fn slow_file(cluster: &Cluster) -> PathBuf {
    let path = cluster.data().join("slow");
    let file = File::create(&path).expect("the data directory can be written to");
    file.set_len(3 << 30).expect("a sparse file of 3 GiB can be made");
    TestUser::get().own(&path);
    path
}

/// A backup that is busy with [`slow_file`]: it has read far more than a small cluster has.
pub fn copying(walkeep: &Walkeep) -> Child {
    let child = spawned(walkeep, &["backup", "--jobs", "1"]);
    wait_until("the copy to be under way", SOON, || {
        let io = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
        let read = io.lines().find_map(|line| line.strip_prefix("rchar: "));
        read.and_then(|bytes| bytes.parse::<u64>().ok()) > Some(200 << 20)
    });
    child
}

/// `walkeep` with these arguments, for [`ending_of`].
pub fn spawned(walkeep: &Walkeep, args: &[&str]) -> Child {
    let mut command = walkeep.command(args);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command.spawn().expect("walkeep can be started")
}

pub fn ending_of(child: Child) -> Output {
    let output = child.wait_with_output().expect("it is our child");
    Output {
        command: "walkeep backup".to_owned(),
        code: output.status.code(),
        signal: None,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
fn fails(walkeep: &Walkeep, code: i32, says: &[&str]) {
    fails_with(walkeep, &[], code, says);
}

/// `walkeep backup` with these arguments fails, says so, and lists nothing.
#[track_caller]
pub fn fails_with(walkeep: &Walkeep, args: &[&str], code: i32, says: &[&str]) {
    let listed = walkeep.backups();
    let output = walkeep.run(&[&["backup"], args].concat()).expect_code(code);
    assert!(output.stderr.contains("error: "), "{output}");
    for words in says {
        output.assert_says(words);
    }
    assert_eq!(walkeep.backups(), listed, "a failed backup was listed");
}

fn needs_the_server(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    cluster.stop(StopMode::Fast);
    fails(&walkeep, 1, &["unable to connect to PostgreSQL", "hint: check that the server runs"]);
    walkeep.configure("cluster", "conninfo", "host=localhost port=no_number");
    fails(&walkeep, 1, &["connection string"]);
    cluster.start();
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    walkeep.backup(&[]);
}
scenario!([V13, V18], needs_the_server);

fn says_which_rights_are_missing_and_they_suffice(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    cluster.sql("create role keeper login");
    walkeep.configure("cluster", "conninfo", cluster.conninfo().replace("user=postgres", "user=keeper"));
    fails(&walkeep, 1, &["permission denied", "hint: connect as a superuser, or GRANT EXECUTE", "pg_monitor"]);
    let functions = if major >= MajorVersion::V15 {
        ["pg_backup_start(text, bool)", "pg_backup_stop(bool)"]
    } else {
        ["pg_start_backup(text, bool, bool)", "pg_stop_backup(bool, bool)"]
    };
    for function in functions.into_iter().chain(["pg_create_restore_point(text)", "pg_switch_wal()"]) {
        cluster.sql(&format!("grant execute on function {function} to keeper"));
    }
    cluster.sql("grant pg_monitor to keeper");
    walkeep.backup(&[]);
}
scenario!(per_major, says_which_rights_are_missing_and_they_suffice);

fn refuses_a_pooler(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    let pooler = Pooler::before(&cluster);
    walkeep.configure("cluster", "conninfo", pooler.conninfo());
    fails(&walkeep, 1, &["pooler", "connect to the server directly"]);
    walkeep.run(&["check"]).expect_code(10).assert_says("pooler");
}
scenario!([V13, V18], full [V14, V15, V16, V17], refuses_a_pooler);

fn notices_that_its_session_was_ended(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    walkeep.backup(&[]);
    let slow = slow_file(&cluster);
    let child = copying(&walkeep);
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where application_name = 'walkeep'";
    assert_eq!(cluster.query_one::<u32>(ended), 1);
    let output = ending_of(child).expect_code(1);
    assert!(output.stderr.starts_with("error: ") && output.stderr.contains("connection"), "{output}");
    assert_eq!(walkeep.backups().len(), 1);
    fs::remove_file(slow).expect("it is ours");
    walkeep.backup(&[]);
    walkeep.verify();
}
scenario!([V13, V15, V18], full [V14, V16, V17], notices_that_its_session_was_ended);

fn proves_archiving_before_it_copies(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    walkeep.configure("limits", "archive_timeout", 2);
    cluster.set("archive_command", "false");
    fails(&walkeep, 1, &["archiving does not work", "archive_command fails", "hint: run `walkeep check`"]);
    assert!(objects(walkeep.repository_dir(), ObjectKind::Packs).is_empty(), "it copied before it knew");
    walkeep.run(&["check"]).expect_code(10).assert_says("does not call walkeep archive-push");
    cluster.command_line("archive_mode", "off");
    cluster.restart();
    fails(&walkeep, 1, &["archive_mode is off", "hint: run `walkeep init`"]);
    cluster.command_line("archive_mode", "on");
    cluster.restart();
    walkeep.archive_from(&cluster);
    walkeep.backup(&[]);
}
scenario!([V13, V18], full [V14, V15, V16, V17], proves_archiving_before_it_copies);

fn refuses_a_server_on_another_directory(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    let identifier =
        |cluster: &Cluster| -> String { cluster.query_one("select system_identifier::text from pg_control_system()") };
    let other = Cluster::options(major).wal_segment_mb(1).create();
    let (ours, theirs) = (identifier(&cluster), identifier(&other));
    walkeep.configure("cluster", "conninfo", other.conninfo());
    fails(&walkeep, 1, &[&ours, &theirs, "the connection leads to"]);
    walkeep.configure("cluster", "pgdata", other.data().display().to_string());
    fails(&walkeep, 7, &[&ours, &theirs, "the repository holds"]);

    // A copy has the same identifier; its server is another one all the same.
    cluster.stop(StopMode::Fast);
    let scratch = Scratch::new("twin");
    let data = scratch.path().join("data");
    Output::of(TestUser::get().command("cp").arg("-a").arg(cluster.data()).arg(&data)).ok();
    let mut twin = Cluster::adopt(cluster.server().clone(), scratch, data);
    walkeep.configure("cluster", "pgdata", twin.data().display().to_string());
    walkeep.configure("cluster", "conninfo", cluster.conninfo());
    cluster.start();
    fails(&walkeep, 1, &["the connection leads to a running server, but none runs on"]);
    // Start times are seconds; the twin's must differ from the original's by more than the two that are tolerated.
    let age = "select extract(epoch from now() - pg_postmaster_start_time())::int";
    wait_until("the first server to be older", SOON, || cluster.query_one::<i32>(age) > 4);
    twin.start();
    fails(&walkeep, 1, &["the connection leads to a server that started at"]);
}
scenario!([V13, V18], refuses_a_server_on_another_directory);

fn one_at_a_time(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    slow_file(&cluster);
    let child = copying(&walkeep);
    let frozen = Frozen::freeze(child.id());
    fails(&walkeep, 7, &["in use", &format!("process {}", child.id())]);
    drop(frozen);
    ending_of(child).ok();
    assert_eq!(walkeep.backups().len(), 1);
    // A dead holder is no obstacle.
    let mut child = copying(&walkeep);
    child.kill().expect("it is our child");
    child.wait().expect("it is our child");
    assert_eq!(objects(walkeep.repository_dir(), ObjectKind::Leases).len(), 1);
    walkeep.backup(&[]);
    assert!(objects(walkeep.repository_dir(), ObjectKind::Leases).is_empty());
    walkeep.verify();
}
scenario!([V13, V18], full [V14, V15, V16, V17], one_at_a_time);

fn names_what_it_cannot_read(major: MajorVersion) {
    let (cluster, walkeep) = small(major);
    walkeep.backup(&[]);
    let file = cluster.data().join("base/1/notes");
    write_file(&file, "whatever");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).expect("it is ours");
    fails(&walkeep, 1, &["base/1/notes", "Permission denied"]);
    fs::remove_file(&file).expect("it is ours");
    let directory = cluster.data().join("closed");
    create_directory(&directory);
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o000)).expect("it is ours");
    fails(&walkeep, 1, &["closed", "Permission denied"]);
    fs::remove_dir(&directory).expect("it is ours");
    walkeep.backup(&[]);
    walkeep.verify();
}
scenario!([V13, V18], full [V14, V15, V16, V17], names_what_it_cannot_read);

fn survives_files_that_vanish_shrink_and_grow(major: MajorVersion) {
    survives_thrashing(major, "local");
}
scenario!([V13, V18], full [V14, V15, V16, V17], survives_files_that_vanish_shrink_and_grow);

/// Tables come, go, shrink and grow under the copy, and so do files that are none of PostgreSQL's.
pub fn survives_thrashing(major: MajorVersion, source: &str) {
    let cluster = Cluster::create(major);
    let walkeep = Walkeep::set_up(&cluster);
    Workload::seeded(Seed::take()).rows(1000).populate(&cluster);
    pgbench_init(&cluster, 1);
    let load = pgbench_load(&cluster, Seed::fixed(1));
    let junk = cluster.data().join("junk");
    create_directory(&junk);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = SetOnDrop(&over);
        scope.spawn(|| thrash_files(&junk, &over));
        scope.spawn(|| thrash_tables(&cluster, &over));
        for round in 0..3 {
            let backup = walkeep.backup(&["--source", source, "--note", &format!("round={round}")]);
            assert_eq!(backup["status"], "ok", "{backup}");
        }
    });
    load.stop();
    walkeep.verify();
    fs::remove_dir_all(&junk).expect("it is ours");
    let before = Digest::of(&cluster);
    cluster.archive_everything();
    for backup in walkeep.backups() {
        let id = backup["id"].as_str().expect("backups have names").to_owned();
        let restored = walkeep.restore().args(&["--backup", &id]).promoted();
        before.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}

/// Ends the threads of a scope however the scope ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn thrash_files(junk: &Path, over: &AtomicBool) {
    let mut rng = Seed::take().rng();
    while !over.load(Ordering::Relaxed) {
        let path = junk.join(format!("file {}", rng.random_range(0..40)));
        let Ok(file) = File::options().create(true).write(true).truncate(false).open(&path) else { continue };
        TestUser::get().own(&path);
        match rng.random_range(0..3) {
            0 => drop(fs::remove_file(&path)),
            1 => file.set_len(rng.random_range(0..100_000)).expect("files can be cut"),
            _ => file.set_len(rng.random_range(0..40 << 20)).expect("files can grow"),
        }
    }
}

fn thrash_tables(cluster: &Cluster, over: &AtomicBool) {
    let session = cluster.session("postgres");
    while !over.load(Ordering::Relaxed) {
        session.sql("create table coming as select i, md5(i::text) from generate_series(1, 20000) i");
        session.sql("delete from coming where i > 100");
        session.sql("vacuum coming");
        session.sql("create index on coming (i)");
        session.sql("truncate coming");
        session.sql("drop table coming");
        session.sql("create unlogged table going as select generate_series(1, 5000) i");
        session.sql("alter table going set logged");
        session.sql("drop table going");
    }
}

/// A table `t` of a hundred pages and more: its file, and the file's path below the data directory.
pub fn table(cluster: &Cluster) -> (PathBuf, String) {
    cluster.sql("create table t as select i, md5(i::text) from generate_series(1, 20000) i");
    let file = cluster.relation_file("t");
    let relative = file.strip_prefix(cluster.data()).expect("it lies inside").display().to_string();
    (file, relative)
}

/// Damages two pages of a table, 3 and 77, of a cluster that runs before and afterwards.
pub fn damage_two_pages(cluster: &mut Cluster, file: &Path) {
    cluster.stop(StopMode::Fast);
    corrupt_page(cluster, file, 3);
    corrupt_page(cluster, file, 77);
    cluster.start();
}

fn names_a_damaged_page(major: MajorVersion) {
    let (mut cluster, walkeep) = small(major);
    let (file, relative) = table(&cluster);
    let good = walkeep.backup(&[]);
    damage_two_pages(&mut cluster, &file);
    // The second backup compares with the first, which holds the same page: that makes the page no better.
    for _ in 0..2 {
        let output = walkeep.run(&["backup"]).expect_code(5);
        output.assert_says("2 damaged pages");
        output.assert_says(&format!("'{relative}' block 3:"));
        output.assert_says(&format!("'{relative}' block 77:"));
        output.assert_says("earlier backups are untouched");
    }
    let backups = walkeep.backups();
    let status: Vec<&Value> = backups.iter().map(|backup| &backup["status"]).collect();
    assert_eq!(status, ["ok", "page_errors", "page_errors"]);
    assert_eq!(backups[0]["id"], good["id"]);
    assert_eq!(backups[1]["page_errors"][0]["block"], 3, "{}", backups[1]);
    let id = backups[1]["id"].as_str().unwrap_or_default();
    walkeep.run(&["show", id]).ok().assert_says("damaged page");
    walkeep.verify();
    cluster.sql("drop table t");
    cluster.sql("checkpoint");
    assert_eq!(walkeep.backup(&[])["status"], "ok");
}
scenario!([V13, V17, V18], full [V14, V15, V16], names_a_damaged_page);

fn fails_with_a_repository_that_takes_nothing(major: MajorVersion) {
    let disk = SmallDisk::mount(64 << 20);
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::new(&cluster).repository_at(disk.path().join("repository"));
    walkeep.init(&[]).ok();
    walkeep.archive_from(&cluster);
    walkeep.configure("limits", "archive_timeout", 3);
    walkeep.backup(&[]);
    cluster.sql(
        "create table random_rows as select gen_random_uuid() a, gen_random_uuid() b from generate_series(1, 200000)",
    );
    cluster.archive_everything();
    // Room for WAL, not for the pages.
    disk.fill_up_to(4 << 20);
    fails(&walkeep, 1, &["No space left on device", "hint: free space"]);
    disk.relieve();
    let closed = ReadOnly::close(walkeep.repository_dir());
    fails(&walkeep, 4, &["Permission denied", "hint: check that the repository"]);
    closed.reopen();
    walkeep.verify();
    cluster.archive_everything();
    walkeep.backup(&[]);
    walkeep.verify();

    let moved = disk.path().join("elsewhere");
    Output::of(TestUser::get().command("mv").arg(walkeep.repository_dir()).arg(&moved)).ok();
    walkeep.run(&["backup"]).expect_code(6).assert_says("hint: run `walkeep init`");
    assert!(!walkeep.repository_dir().exists());
}
scenario!([V13, V18], fails_with_a_repository_that_takes_nothing);
