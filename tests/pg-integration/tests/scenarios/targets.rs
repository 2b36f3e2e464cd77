//! Every kind of target ends exactly where it says, or is refused with the limits of what can be reached.

use std::time::Duration;

use walkeep_pg_integration::walkeep::Restore;
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Marker, Seed, StopMode, Walkeep, Workload, create_marker, scenario, wait_until,
};

/// A backup, and behind it markers with changes in between. Each digest is of the moment that its marker names.
struct Story {
    cluster: Cluster,
    walkeep: Walkeep,
    at_backup: Digest,
    before: Vec<Digest>,
    markers: Vec<Marker>,
    at: Vec<Digest>,
    end: Digest,
}

impl Story {
    fn tell(major: MajorVersion) -> Self {
        let seed = Seed::take();
        let cluster =
            Cluster::options(major).setting("track_commit_timestamp", "on").setting("autovacuum", "off").create();
        let walkeep = Walkeep::set_up(&cluster);
        let mut workload = Workload::seeded(seed).rows(300);
        workload.populate(&cluster);
        cluster.sql("create table markers (name text primary key)");
        let at_backup = Digest::of(&cluster);
        walkeep.backup(&[]);
        let (mut before, mut markers, mut at) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..3 {
            workload.churn(&cluster, 8);
            before.push(Digest::of(&cluster));
            markers.push(create_marker(&cluster, &format!("marker {number}")));
            at.push(Digest::of(&cluster));
            // A target between two transactions is reached when the later one's commit is seen. What a sequence did in
            // that transaction has been replayed by then, so it is one without.
            cluster.sql("select pg_current_xact_id()");
            cluster.switch_wal();
        }
        workload.churn(&cluster, 8);
        create_marker(&cluster, "the end");
        let end = Digest::of(&cluster);
        cluster.archive_everything();
        Self { cluster, walkeep, at_backup, before, markers, at, end }
    }

    /// The commit time of a marker's transaction, to the microsecond, shifted.
    fn commit_time(&self, marker: &Marker, shift: &str) -> String {
        let time = format!("(pg_xact_commit_timestamp('{}'::xid) {shift}) at time zone 'UTC'", marker.xid);
        self.cluster.query_one(&format!("select to_char({time}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"))
    }
}

fn every_kind_ends_where_it_says(major: MajorVersion) {
    let story = Story::tell(major);
    let [zero, one, two] = story.markers.as_slice() else { panic!("three markers") };
    let commit = story.commit_time(one, "");
    let just_before = story.commit_time(one, "- interval '1 us'");
    let restore = || story.walkeep.restore();
    let cases: Vec<(&str, Restore<'_>, &Digest)> = vec![
        ("latest by default", restore(), &story.end),
        ("latest", restore().args(&["--target", "latest"]), &story.end),
        ("immediate", restore().args(&["--target", "immediate"]), &story.at_backup),
        ("time", restore().target_time(zero), &story.at[0]),
        ("the very time of a commit", restore().args(&["--target-time", &commit]), &story.at[1]),
        ("… exclusive", restore().args(&["--target-time", &commit, "--exclusive"]), &story.before[1]),
        ("a microsecond earlier", restore().args(&["--target-time", &just_before]), &story.before[1]),
        ("lsn", restore().target_lsn(two), &story.at[2]),
        ("lsn, exclusive", restore().target_lsn(two).args(&["--exclusive"]), &story.at[2]),
        ("xid", restore().target_xid(one), &story.at[1]),
        ("xid, exclusive", restore().target_xid(one).args(&["--exclusive"]), &story.before[1]),
        ("name", restore().target_name(two), &story.at[2]),
    ];
    for (what, restore, expected) in cases {
        eprintln!("target: {what}");
        expected.assert_recovered(&Digest::of(&restore.promoted()));
    }
}
scenario!(per_major, every_kind_ends_where_it_says);

fn the_server_does_at_the_target_what_was_asked(major: MajorVersion) {
    let story = Story::tell(major);
    let paused = story.walkeep.restore().target_name(&story.markers[0]).args(&["--target-action", "pause"]).start();
    let is_paused = "select pg_is_in_recovery() and pg_is_wal_replay_paused()";
    wait_until("the server to pause", Duration::from_secs(60), || paused.query_one::<String>(is_paused) == "t");
    story.at[0].assert_recovered(&Digest::of(&paused));
    paused.sql("select pg_wal_replay_resume()");
    paused.wait_writable();
    story.at[0].assert_recovered(&Digest::of(&paused));

    let mut stopped =
        story.walkeep.restore().target_name(&story.markers[0]).args(&["--target-action", "shutdown"]).files();
    stopped.spawn();
    stopped.wait_exit(Duration::from_secs(60));
    assert!(stopped.log_tail().contains("recovery stopping"), "{}", stopped.log_tail());
    assert!(stopped.data().join("recovery.signal").exists(), "it is still in recovery");
}
scenario!(per_major, the_server_does_at_the_target_what_was_asked);

