//! docs/base-backups.md and docs/cloudnativepg.md: an agent that has nothing of the server but a connection.

use walkeep_pg_integration::documents::{Host, Page};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::{Cluster, MajorVersion, Walkeep, wait_until};

use super::five_minutes::{a_table_is_lost, wait_reachable};

#[test]
fn a_connection_is_enough() {
    let host = Host::with_cluster();
    let mut role = host
        .walk("docs/stream.md", "What the server needs")
        .given("'…'", "'a secret of this test'")
        .given("10.0.0.5/32", "127.0.0.1/32");
    role.sql("CREATE ROLE walkeep");
    role.append("pg_hba", "hostssl replication", "/etc/postgresql/15/main/pg_hba.conf");
    host.run("install -d -o postgres -g postgres -m 0750 /etc/walkeep /var/lib/walkeep /srv/walkeep").ok();
    host.present_certificate("/etc/walkeep/ca.pem");
    host.write("/var/lib/postgresql/.pgpass", "db1.example.com:5432:*:walkeep:a secret of this test\n");
    host.run("chown postgres: /var/lib/postgresql/.pgpass; chmod 0600 /var/lib/postgresql/.pgpass").ok();
    // WAL comes by the stream alone, so the agent runs before the first backup.
    let mut page = host.walk("docs/base-backups.md", "From another host").given(
        "sudo -u postgres walkeep backup",
        "printf '[schedule]\\nmax_age = \"1h\"\\n' >>/etc/walkeep/walkeep.toml
         install -m 0644 deploy/systemd/walkeep-agent.service /etc/systemd/system/
         systemctl enable --now walkeep-agent
         sudo -u postgres walkeep status",
    );
    page.sql("GRANT EXECUTE");
    page.run("walkeep init");
    let scheduled = || host.run("sudo -u postgres walkeep list --json").ok().json()["backups"][0]["status"] == "ok";
    wait_until("the first scheduled backup", SOON, scheduled);
    host.run("sudo -u postgres walkeep backup").ok();
    assert!(!host.read("/etc/walkeep/walkeep.toml").contains("pgdata"));

    let before = a_table_is_lost(&host);
    wait_reachable(&host, &before);
    host.run(&format!(
        "sudo -u postgres walkeep-restore --repo /srv/walkeep --target-dir /var/lib/postgresql/15/copy --target-time '{before}'
         sudo -u postgres /usr/lib/postgresql/15/bin/pg_ctl start --wait --pgdata /var/lib/postgresql/15/copy --log /tmp/copy.log \
             --options '-c config_file=/etc/postgresql/15/main/postgresql.conf \
             -c data_directory=/var/lib/postgresql/15/copy -c port=5433 -c external_pid_file='"
    ))
    .ok();
    host.run("sudo -u postgres psql -p 5433 -XqAt -c 'select count(*) from orders'").ok().assert_says("1000");
}

/// With the statements of docs/base-backups.md the second backup over the wire is of what has changed.
#[test]
fn the_server_names_what_has_changed() {
    let cluster = Cluster::create(MajorVersion::V18);
    let statements = Page::only("docs/base-backups.md", "sql", "Only what has changed");
    statements.split_inclusive(';').filter(|sql| sql.ends_with(';')).for_each(|sql| cluster.sql(sql));
    wait_until("the setting", SOON, || cluster.query_one::<String>("show summarize_wal") == "on");
    let walkeep = Walkeep::set_up(&cluster);
    walkeep.backup(&["--source", "replication"]);
    let second = walkeep.backup(&["--source", "replication"]);
    assert_eq!(second["kind"], "incremental", "{second}");
}
