//! docs/restore-runbook.md: each way back is walked.

use walkeep_pg_integration::documents::Host;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::wait_until;

use super::five_minutes::{a_table_is_lost, assert_table_is_back, wait_reachable};

#[test]
fn a_lost_table_is_carried_over_from_a_copy() {
    let host = Host::protected();
    host.run("sudo -u postgres walkeep backup").ok();
    let before = a_table_is_lost(&host);
    host.sql("select pg_switch_wal()");
    wait_reachable(&host, &before);

    let mut page = host.walk("docs/restore-runbook.md", "First");
    page.run("walkeep-restore list").assert_says("20");

    let mut page = host.walk("docs/restore-runbook.md", "A table is lost").given("2026-11-21 10:30:00+01", &before);
    page.run("--dry-run");
    page.run("15/copy");
    page.run("pg_ctl start");
    page.run("SELECT count(*)").assert_says("1000");
    page.run("pg_ctl stop");
    assert_eq!(host.sql("select count(*), sum(i) from orders"), "1000|500500");
    assert_eq!(host.sql("select to_regclass('too_late') is not null"), "t", "the cluster itself went on");
    host.run("test ! -e /var/lib/postgresql/15/copy").ok();
}

#[test]
fn back_to_a_restore_point() {
    let host = Host::protected();
    host.run("sudo -u postgres walkeep backup").ok();
    host.sql("create table orders as select i, md5(i::text) as what from generate_series(1, 1000) i");
    let mut page = host.walk("docs/restore-runbook.md", "Back to a restore point");
    page.run("pg_create_restore_point");
    host.sql("drop table orders; create table too_late (); select pg_switch_wal()");
    let look = "sudo -u postgres walkeep-restore --repo /srv/walkeep --target-name 'before deployment 42' --dry-run";
    wait_until("the restore point to be in the repository", SOON, || host.run(look).succeeded());
    page.run("--target-name");
    assert_table_is_back(&host);
    assert_eq!(host.sql("show archive_mode"), "off", "the page says that it is");
}

/// Puts a cluster behind a bucket as docs/s3.md says, with a table in it, and copies the repository about.
fn put_behind_a_bucket(host: &Host) {
    host.serve_s3();
    host.own_credentials();
    host.run(
        "install -d -o postgres -g postgres -m 0750 /etc/walkeep /var/lib/walkeep /srv/walkeep
         install -d /srv/s3/my-bucket",
    )
    .ok();
    // There is no way to AWS from here.
    let endpoint = "--s3-endpoint https://s3.example.com";
    let mut page = host
        .walk("docs/s3.md", "Setting up")
        .given("--mirror s3://my-bucket/main", &format!("--mirror s3://my-bucket/main {endpoint}"))
        .given("--repo s3://my-bucket/main", "--repo s3://my-bucket/alone");
    page.run("--mirror");
    host.run("mv /etc/walkeep/walkeep.toml /tmp/mirrored.toml").ok();
    page.run("--repo s3://my-bucket/main");
    host.run("mv /tmp/mirrored.toml /etc/walkeep/walkeep.toml; systemctl restart postgresql@15-main").ok();

    host.run("sudo -u postgres walkeep backup").ok();
    host.sql("create table orders as select i, md5(i::text) as what from generate_series(1, 1000) i");
    host.archive_everything();
    host.write("/root/.s3cfg", Host::S3CMD);
    host.run("install -d /root/.config/rclone").ok();
    host.write("/root/.config/rclone/rclone.conf", Host::RCLONE);
    let mut page = host
        .walk("docs/s3.md", "Moving and copying")
        .given("--to /srv/walkeep ", &format!("--to /srv/walkeep {endpoint} "))
        .given("s3://old/main", "s3://my-bucket/main")
        .given("s3://new/main", &format!("s3://my-bucket/new {endpoint}"));
    page.run("walkeep sync");
    page.run("rclone copy");
    let mut page = host.walk("docs/retention.md", "A small disk beside the server, a large bucket behind it");
    page.run("windows --repo s3://").assert_says("timeline 1");
    for repository in ["/srv/copy", "s3://my-bucket/new --s3-endpoint https://s3.example.com"] {
        let listed = host.run(&format!("walkeep-restore list --json --repo {repository}")).ok().json();
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{repository}: {listed}");
    }
}

#[test]
fn the_host_is_gone_and_the_bucket_is_left() {
    let host = Host::with_cluster();
    put_behind_a_bucket(&host);
    host.run(
        "pg_dropcluster --stop 15 main
         rm -r /srv/walkeep /etc/walkeep /var/lib/walkeep /var/lib/postgresql/.aws",
    )
    .ok();

    host.write("/tmp/credentials", Host::CREDENTIALS);
    let mut page = host
        .walk("docs/restore-runbook.md", "The host is gone, the bucket is left")
        .given("0600 credentials", "0600 /tmp/credentials");
    page.run("pg_createcluster");
    page.run("walkeep-restore --repo s3://my-bucket/main");
    assert_table_is_back(&host);
    page.run("walkeep init");
    let listed = host.run("sudo -u postgres walkeep list --json").ok().json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(2), "{listed}");
    host.run("sudo -u postgres walkeep verify").ok();
}

#[test]
fn a_standby_is_made_anew() {
    let host = Host::with_cluster();
    host.run(
        "pg_createcluster 15 primary --port 5433 --start -- --no-sync
         install -d -o postgres -g postgres -m 0750 /etc/walkeep /var/lib/walkeep /srv/walkeep
         sudo -u postgres walkeep init --pgdata /var/lib/postgresql/15/primary --repo /srv/walkeep --apply
         systemctl restart postgresql@15-primary
         sudo -u postgres walkeep backup",
    )
    .ok();
    let primary = |statements: &str| host.run(&format!("sudo -u postgres psql -p 5433 -XqAt -c \"{statements}\"")).ok();
    primary("create table orders as select i from generate_series(1, 1000) i");

    let mut page = host
        .walk("docs/restore-runbook.md", "A standby, made anew")
        .given("host=db1.example.com user=replicator", "host=/var/run/postgresql port=5433 user=postgres");
    page.run("standby.signal");
    primary("insert into orders values (1001)");
    host.wait_sql("the standby to have what came last", "select count(*) = 1001 and pg_is_in_recovery() from orders");
    assert_eq!(host.sql("select status from pg_stat_wal_receiver"), "streaming");
    assert_eq!(host.sql("show archive_mode"), "on", "it archives when it is promoted");
    host.run("test -e /var/lib/postgresql/15/main.before").ok();
}
