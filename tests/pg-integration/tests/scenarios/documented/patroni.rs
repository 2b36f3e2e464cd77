//! docs/patroni.md: two nodes of a real Patroni, whose store of decisions is its own Raft with a witness.

use std::fmt::Write;

use walkeep_pg_integration::documents::{Host, Page};
use walkeep_pg_integration::wait::SOON;
use walkeep_pg_integration::wait_until;

/// Asks the first node; `patronictl list` says the same, and takes half a second to start.
const ASK: &str = "exec 3<>/dev/tcp/127.0.0.1/8008; printf 'GET /cluster HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";
const TIME: &str = "2026-11-21 10:30:00+01";

/// What a reader adds to the page's configuration, of node 1 or 2: both run on one host here.
fn node(number: u16) -> String {
    let name = format!("db{number}");
    let (port, rest, raft) = (5431 + number, 8007 + number, 2221 + number);
    let mut text = Page::only("docs/patroni.md", "yaml", "The configuration")
        .replace("name: db1", &format!("name: {name}"))
        .replace("db1.example.com:5432", &format!("{name}.example.com:{port}"))
        .replace("/15/main", &format!("/15/{name}"))
        .replace("  dcs:\n", "  dcs:\n    loop_wait: 1\n    ttl: 20\n    retry_timeout: 3\n");
    let partners = (2222..2225).filter(|partner| *partner != raft).map(|partner| format!("'127.0.0.1:{partner}'"));
    let partners = partners.collect::<Vec<_>>().join(", ");
    write!(
        text,
        "  pgpass: /tmp/pgpass-{name}
  authentication:
    superuser: {{username: postgres, password: a}}
    replication: {{username: replicator, password: b}}
  parameters:
    unix_socket_directories: /var/run/postgresql
raft:
  data_dir: /var/lib/raft/{name}
  self_addr: 127.0.0.1:{raft}
  partner_addrs: [{partners}]
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
"
    )
    .expect("writing to a String cannot fail");
    text
}

/// Runs Patroni as a node, or its witness, in the background.
fn start(host: &Host, name: &str, command: &str) {
    let run = format!(
        "setsid sudo -u postgres {command} /etc/patroni/{name}.yml </dev/null >>/var/log/{name}.log 2>&1 &
         echo $! >/run/{name}.pid"
    );
    host.run(&run).ok();
}

/// Ends Patroni on a node, and its server with it.
fn stop(host: &Host, name: &str) {
    let pid = host.read(&format!("/run/{name}.pid"));
    host.run(&format!("kill -TERM {}; tail --pid={} -f /dev/null", pid.trim(), pid.trim())).ok();
}

/// Waits until Patroni lists both of these: a member's name, and its role.
fn wait_members(host: &Host, expected: &[(&str, &str)]) {
    wait_until(&format!("Patroni to list {expected:?}"), SOON, || {
        let answer = host.run(ASK).stdout;
        let Some((_, body)) = answer.split_once("\r\n\r\n") else { return false };
        let Ok(cluster) = serde_json::from_str::<serde_json::Value>(body) else { return false };
        let Some(members) = cluster["members"].as_array() else { return false };
        expected.iter().all(|(name, role)| {
            members.iter().any(|m| m["name"] == *name && m["role"] == *role && m["state"] == "running")
        })
    });
}

/// SQL on the node at a port.
fn sql(host: &Host, port: u16, statements: &str) -> String {
    let output = host.run(&format!("sudo -u postgres psql -p {port} -XqAt -c \"{statements}\"")).ok();
    output.stdout.trim().to_owned()
}

