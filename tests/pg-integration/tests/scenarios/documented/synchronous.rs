//! docs/synchronous-standby.md: commits wait for the agent, and are let go.

use walkeep_pg_integration::documents::Host;

/// Lets the agent in as docs/stream.md says: a role with the rights that it names, by TCP, the server verified.
fn own_role_over_tls(host: &Host) {
    host.present_certificate("/etc/walkeep/ca.pem");
    let mut page = host
        .walk("docs/stream.md", "What the server needs")
        .given("'…'", "'a secret of this test'")
        .given("10.0.0.5/32", "127.0.0.1/32");
    page.sql("CREATE ROLE walkeep");
    page.append("pg_hba", "hostssl replication", "/etc/postgresql/15/main/pg_hba.conf");
    let config = host.read("/etc/walkeep/walkeep.toml");
    host.write("/etc/walkeep/section.toml", "");
    page.append("toml", "verify-full", "/etc/walkeep/section.toml");
    let section = host.read("/etc/walkeep/section.toml");
    host.write("/etc/walkeep/walkeep.toml", &config.replace("[cluster]\n", section.trim_start()));
    host.write("/var/lib/postgresql/.pgpass", "db1.example.com:5432:*:walkeep:a secret of this test\n");
    host.run(
        "chown postgres: /var/lib/postgresql/.pgpass; chmod 0600 /var/lib/postgresql/.pgpass
         systemctl reload postgresql@15-main",
    )
    .ok();
}

#[test]
fn commits_wait_for_the_agent_and_are_let_go() {
    let host = Host::protected();
    host.run(
        "sudo -u postgres walkeep backup
         install -m 0644 deploy/systemd/walkeep-agent.service /etc/systemd/system/
         systemctl enable --now walkeep-agent",
    )
    .ok();
    own_role_over_tls(&host);
    let mut page = host.walk("docs/synchronous-standby.md", "Setting up");
    page.append("toml", "synchronous = true", "/etc/walkeep/walkeep.toml");
    page.run("synchronous_standby_names = 'walkeep'");
    host.wait_sql(
        "the agent to be waited for",
        "select count(*) = 1 from pg_stat_replication where sync_state = 'sync'",
    );
    page.run("walkeep check");
    assert_eq!(host.sql("select usename, ssl from pg_stat_replication join pg_stat_ssl using (pid)"), "walkeep|t");
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
