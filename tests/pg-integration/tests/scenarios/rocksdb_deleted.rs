//! The RocksDB index is never an authority: deleted, damaged or outdated between any two steps, it changes nothing.

use std::fs;
use std::path::Path;

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use walkeep_pg_integration::user::TestUser;
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Output, Seed, Walkeep, Workload, amcheck, create_marker, scenario,
};

/// What befalls the index.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Deleted,
    Garbage,
    Emptied,
    HalfLost,
    Headless,
    Outdated,
}

const FATES: [Fate; 6] = [Fate::Deleted, Fate::Garbage, Fate::Emptied, Fate::HalfLost, Fate::Headless, Fate::Outdated];

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

fn befall(walkeep: &Walkeep, fate: Fate, rng: &mut StdRng) {
    let (state, old) = (walkeep.state_dir(), walkeep.scratch().path().join("state.old"));
    for file in files_below(&state) {
        let length = usize::try_from(file.metadata().expect("listed just now").len()).expect("small files");
        match fate {
            Fate::Garbage => fs::write(&file, (0..length.max(64)).map(|_| rng.random()).collect::<Vec<u8>>()),
            Fate::Emptied => fs::write(&file, ""),
            Fate::HalfLost if rng.random_bool(0.5) => fs::remove_file(&file),
            // Its list of files is gone, what names the list is there.
            Fate::Headless if file.to_string_lossy().contains("MANIFEST-") => fs::remove_file(&file),
            Fate::HalfLost | Fate::Headless | Fate::Deleted | Fate::Outdated => Ok(()),
        }
        .expect("the index is a directory like any other");
    }
    if let (Fate::Deleted | Fate::Outdated, true) = (fate, state.exists()) {
        fs::remove_dir_all(&state).expect("it can be deleted at any time");
    }
    if let Fate::Outdated = fate {
        Output::of(TestUser::get().command("cp").arg("-a").arg(&old).arg(&state)).ok();
    }
}

fn remember(walkeep: &Walkeep) {
    let (state, old) = (walkeep.state_dir(), walkeep.scratch().path().join("state.old"));
    if !old.exists() {
        Output::of(TestUser::get().command("cp").arg("-a").arg(&state).arg(&old)).ok();
    }
}

#[track_caller]
fn cost(backup: &Value) -> (u64, u64) {
    let number = |name: &str| backup["statistics"][name].as_u64().unwrap_or_else(|| panic!("no '{name}' in {backup}"));
    (number("changed_pages"), number("new_bytes"))
}

/// Two repositories archive one cluster; one of them loses its index between every two steps.
fn changes_nothing(major: MajorVersion) {
    let seed = Seed::take();
    let mut rng = seed.rng();
    let cluster = Cluster::options(major).wal_segment_mb(1).setting("autovacuum", "off").create();
    let (control, victim) = (Walkeep::new(&cluster), Walkeep::new(&cluster));
    for walkeep in [&control, &victim] {
        walkeep.init(&[]).ok();
    }
    cluster.set("archive_command", &format!("{} && {}", control.archive_command(), victim.archive_command()));
    let mut workload = Workload::seeded(seed).rows(1000);
    workload.populate(&cluster);
    for (round, fate) in FATES.into_iter().enumerate() {
        eprintln!("round {round}: {fate:?}");
        workload.churn(&cluster, 8);
        cluster.sql("checkpoint");
        let expected = cost(&control.backup(&[]));
        let found = cost(&victim.backup(&[]));
        remember(&victim);
        // Two threads that meet the same new chunk at once both store it, so equal work costs nearly the same.
        let tolerated = (256 << 10) + expected.1 / 10;
        assert!(
            found.0.abs_diff(expected.0) <= 16 && found.1.abs_diff(expected.1) <= tolerated,
            "(changed pages, new bytes) are {found:?} instead of about {expected:?} after {fate:?}"
        );
        befall(&victim, fate, &mut rng);
        assert_eq!(victim.backups().len(), round + 1);
        victim.verify();
        victim.run(&["windows"]).ok();
        create_marker(&cluster, &format!("round {round}"));
        cluster.archive_everything();
        befall(&victim, fate, &mut rng);
    }
    let again = victim.backup(&[]);
    assert!(cost(&again).1 < 1 << 20, "what it holds is stored once more: {again}");
    befall(&victim, Fate::Deleted, &mut rng);
    let expected = Digest::of(&cluster);
    cluster.archive_everything();
    victim.verify();
    let first = victim.backups()[0]["id"].as_str().expect("backups have names").to_owned();
    for args in [&[][..], &["--backup", &first]] {
        let restored = victim.restore().args(args).promoted();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!([V13, V18], changes_nothing);

/// An index that cannot be made is an error that names it, not a backup without one.
fn a_state_directory_that_cannot_be_used_is_named(major: MajorVersion) {
    let cluster = Cluster::options(major).wal_segment_mb(1).create();
    let walkeep = Walkeep::set_up(&cluster);
    let file = walkeep.scratch().path().join("no directory");
    walkeep_pg_integration::user::write_file(&file, "a file");
    walkeep.configure("state", "dir", file.display().to_string());
    let output = walkeep.run(&["backup"]);
    assert!(output.code.is_some_and(|code| code != 0) && output.stderr.contains("no directory"), "{output}");
    walkeep.run(&["check"]).expect_code(10).assert_says("state directory");
    walkeep.configure("state", "dir", walkeep.state_dir().display().to_string());
    walkeep.backup(&[]);
    walkeep.verify();
}
scenario!([V18], a_state_directory_that_cannot_be_used_is_named);
