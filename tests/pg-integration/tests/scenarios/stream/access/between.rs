//! Somebody between the agent and the server: he is not believed, and a session can be bound so that he cannot be there.

use walkeep_pg_integration::cluster::free_port;
use walkeep_pg_integration::faults::{Meddling, Relay};
use walkeep_pg_integration::tls::{Authority, Signature, Subject};
use walkeep_pg_integration::{MajorVersion, scenario, wait_until};

use super::{ARRIVES, Plain, Site, Tls};

/// `channel_binding=require` holds against servers that cannot bind, and against whoever stands in between.
fn a_session_is_bound_to_its_channel(major: MajorVersion) {
    let site = Site::new(major);
    let cluster = &site.cluster;
    let bound = site.to("password=sesame sslmode=require channel_binding=require");
    let scram = || {
        cluster.sql("set password_encryption = 'scram-sha-256'; alter role keeper password 'sesame'");
        site.let_in("hostssl", "scram-sha-256");
    };
    scram();
    for signature in [Signature::Sha384, Signature::Sha256] {
        cluster.present(&Authority::new(signature).issue(Subject::server(&["localhost"])));
        site.lets_in(&bound, Tls);
    }
    let usual = || cluster.present(&site.authority.issue(Subject::server(&["localhost"])));
    cluster.present(&Authority::new(Signature::Ed25519).issue(Subject::server(&["localhost"])));
    site.lets_in(&site.to("password=sesame sslmode=require"), Tls);
    site.agent(&bound).told_until("authentication", "has no hash that channel_binding could use", cluster, Tls, usual);

    cluster.sql("set password_encryption = 'md5'; alter role keeper password 'sesame'");
    for (method, asked) in [
        ("md5", "asked for the password's MD5 hash, which cannot be bound"),
        ("password", "asked for the password itself, which cannot be bound"),
        ("trust", "let us in without authentication, which cannot be bound"),
    ] {
        cluster.sql("set password_encryption = 'md5'; alter role keeper password 'sesame'");
        site.let_in("hostssl", method);
        site.agent(&bound).told_until("authentication", asked, cluster, Tls, scram);
    }
    site.let_in("host", "scram-sha-256");
    let agent = site.agent(&bound.replace("sslmode=require", "sslmode=disable"));
    agent.told("authentication", "channel_binding=require needs TLS");
    agent.ends();

    // Somebody who does TLS himself, as a pooler does: in plain text onward, with TLS onward, and hiding what he cannot do.
    let relay = Relay::before(cluster);
    let own = Authority::new(Signature::Sha256).issue(Subject::server(&["localhost"])).acceptor();
    let pooler = |encrypts: bool, hides_binding| Meddling::EndsTls {
        own: own.clone(),
        onward: encrypts.then(|| site.authority.connector()),
        hides_binding,
    };
    let passes = || relay.meddle(Meddling::Nothing);
    let through = site.to_port(relay.port(), "password=sesame sslmode=require");
    relay.meddle(pooler(false, false));
    site.lets_in(&through, Plain);
    let agent = site.agent(&format!("{through} channel_binding=require"));
    agent.told_until("authentication", "the server does not offer channel binding", cluster, Tls, passes);
    for binding in ["prefer", "require"] {
        relay.meddle(pooler(true, false));
        let agent = site.agent(&format!("{through} channel_binding={binding}"));
        agent.told_until("refused", "SCRAM channel binding check failed", cluster, Tls, passes);
    }
    relay.meddle(pooler(true, true));
    let agent = site.agent(&through);
    agent.told_until("refused", "SCRAM channel binding negotiation error", cluster, Tls, passes);
    relay.meddle(pooler(true, false));
    site.lets_in(&format!("{through} channel_binding=disable"), Tls);
}
scenario!([V13, V16, V18], a_session_is_bound_to_its_channel);

/// Somebody in between who speaks for the server, or lets nobody through.
fn nobody_in_between_is_believed(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("host", "scram-sha-256");
    let relay = Relay::before(&site.cluster);
    let through = |more: &str| site.to_port(relay.port(), &format!("password=sesame connect_timeout=2 {more}"));
    let passes = || relay.meddle(Meddling::Nothing);
    let verified = through(&format!("sslmode=verify-full {}", site.roots()));
    // AuthenticationOk and ReadyForQuery: taken for the server's, they would let us believe that we are in.
    let injected = b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I";
    for conninfo in [&verified, &through("sslmode=require")] {
        relay.meddle(Meddling::Injects(injected));
        let agent = site.agent(conninfo);
        agent.told_until("tls", "the answer is no TLS", &site.cluster, Tls, passes);
    }
    for (kind, meddling, says) in [
        ("tls", Meddling::Says(b"N"), "the server does not support TLS, which sslmode wants (hint: set ssl = on"),
        ("connection", Meddling::Says(b"ESFATAL\0MI am sesame\0\0"), "answered the request for TLS with an error"),
        ("connection", Meddling::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "this is no PostgreSQL server"),
        ("connection", Meddling::Says(b""), "the server did not answer whether it supports TLS"),
        ("connection", Meddling::Silent, "no session within 2 s (connect_timeout)"),
    ] {
        relay.meddle(meddling);
        site.agent(&verified).told_until(kind, says, &site.cluster, Tls, passes);
    }
    let before = relay.connections();
    site.lets_in(&verified, Tls);
    assert!(relay.connections() >= before + 2, "the stream and the slot's session go through it");

    let agent =
        site.agent(&site.to("password=sesame").replace("host=localhost hostaddr=127.0.0.1", "host=nowhere.invalid"));
    agent.told("connection", "unable to find the host's address");
    agent.ends();
    let port = free_port();
    let mut late = None;
    let agent = site.agent(&site.to_port(port, "password=sesame"));
    let mend = || late = Some(Relay::at(port, &site.cluster));
    agent.told_until("connection", "Connection refused", &site.cluster, Tls, mend);
}
scenario!([V13, V16, V18], nobody_in_between_is_believed);

/// What listens says nothing, and there is no `connect_timeout`: the agent ends when it is told to, whatever it waits for.
fn a_silent_server_is_left(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("host", "scram-sha-256");
    let relay = Relay::before(&site.cluster);
    relay.meddle(Meddling::Silent);
    let agent = site.agent(&site.to_port(relay.port(), "password=sesame connect_timeout=0"));
    wait_until("the slot's session and the stream to wait", ARRIVES, || relay.connections() >= 2);
    assert_eq!(agent.status()["streaming"], false);
    let said = agent.ends();
    assert!(said.is_empty(), "{said}");
}
scenario!([V17], a_silent_server_is_left);
