//! Segments in the spool that will never be stored: they do not hold up what is behind them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use walkeep_pg_integration::faults::{ReadOnly, flip_bit};
use walkeep_pg_integration::user::write_file;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{MajorVersion, Seed, Walkeep, scenario, wait_until};

use super::{ARRIVES, assert_restored, cluster, now, status, stored_end, streaming, wait_stored, walkeep};

/// Files of the spool whose names begin like this.
fn spooled(walkeep: &Walkeep, begins: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(walkeep.state_dir().join("stream/main")).expect("the spool is there").flatten();
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begins));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(named).collect();
    files.sort();
    files
}

/// Complete segments that wait.
fn waiting(walkeep: &Walkeep) -> Vec<PathBuf> {
    let is_complete = |path: &PathBuf| path.extension().is_none();
    spooled(walkeep, "0").into_iter().filter(is_complete).collect()
}

fn errors(walkeep: &Walkeep, kind: &str) -> Value {
    status(walkeep)["errors"][kind].clone()
}

/// One that the disk damaged, and one of another cluster, before others that are whole. Nobody else has the damaged one: a
/// gap is told, and healed by a base backup behind it.
fn damaged_segments_are_put_aside(major: MajorVersion) {
    let (cluster, other) = (cluster(major), cluster(major));
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    wait_stored(&walkeep, now(&cluster));
    // What the repository does not take is not damaged, whole or not.
    let closed = ReadOnly::close(&walkeep.repository_dir().join("clusters/main/wal"));
    wait_until("segments to wait", ARRIVES, || {
        cluster.switch_wal();
        waiting(&walkeep).len() >= 4 && errors(&walkeep, "repository").as_u64() > Some(1)
    });
    agent.kill9();
    let damaged = waiting(&walkeep).swap_remove(1);
    flip_bit(&damaged, 100);
    let agent = walkeep.agent();
    wait_until("the repository to refuse again", ARRIVES, || {
        walkeep.run(&["status", "--json"]).succeeded() && errors(&walkeep, "repository").as_u64() > Some(2)
    });
    assert_eq!((errors(&walkeep, "damaged"), spooled(&walkeep, "damaged-")), (Value::Null, vec![]));
    agent.kill9();

    let name = &other.switch_wal();
    let written = std::fs::read(other.data().join("pg_wal").join(name)).expect("the segment is there");
    let foreign = waiting(&walkeep)[0].with_file_name(name);
    assert!(!foreign.exists(), "the other cluster has written less");
    write_file(&foreign, written);
    closed.reopen();
    walkeep.configure("schedule", "max_age", "30d");
    let agent = streaming(&walkeep);
    wait_until("both to be put aside", ARRIVES, || {
        spooled(&walkeep, "damaged-").len() == 1 && spooled(&walkeep, "foreign-").len() == 1
    });
    wait_stored(&walkeep, now(&cluster));
    wait_until("nothing to wait", ARRIVES, || waiting(&walkeep).is_empty());
    let told = status(&walkeep);
    let gaps = told["gaps"].as_array().expect("a list");
    assert_eq!(
        (gaps.len(), &told["errors"]["damaged"], &told["errors"]["foreign"]),
        (1, &json!(1), &json!(1)),
        "{told}"
    );
    assert_eq!(told["storing_error"], Value::Null);
    let log = agent.log();
    for (path, kind) in [(damaged.as_path(), "damaged"), (Path::new(name), "foreign")] {
        let name = path.file_name().expect("a name").to_string_lossy();
        let begins = format!("streamed segment {name} cannot be stored: ");
        let said: Vec<&str> = log.lines().filter(|line| line.contains(&begins)).collect();
        assert!(said.len() == 1 && said[0].contains(&format!("{kind}-{name}")), "{log}");
    }

    wait_until("a backup behind the gap", ARRIVES * 2, || walkeep.backups().len() >= 2);
    let runs = walkeep.json(&["status"])["schedule"]["history"].take();
    assert!(runs.as_array().is_some_and(|runs| runs.iter().any(|run| run["reason"]["kind"] == "gap")), "{runs}");
    pgbench_run(&cluster, 50, Seed::fixed(76));
    let expected = stored_end(&walkeep, &cluster);
    assert!(agent.stop().success());
    drop(cluster);
    assert_restored(&walkeep, &expected);
}
scenario!([V14, V18], damaged_segments_are_put_aside);