#[track_caller]
fn unreachable(story: &Story, args: &[&str], says: &[&str]) {
    let restore = story.walkeep.restore().args(args);
    let output = restore.output().expect_code(8);
    assert!(output.stderr.starts_with("error: unable to reach "), "{output}");
    for words in says {
        output.assert_says(words);
    }
    assert!(!restore.target().exists(), "a refused restore made its directory\n{output}");
}

fn limits_are_named(major: MajorVersion) {
    let story = Story::tell(major);
    let last = "select max(xmin::text::bigint)::text from markers";
    let xid: String = story.cluster.query_one(last);
    let shown = "select to_char(pg_xact_commit_timestamp(xmin) at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US \"UTC\"') \
                 from markers where name = 'the end'";
    let maximum: String = story.cluster.query_one(shown);
    let limits = [maximum.as_str(), &format!("its last transaction, {xid},")];

    unreachable(&story, &["--target-time", "2099-01-01 00:00:00Z"], &[&["--target latest"][..], &limits].concat());
    unreachable(&story, &["--target-lsn", "FF/FF000000"], &limits);
    unreachable(&story, &["--target-xid", "99999999"], &limits);
    unreachable(&story, &["--target-name", "no such marker"], &[&["'no such marker'"][..], &limits].concat());
    unreachable(&story, &["--target-time", "2001-01-01 00:00:00Z"], &["the earliest that a backup"]);
    let start = story.walkeep.backups()[0]["start_lsn"].as_str().expect("backups have an LSN").to_owned();
    unreachable(&story, &["--target-lsn", &start], &["the earliest that a backup"]);
}
scenario!([V13, V18], limits_are_named);

fn a_dry_run_writes_nothing(major: MajorVersion) {
    let story = Story::tell(major);
    let restore = story.walkeep.restore().target_name(&story.markers[1]).args(&["--dry-run"]);
    let output = restore.output().ok();
    for words in ["restore point 'marker 1'", "last included", "first excluded", "segments"] {
        output.assert_says(words);
    }
    assert!(!restore.target().exists(), "{output}");
    let plan =
        story.walkeep.restore().target_name(&story.markers[1]).args(&["--dry-run", "--json"]).output().ok().json();
    assert_eq!(plan["plan"]["timeline"], 1, "{plan}");
    assert!(plan["restored"].is_null(), "{plan}");
}
scenario!([V13, V18], a_dry_run_writes_nothing);

/// A restore of a restore: the archive then holds two branches, and both can be asked for.
fn both_branches_of_a_restore_can_be_restored(major: MajorVersion) {
    let mut story = Story::tell(major);
    let branch =
        |restore: Restore<'_>| restore.args(&["--keep-archiving"]).command_line("archive_mode", "on").promoted();
    let mut second = branch(story.walkeep.restore().target_name(&story.markers[1]));
    story.at[1].assert_recovered(&Digest::of(&second));
    let on_second = create_marker(&second, "on the second line");
    assert_eq!(on_second.timeline, 2);
    let at_second = Digest::of(&second);
    second.sql("drop table btree_rows cascade");
    let end_of_second = Digest::of(&second);
    second.archive_everything();
    second.stop(StopMode::Fast);
    create_marker(&story.cluster, "on the first line");
    let end_of_first = Digest::of(&story.cluster);
    story.cluster.archive_everything();
    story.walkeep.verify();

    let restored = |args: &[&str]| Digest::of(&story.walkeep.restore().args(args).promoted());
    end_of_first.assert_recovered(&restored(&["--timeline", "1"]));
    end_of_second.assert_recovered(&restored(&["--timeline", "2"]));
    end_of_second.assert_recovered(&restored(&[]));
    at_second.assert_recovered(&restored(&["--target-name", "on the second line"]));
    // A marker on the common trunk is the same on both.
    story.at[0].assert_recovered(&restored(&["--target-name", "marker 0"]));

    // A third line leaves the second.
    let mut third = branch(story.walkeep.restore().target_name(&on_second));
    at_second.assert_recovered(&Digest::of(&third));
    create_marker(&third, "on the third line");
    let end_of_third = Digest::of(&third);
    third.archive_everything();
    third.stop(StopMode::Fast);
    let last = story.walkeep.restore().args(&["--timeline", "3"]).promoted();
    end_of_third.assert_recovered(&Digest::of(&last));
    let windows = story.walkeep.json(&["windows"]);
    assert_eq!(windows["branches"].as_array().map(Vec::len), Some(3), "{windows}");
    story.cluster.stop(StopMode::Fast);
}
scenario!(per_major, both_branches_of_a_restore_can_be_restored);
