//! README.md: from an ordinary cluster of Debian's to a restored table.

use walkeep_pg_integration::documents::Host;
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::wait_until;

/// The host's time, as a target.
pub(super) fn now(host: &Host) -> String {
    host.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'")
}

/// Writes something, notes the time, and has it happen: the mistake that restores are for. Returns the time before it.
pub(super) fn a_table_is_lost(host: &Host) -> String {
    host.sql("create table orders as select i, md5(i::text) as what from generate_series(1, 1000) i");
    let before = now(host);
    // No transaction of the first second is of the same microsecond.
    host.sql("select pg_sleep(0.01); drop table orders; create table too_late ()");
    before
}

/// The table is back, and nothing that came after it.
pub(super) fn assert_table_is_back(host: &Host) {
    host.wait_sql("the restored server to take writes", "select not pg_is_in_recovery()");
    assert_eq!(host.sql("select count(*), sum(i) from orders"), "1000|500500");
    assert_eq!(host.sql("select to_regclass('too_late') is null"), "t");
}

/// Waits until a restore to that moment is possible: what was streamed has to be stored first.
pub(super) fn wait_reachable(host: &Host, time: &str) {
    let command = format!("sudo -u postgres walkeep-restore --repo /srv/walkeep --target-time '{time}' --dry-run");
    wait_until("the target to be in the repository", SOON, || host.run(&command).succeeded());
}

#[test]
fn five_minutes_with_your_own_cluster() {
    let host = Host::with_cluster();
    let mut page = host.walk("README.md", "Five minutes with your own cluster");
    page.run("walkeep init");
    assert_eq!(host.sql("show archive_command"), "walkeep archive-push %p");
    page.run("walkeep backup");
    page.append("toml", "[schedule]", "/etc/walkeep/walkeep.toml");
    page.run("systemctl enable --now walkeep-agent");
    page.run("walkeep-verify.timer");

    let before = a_table_is_lost(&host);
    wait_reachable(&host, &before);
    let mut page = page.given("2026-11-21 10:30:00+01", &before);
    let restored = page.run("--target-time");
    restored.assert_says("first excluded");
    assert_table_is_back(&host);
    page.run("archive_mode = on");
    assert_eq!(host.sql("show archive_mode"), "on");
    let backups =
        || host.run("sudo -u postgres walkeep list --json").ok().json()["backups"].as_array().map_or(0, Vec::len);
    wait_until("a base backup of the new timeline", SOON, || backups() >= 2);

    // What was undone is a side branch now.
    host.walk("docs/stream.md", "Side branches").run("--timeline 1");
    host.run("test -e /var/lib/postgresql/15/side/recovery.signal").ok();

    // It is told until its list is cleared, and again by an agent that finds it. Then the agent goes for good.
    let listed = || host.run("test -e /var/lib/walkeep/stream/main/losses.json").succeeded();
    wait_until("the agent to have noted it", SOON, listed);
    host.walk("docs/stream.md", "Gaps").run("losses.json");
    wait_until("the agent to note it again", SOON, listed);
    host.run("systemctl stop walkeep-agent").ok();
    let slots = || host.sql("select count(*) from pg_replication_slots where slot_name = 'walkeep'");
    assert_eq!(slots(), "1");
    host.walk("docs/stream.md", "The retention slot").sql("pg_drop_replication_slot");
    assert_eq!(slots(), "0");
}
