//! Several hosts in one connection string.

use walkeep_pg_integration::cluster::free_port;
use walkeep_pg_integration::{MajorVersion, StopMode, scenario, wait_until};

use super::super::ARRIVES;
use super::{Site, Tls, by_addresses};

/// Several hosts: those that are down or of another kind are passed over, and a failover is followed.
fn many_hosts(major: MajorVersion) {
    let mut site = Site::new(major);
    site.let_in("host", "scram-sha-256");
    site.cluster.stop(StopMode::Fast);
    let mut standby = site.cluster.copy();
    site.cluster.start();
    standby.follow(&site.cluster);
    standby.listen();
    standby.start();
    let (live, hosts) = (site.cluster.port(), by_addresses);
    let agent = site.agent(&hosts(&[free_port(), live], ""));
    agent.streams(&site.cluster, Tls);
    agent.ends();
    let both = [standby.port(), live];
    for wanted in ["primary", "read-write"] {
        let agent = site.agent(&hosts(&both, &format!("target_session_attrs={wanted}")));
        agent.streams(&site.cluster, Tls);
        agent.ends();
    }
    let agent = site.agent(&hosts(&both, ""));
    agent.told("standby", "the server is a standby");
    agent.ends();
    let agent = site.agent(&hosts(&[standby.port()], "target_session_attrs=primary"));
    agent.told("connection", "the server is a standby, a primary is wanted");
    agent.ends();

    let agent = site.agent(&hosts(&[live, standby.port()], "target_session_attrs=primary load_balance_hosts=random"));
    agent.streams(&site.cluster, Tls);
    site.cluster.sql("select pg_create_restore_point('the last')");
    standby.wait_caught_up(&site.cluster);
    site.cluster.kill9();
    standby.promote();
    wait_until("timeline 2", ARRIVES, || agent.status()["timeline"] == 2);
    agent.streams(&standby, Tls);
    assert_eq!(agent.status()["gaps"], serde_json::json!([]));
    agent.ends();
}
scenario!([V13, V16, V18], many_hosts);

fn hosts_passed_over_are_told_once(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("host", "scram-sha-256");
    let dead = free_port();
    let agent = site.agent(&by_addresses(&[dead, site.cluster.port()], ""));
    agent.streams_again(&site.cluster, Tls);
    agent.assert_nothing_repeated();
    let log = agent.ends();
    assert!(log.contains(&format!("unable to connect to '127.0.0.1' port {dead}")), "{log}");
}
scenario!([V17], hosts_passed_over_are_told_once);

/// In whatever order they are tried, it is the same failure.
fn hosts_in_random_order_fail_once(major: MajorVersion) {
    let site = Site::new(major);
    let agent = site.agent(&by_addresses(&[free_port(), free_port(), free_port()], "load_balance_hosts=random"));
    agent.told("connection", "Connection refused");
    wait_until("some more attempts", ARRIVES, || agent.failures("connection") >= 6);
    agent.assert_told_once("Connection refused");
    agent.ends();
}
scenario!([V17], hosts_in_random_order_fail_once);
