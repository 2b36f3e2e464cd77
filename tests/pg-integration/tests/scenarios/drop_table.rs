//! The story of the quickstart: a table is dropped by mistake, and comes back as it was an instant before.

use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::workload::{pgbench_init, pgbench_run};
use walkeep_pg_integration::{
    Cluster, Digest, MajorVersion, Seed, Walkeep, amcheck, create_marker, scenario, wait_until,
};

fn brings_a_dropped_table_back(major: MajorVersion) {
    let cluster = Cluster::options(major).setting("track_commit_timestamp", "on").create();
    let walkeep = Walkeep::set_up(&cluster);
    pgbench_init(&cluster, 1);
    walkeep.backup(&[]);
    pgbench_run(&cluster, 100, Seed::fixed(1));
    let before = Digest::of(&cluster);

    // A second passes in which nothing is written, as it would before an operator's typing.
    let idle = "select max(pg_xact_commit_timestamp(xmin)) < clock_timestamp() - interval '1.2 s' from pgbench_history";
    wait_until("the last transaction to be over a second old", SOON, || cluster.query_one::<String>(idle) == "t");
    let mistake: u64 = {
        let session = cluster.session("postgres");
        session.sql("begin; drop table pgbench_accounts");
        let xid = session.query_one("select pg_current_xact_id()");
        session.sql("commit");
        xid
    };
    create_marker(&cluster, "life goes on");
    cluster.archive_everything();
    let at = |expression: &str| -> String {
        let commit = format!("(pg_xact_commit_timestamp('{mistake}'::xid) {expression}) at time zone 'UTC'");
        cluster.query_one(&format!("select to_char({commit}, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"))
    };
    walkeep.run(&["windows"]).ok();

    let a_second_before = at("- interval '1 s'");
    let an_instant_before = at("- interval '1 us'");
    let the_instant = at("");
    for target in [
        &["--target-time", a_second_before.as_str()][..],
        &["--target-time", &an_instant_before],
        &["--target-time", &the_instant, "--exclusive"],
        &["--target-xid", &mistake.to_string(), "--exclusive"],
    ] {
        let restored = walkeep.restore().args(target).promoted();
        before.assert_recovered(&Digest::of(&restored));
        if target[0] == "--target-xid" {
            amcheck(&restored);
        }
    }

    // The same microsecond, inclusive, has the mistake in it.
    let restored = walkeep.restore().args(&["--target-time", &the_instant]).promoted();
    let gone = restored.query_one::<String>("select to_regclass('pgbench_accounts') is null");
    assert_eq!(gone, "t", "the transaction of the target's very time is included");
}
scenario!(per_major, brings_a_dropped_table_back);
