//! docs/moving.md and docs/retention.md: another tool is left, and an old repository is let go.

use walkeep_pg_integration::documents::Host;

#[test]
fn another_tool_is_left_and_an_old_repository_is_let_go() {
    let host = Host::with_cluster();
    host.run("install -d -o postgres /srv/other").ok();
    host.sql("alter system set archive_mode = on");
    // What it is does not matter: it knows nothing of Walkeep.
    host.sql("alter system set archive_command = 'test ! -e /srv/other/%f && cp %p /srv/other/%f'");
    host.run("systemctl restart postgresql@15-main").ok();
    host.sql("create table orders as select i from generate_series(1, 1000) i");

    let mut page = host.walk("docs/moving.md", "Side by side");
    let checked = page.run("walkeep init");
    checked.assert_says("does not call walkeep archive-push");
    host.run("ls /srv/other").ok().assert_says("000000010000000000000002");
    page.run("15/trial");
    page.run("archive_command");
    host.archive_everything();
    assert_eq!(host.sql("show archive_command"), "walkeep archive-push %p");

    host.walk("docs/retention.md", "How much room").run("walkeep list").assert_says("/srv/walkeep/packs");
    let mut page = host.walk("docs/retention.md", "Letting go of old backups");
    page.run("walkeep init");
    page.run("walkeep-restore windows").assert_says("timeline 1");
    let restore = "sudo -u postgres walkeep-restore --repo /srv/walkeep.old --target-dir /var/lib/postgresql/15/old";
    host.run(restore).ok();
    page.run("rm -r");
    let listed = host.run("sudo -u postgres walkeep list --json").ok().json();
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");
    host.run("sudo -u postgres walkeep verify").ok();
}
