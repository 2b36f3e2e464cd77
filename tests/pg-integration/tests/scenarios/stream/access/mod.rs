//! Who gets in, and how: encryption, certificates, passwords, hosts. What does not work is told once, counted, tried again
//! without haste, and mended on the server's side: the agent is never restarted for that.

mod between;
mod encryption;
mod hosts;
mod passwords;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use walkeep_pg_integration::cluster::free_port;
use walkeep_pg_integration::tls::{Authority, Signature, Subject};
use walkeep_pg_integration::walkeep::Agent;
use walkeep_pg_integration::{Cluster, MajorVersion, Walkeep, wait_until};

use super::{ARRIVES, now, status, wait_stored, walkeep};

/// Part of every password, so that none is overlooked where it must not be.
const SECRET: &str = "sesame";

/// What `pg_stat_ssl` says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Plain,
    Tls,
}
use Channel::{Plain, Tls};

/// A server on TCP with a certificate for `localhost`, and a role `keeper` that may stream and not much else.
struct Site {
    cluster: Cluster,
    walkeep: Rc<Walkeep>,
    authority: Authority,
    metrics: u16,
}

impl Site {
    fn new(major: MajorVersion) -> Self {
        let options = Cluster::options(major).wal_segment_mb(1).setting("max_wal_size", "64MB");
        let mut cluster = options.setting("password_encryption", "scram-sha-256").initdb();
        cluster.listen();
        cluster.start();
        cluster.sql("create role keeper login replication password 'sesame' in role pg_monitor");
        let authority = Authority::new(Signature::Sha256);
        cluster.present(&authority.issue(Subject::server(&["localhost"])));
        let walkeep = Rc::new(walkeep(&cluster));
        let metrics = free_port();
        walkeep.configure("metrics", "listen", format!("127.0.0.1:{metrics}"));
        Self { cluster, walkeep, authority, metrics }
    }

    /// A connection string for the server's port.
    fn to(&self, more: &str) -> String {
        self.to_port(self.cluster.port(), more)
    }

    fn to_port(&self, port: u16, more: &str) -> String {
        format!("host=localhost hostaddr=127.0.0.1 port={port} user=keeper dbname=postgres {more}")
    }

    /// `sslrootcert`: the authority that the server's certificate is from.
    fn roots(&self) -> String {
        format!("sslrootcert={}", self.authority.root().display())
    }

    /// Lets `keeper` in over TCP, for WAL and for SQL.
    #[track_caller]
    fn let_in(&self, connection: &str, method: &str) {
        self.cluster.let_in(&[&format!("{connection} all,replication keeper 127.0.0.1/32 {method}")]);
    }

    fn agent(&self, conninfo: &str) -> Watched {
        self.agent_with(conninfo, &[])
    }

    fn agent_with(&self, conninfo: &str, environment: &[(&str, &str)]) -> Watched {
        eprintln!("case: {conninfo} {environment:?}");
        self.walkeep.configure("cluster", "conninfo", conninfo);
        let log = self.walkeep.scratch().path().join("agent.log");
        let log_begins = std::fs::metadata(&log).map_or(0, |metadata| metadata.len());
        let mut command = self.walkeep.command(&["agent"]);
        command.envs(environment.iter().copied());
        let begun = Instant::now();
        let mut agent = Agent::run(&self.walkeep, command);
        agent.wait_ready(&self.walkeep);
        Watched { walkeep: Rc::clone(&self.walkeep), agent, begun, log, log_begins, metrics: self.metrics }
    }

    /// The stream and the slot's session come through, and nothing needs to be said about it.
    #[track_caller]
    fn lets_in(&self, conninfo: &str, channel: Channel) {
        self.lets_in_with(conninfo, &[], channel);
    }

    #[track_caller]
    fn lets_in_with(&self, conninfo: &str, environment: &[(&str, &str)], channel: Channel) {
        let agent = self.agent_with(conninfo, environment);
        agent.streams(&self.cluster, channel);
        wait_until("the slot to be looked after", ARRIVES, || agent.status()["slot"]["name"] == "walkeep");
        assert_eq!(agent.status()["slot"]["error"], Value::Null);
        let said = agent.ends();
        assert!(said.is_empty(), "{said}");
    }
}

/// A connection string with several hosts.
fn by_addresses(ports: &[u16], more: &str) -> String {
    let names = vec!["127.0.0.1"; ports.len()].join(",");
    let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    format!("host={names} port={ports} user=keeper dbname=postgres password=sesame {more}")
}

/// An agent, how often it tries, and what it says.
struct Watched {
    walkeep: Rc<Walkeep>,
    agent: Agent,
    begun: Instant,
    log: PathBuf,
    log_begins: u64,
    metrics: u16,
}

impl Watched {
    fn status(&self) -> Value {
        status(&self.walkeep)
    }

    /// How often the stream failed in this way since the agent started.
    fn failures(&self, kind: &str) -> u64 {
        self.status()["errors"][kind].as_u64().unwrap_or_default()
    }

