//! The alerts and the dashboard of `deploy/`, against what a running agent really tells.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use walkeep_pg_integration::cluster::free_port;
use walkeep_pg_integration::prometheus::get;
use walkeep_pg_integration::s3::{Kind, S3Server};
use walkeep_pg_integration::wait::{SOON, try_poll};
use walkeep_pg_integration::workload::pgbench_init;
use walkeep_pg_integration::{Cluster, MajorVersion, Prometheus, Walkeep, poll, scenario, wait_until};

use crate::s3::{BUCKET, URL, cluster, walkeep};
use crate::stream::{ARRIVES, streaming, wait_streaming};

/// A file of the repository's `deploy/`.
fn deployed(path: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path);
    path.canonicalize().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(deployed(path)).expect("a file of the repository")
}

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read("grafana/walkeep.json")).expect("a dashboard is JSON");
    dashboard["panels"].as_array().expect("a dashboard has panels").clone()
}

/// Every query of the dashboard, as Grafana sends it for all agents.
fn queries() -> Vec<String> {
    let targets = panels().into_iter().flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let expressions = targets.map(|target| target["expr"].as_str().expect("a target has a query").to_owned());
    expressions.map(|text| text.replace("$instance", ".*").replace("$__rate_interval", "1m")).collect()
}

/// The names of our metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("walkeep_")).collect()
}

/// The names of metrics that have a value in an exposition.
fn told(exposition: &str) -> BTreeSet<&str> {
    let samples = exposition.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.split(['{', ' ']).next()).collect()
}

/// An agent that has every metric to tell: a bucket as mirror, a schedule, a slot with a bound.
fn talkative(server: &S3Server, major: MajorVersion) -> (Cluster, Walkeep, SocketAddr) {
    server.create_bucket(BUCKET);
    let cluster = cluster(server, major);
    cluster.set("max_slot_wal_keep_size", "1GB");
    let walkeep = walkeep(&cluster, server, &server.url());
    walkeep.init(&["--mirror", URL, "--s3-endpoint", &server.url()]).ok();
    walkeep.configure("stream", "tail_interval", "200ms");
    walkeep.configure("schedule", "max_age", "30d");
    let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    walkeep.configure("metrics", "listen", metrics.to_string());
    (cluster, walkeep, metrics)
}

#[track_caller]
fn wait_alert(prometheus: &Prometheus, name: &str) {
    wait_until(&format!("the alert {name} to be pending"), SOON, || {
        prometheus.rules().iter().any(|rule| rule["name"] == name && rule["state"] == "pending")
    });
}

fn alerts_and_dashboard_know_what_the_agent_tells(major: MajorVersion) {
    let mut server = S3Server::start(Kind::S3s);
    let (mut cluster, walkeep, metrics) = talkative(&server, major);
    let prometheus = Prometheus::start(metrics, &deployed("prometheus/walkeep.rules.yml"));
    let agent = streaming(&walkeep);
    wait_until("the first backup", Duration::from_secs(120), || walkeep.backups().len() == 1);
    // Kinds of failures appear with the first one.
    cluster.restart();
    wait_streaming(&walkeep);

    let (rules, queries) = (read("prometheus/walkeep.rules.yml"), queries());
    let text = queries.join("\n");
    let used: BTreeSet<&str> = named(&rules).union(&named(&text)).copied().collect();
    assert!(used.len() > 20, "{used:?}");
    let missing =
        || used.difference(&told(&get(metrics, "/metrics"))).map(|name| (*name).to_owned()).collect::<Vec<_>>();
    if try_poll(ARRIVES, || missing().is_empty().then_some(())).is_none() {
        panic!("metrics that the agent does not tell: {:?}\n{}", missing(), get(metrics, "/metrics"));
    }

    for query in &queries {
        let has_data = || (!prometheus.query(query).is_empty()).then_some(());
        poll(&format!("data for {query}"), SOON, has_data);
    }
    let rules = poll("every rule to be evaluated", SOON, || {
        let rules = prometheus.rules();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(rules.len() > 15, "{rules:?}");
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "all is well: {rule}");
    }

    // A bucket that is away, and an agent that is: what is told of them reaches the alerts.
    server.stop();
    pgbench_init(&cluster, 1);
    wait_alert(&prometheus, "WalkeepMirrorFails");
    agent.kill9();
    wait_alert(&prometheus, "WalkeepAgentDown");
}
scenario!([V17], alerts_and_dashboard_know_what_the_agent_tells);

/// What Grafana would only show as a broken panel.
#[test]
fn the_dashboard_is_in_order() {
    let panels = panels();
    let ids: BTreeSet<u64> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "each panel has a number of its own");
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {panel}"));
        for (x, y) in
            (side("x")..side("x") + side("w")).flat_map(|x| (side("y")..side("y") + side("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && taken.insert((x, y)), "{} lies over another panel, or outside", panel["title"]);
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
        for target in panel["targets"].as_array().expect("a panel has queries") {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            let query = target["expr"].as_str().expect("a query");
            assert!(query.contains(r#"instance=~"$instance""#), "the choice of an agent is ignored: {query}");
            assert!(target["legendFormat"].as_str().is_some_and(|legend| legend.contains("{{instance}}")), "{target}");
        }
    }
}