#[test]
fn two_nodes_of_patroni() {
    let host = Host::new();
    host.run(
        "install -d -o postgres -g postgres -m 0750 /etc/walkeep /var/lib/walkeep /srv/walkeep /etc/patroni /var/lib/raft \
             /var/lib/raft/db1 /var/lib/raft/db2 /var/lib/raft/witness
         echo '127.0.0.1 db2.example.com' >>/etc/hosts
         echo '*:*:*:postgres:a' >/var/lib/postgresql/.pgpass
         chown postgres: /var/lib/postgresql/.pgpass; chmod 0600 /var/lib/postgresql/.pgpass",
    )
    .ok();
    host.write("/etc/patroni/db1.yml", &node(1));
    host.write("/etc/patroni/db2.yml", &node(2));
    let witness = "raft: {data_dir: /var/lib/raft/witness, self_addr: '127.0.0.1:2224', \
                   partner_addrs: ['127.0.0.1:2222', '127.0.0.1:2223']}\n";
    host.write("/etc/patroni/witness.yml", witness);
    start(&host, "witness", "patroni_raft_controller");

    // The first node, and what it archives.
    start(&host, "db1", "patroni");
    wait_members(&host, &[("db1", "leader")]);
    let mut page = host.walk("docs/patroni.md", "The configuration").given("/15/main", "/15/db1");
    page.run("walkeep init").assert_says("PostgreSQL's settings are as they should be");
    sql(&host, 5432, "create table orders as select i from generate_series(1, 1000) i");

    // The second one comes from the repository, and archives when it is promoted.
    start(&host, "db2", "patroni");
    wait_members(&host, &[("db1", "leader"), ("db2", "replica")]);
    assert!(host.read("/var/log/db2.log").contains("replica has been created using walkeep"));
    wait_until("the replica to follow", SOON, || sql(&host, 5433, "select to_regclass('orders') is not null") == "t");
    assert_eq!(sql(&host, 5433, "select count(*), current_setting('archive_mode') from orders"), "1000|on");

    // The agent follows a switchover, and Patroni leaves its slot alone.
    let conninfo = Page::only("docs/patroni.md", "toml", "The agent")
        .replace("/15/main", "/15/db1")
        .replace(" user=", " port=5432,5433 user=");
    host.write("/etc/walkeep/walkeep.toml", &format!("{conninfo}\n[repository]\npath = \"/srv/walkeep\"\n"));
    host.run(
        "install -m 0644 deploy/systemd/walkeep-agent.service /etc/systemd/system/
         systemctl enable --now walkeep-agent",
    )
    .ok();
    let slot = "select count(*) from pg_replication_slots where slot_name = 'walkeep'";
    wait_until("the slot", SOON, || sql(&host, 5432, slot) == "1");
    host.run("patronictl -c /etc/patroni/db1.yml switchover --master db1 --candidate db2 --force main").ok();
    wait_members(&host, &[("db1", "replica"), ("db2", "leader")]);
    sql(&host, 5433, "insert into orders values (1001)");
    wait_until("the slot on the new primary", SOON, || sql(&host, 5433, slot) == "1");
    // Patroni looks for slots that it does not know when it has started a server; one that it drops, the agent makes anew.
    host.run("patronictl -c /etc/patroni/db1.yml restart main db2 --force").ok();
    wait_members(&host, &[("db1", "replica"), ("db2", "leader")]);
    let rounds = || host.read("/var/log/db2.log").matches("the leader with the lock").count();
    let seen = rounds();
    wait_until("Patroni to have looked at the slots", SOON, || rounds() > seen + 2);
    let log = host.read("/var/log/walkeep-agent.log");
    assert_eq!(log.matches("replication slot 'walkeep' is created").count(), 2, "{log}");

    // Back to a time before a mistake that was made on the new primary.
    let time =
        sql(&host, 5433, "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || 'Z'");
    sql(&host, 5433, "select pg_sleep(0.01)");
    sql(&host, 5433, "drop table orders");
    let look = format!("sudo -u postgres walkeep-restore --repo /srv/walkeep --target-time '{time}' --dry-run");
    wait_until("the target to be in the repository", SOON, || host.run(&look).succeeded());
    host.run("systemctl stop walkeep-agent").ok();
    stop(&host, "db1");
    stop(&host, "db2");
    host.run(
        "cd /var/lib/postgresql/15; mv db1 db1.before; mv db2 db2.before
         # The witness alone is no majority: the store of a cluster that is gone for good is emptied as a whole.
         kill $(cat /run/witness.pid); tail --pid=$(cat /run/witness.pid) -f /dev/null
         rm -r /var/lib/raft/*/*",
    )
    .ok();
    start(&host, "witness", "patroni_raft_controller");
    let method = Page::only("docs/patroni.md", "yaml", "The whole cluster, back to a time");
    assert!(method.contains(TIME));
    let method: String = method.lines().map(|line| format!("{}\n", &line[1..])).collect();
    let method = method.replace("/15/main", "/15/db1").replace(TIME, &time);
    host.write("/etc/patroni/db1.yml", &node(1).replace("bootstrap:\n", &format!("bootstrap:\n{method}")));
    start(&host, "db1", "patroni");
    wait_members(&host, &[("db1", "leader")]);
    let restored = "select count(*), current_setting('archive_mode'), pg_is_in_recovery() from orders";
    assert_eq!(sql(&host, 5432, restored), "1001|on|f");
    start(&host, "db2", "patroni");
    wait_members(&host, &[("db1", "leader"), ("db2", "replica")]);
    assert_eq!(sql(&host, 5433, restored), "1001|on|t");
}
