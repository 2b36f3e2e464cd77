//! What is committed is in the repository within moments, without an `archive_command`.

use std::path::Path;

use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{Digest, MajorVersion, Output, Seed, Walkeep, amcheck, create_marker, scenario};

use super::{cluster, now, streaming, wait_stored, walkeep};

/// The host is lost with its data directory: what was committed is back, the open segment's part too.
fn a_lost_host_comes_back_with_its_last_commits(major: MajorVersion) {
    let mut cluster = cluster(major);
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    pgbench_run(&cluster, 300, Seed::fixed(21));
    let marker = create_marker(&cluster, "the last commit");
    let expected = Digest::of(&cluster);
    wait_stored(&walkeep, now(&cluster));
    cluster.kill9();
    assert!(agent.stop().success());
    std::fs::remove_dir_all(cluster.data()).expect("the data directory is there");
    walkeep.verify();
    let windows = walkeep.run(&["windows"]).ok();
    eprintln!("{windows}");
    for restore in [walkeep.restore(), walkeep.restore().target_time(&marker), walkeep.restore().target_lsn(&marker)] {
        let restored = restore.promoted();
        expected.assert_recovered(&Digest::of(&restored));
        amcheck(&restored);
    }
}
scenario!(per_major, a_lost_host_comes_back_with_its_last_commits);

/// Every archived segment is, byte for byte, what the server wrote.
fn segments_are_the_servers(major: MajorVersion) {
    let cluster = cluster(major);
    cluster.set("wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster);
    let agent = streaming(&walkeep);
    pgbench_init(&cluster, 2);
    pgbench_run(&cluster, 500, Seed::fixed(22));
    let last = cluster.switch_wal();
    wait_stored(&walkeep, now(&cluster));
    assert!(agent.stop().success());
    assert_archive_is(&walkeep, &cluster, &last);
}
scenario!(per_major, segments_are_the_servers);

/// Compares every archived segment up to `last` that the server still has.
#[track_caller]
pub fn assert_archive_is(walkeep: &Walkeep, cluster: &walkeep_pg_integration::Cluster, last: &str) {
    let fetched = walkeep.scratch().path().join("fetched-segment");
    let mut compared = 0;
    let written = cluster.data().join("pg_wal");
    let entries = std::fs::read_dir(&written).expect("pg_wal can be read").flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| name.len() == 24 && name.as_str() <= last).collect();
    names.sort();
    for name in names {
        let output = fetch(walkeep, &name, &fetched);
        // What was written before the stream began is not its matter.
        if output.code == Some(1) && compared == 0 {
            continue;
        }
        output.ok();
        let (stored, written) =
            (std::fs::read(&fetched).expect("fetched"), std::fs::read(written.join(&name)).expect("kept"));
        assert!(stored == written, "{name} differs from what the server has");
        compared += 1;
    }
    assert!(compared >= 5, "{compared} segments compared");
}

/// Asks the archive for a segment, as recovery does.
#[track_caller]
pub fn fetch(walkeep: &Walkeep, name: &str, target: &Path) -> Output {
    let mut command = walkeep.restore_command(&["fetch-wal", "--repo"]);
    Output::of(command.arg(walkeep.repository()).arg(name).arg(target))
}