    /// The same as a monitoring system is told.
    fn counter(&self, kind: &str) -> u64 {
        let name = format!("walkeep_stream_errors_total{{kind=\"{kind}\"}}");
        self.metric(&name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// What a monitoring system is told; none while there is no such value.
    fn metric<T: FromStr>(&self, name: &str) -> Option<T> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).expect("the agent listens");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// What this agent has logged.
    fn log(&self) -> String {
        let text = std::fs::read(&self.log).expect("the log is there");
        String::from_utf8_lossy(&text[self.log_begins as usize..]).into_owned()
    }

    /// WAL comes in from this server, over such a channel.
    #[track_caller]
    fn streams(&self, cluster: &Cluster, channel: Channel) {
        wait_until("WAL to come in", ARRIVES, || self.status()["streaming"] == true);
        assert_eq!(self.status()["error"], Value::Null);
        cluster.sql("select pg_create_restore_point('here')");
        wait_stored(&self.walkeep, now(cluster));
        self.wait_times();
        let encrypted = if channel == Tls { "t" } else { "f" };
        let query = "select ssl from pg_stat_replication join pg_stat_ssl using (pid) where usename = 'keeper'";
        wait_until(&format!("a stream that is {channel:?}"), ARRIVES, || {
            cluster.query(query) == [[Some(encrypted.to_owned())]]
        });
    }

    /// When WAL came in is told, and it was while this agent ran.
    #[track_caller]
    fn wait_times(&self) {
        let begun = SystemTime::now() - self.begun.elapsed();
        let begun = begun.duration_since(UNIX_EPOCH).expect("the clock is right").as_secs_f64();
        for position in ["received", "flushed", "stored"] {
            let name = format!("walkeep_stream_{position}_time_seconds");
            wait_until(&name, ARRIVES, || self.metric::<f64>(&name).is_some_and(|time| time >= begun));
        }
    }

    /// The same, whenever the server has ended the stream.
    #[track_caller]
    fn streams_again(&self, cluster: &Cluster, channel: Channel) {
        for _ in 0..3 {
            self.streams(cluster, channel);
            let before = self.failures("connection");
            cluster.sql("select pg_terminate_backend(pid) from pg_stat_replication where usename = 'keeper'");
            wait_until("the end to be noticed", ARRIVES, || self.failures("connection") > before);
        }
        self.streams(cluster, channel);
    }

    /// The stream does not come in, and this is why.
    #[track_caller]
    fn told(&self, kind: &str, says: &str) {
        wait_until(&format!("'{says}' to be told"), ARRIVES, || {
            self.status()["error"].as_str().is_some_and(|error| error.contains(says))
        });
        let first = self.failures(kind);
        assert!(first > 0, "no error of kind {kind} in {}", self.status());
        wait_until("another attempt", ARRIVES, || self.counter(kind) > first);
        // Nothing is asked of how fast it is, only that pauses are made: 200 ms and longer.
        let (attempts, time) = (self.failures(kind), self.begun.elapsed());
        let least = Duration::from_millis(200) * u32::try_from(attempts - 1).expect("few");
        assert!(time >= least, "{attempts} attempts in {time:?}");
        self.assert_told_once(says);
        self.walkeep.run(&["status"]).assert_says(says);
        assert!(!self.status().to_string().contains(SECRET), "{}", self.status());
    }

    #[track_caller]
    fn assert_told_once(&self, says: &str) {
        let log = self.log();
        // The slot is looked after by another session, which another line of pg_hba.conf lets in.
        let said = log.lines().filter(|line| line.contains(says));
        let (slot, stream): (Vec<&str>, Vec<&str>) = said.partition(|line| line.contains("slot 'walkeep'"));
        assert!(stream.len() == 1 && slot.len() <= 1, "'{says}' in\n{log}");
    }

    /// [`Watched::told`], then `mend`, and the stream comes in.
    #[track_caller]
    fn told_until(self, kind: &str, says: &str, cluster: &Cluster, channel: Channel, mend: impl FnOnce()) {
        self.told(kind, says);
        mend();
        self.streams(cluster, channel);
        self.assert_told_once(says);
        self.assert_nothing_repeated();
        self.ends();
    }

    /// No line was logged twice, nor the same cause for the stream and for the slot.
    #[track_caller]
    fn assert_nothing_repeated(&self) {
        let log = self.log();
        let cause =
            |line| ["unable to connect to ", "unable to find service"].iter().find_map(|part| str::find(line, part));
        let mut lines: Vec<&str> = log.lines().map(|line| &line[cause(line).unwrap_or(0)..]).collect();
        lines.sort_unstable();
        let repeated = lines.windows(2).find(|pair| pair[0] == pair[1]);
        assert!(repeated.is_none(), "said again and again: {repeated:?}\n{log}");
    }

    /// Stops it. Returns its log, which holds no secret.
    #[track_caller]
    fn ends(mut self) -> String {
        assert!(self.agent.is_running(), "the agent ended:\n{}", self.log());
        let log = self.log();
        eprintln!("{log}");
        assert!(!log.contains(SECRET), "{log}");
        assert!(self.agent.stop().success());
        log
    }
}
