//! docs/synchronous-standby.md: commits wait for the agent, and are let go.

use walkeep_pg_integration::documents::Host;

#[test]
fn commits_wait_for_the_agent_and_are_let_go() {
    let host = Host::protected();
    host.run(
        "sudo -u postgres walkeep backup
         install -m 0644 deploy/systemd/walkeep-agent.service /etc/systemd/system/
         systemctl enable --now walkeep-agent",
    )
    .ok();
    let mut page = host.walk("docs/synchronous-standby.md", "Setting up");
    page.append("toml", "synchronous = true", "/etc/walkeep/walkeep.toml");
    page.run("synchronous_standby_names = 'walkeep'");
    host.wait_sql(
        "the agent to be waited for",
        "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'",
    );
    page.run("walkeep check").assert_says("synchronous");
    host.sql("create table orders (i int)");

    host.run("systemctl stop walkeep-agent").ok();
    // It waits; it would not if the page's settings did not hold. psql gives up by itself.
    let waiting = "sudo -u postgres timeout 2 psql -Xq -c 'insert into orders values (1)'";
    host.run(waiting).expect_code(124);
    let mut page = host.walk("docs/synchronous-standby.md", "While the agent is down");
    page.run("synchronous_standby_names = ''");
    host.sql("insert into orders values (2)");
    page.sql("ANY 1");
    assert_eq!(host.sql("show synchronous_standby_names"), "ANY 1 (walkeep, replica1)");
}
