//! Who one is: every way to prove it, and what the server or we lack.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use walkeep_pg_integration::tls::Subject;
use walkeep_pg_integration::user::write_file;
use walkeep_pg_integration::{MajorVersion, scenario, wait_until};

use super::super::ARRIVES;
use super::{Plain, SECRET, Site, Tls};

/// Writes a password file with these permissions.
fn write_password_file(path: &Path, mode: u32) {
    write_file(path, "*:*:*:keeper:sesame\n");
    set_permissions(path, Permissions::from_mode(mode)).expect("own files can be closed");
}

/// Every way to say who one is, and every place where a password can be.
fn every_way_in(major: MajorVersion) {
    let site = Site::new(major);
    let (cluster, scratch) = (&site.cluster, site.walkeep.scratch().path());
    let (port, scram) = (cluster.port(), "scram-sha-256");
    site.let_in("host", scram);
    site.lets_in(&site.to("password=sesame sslmode=disable"), Plain);
    site.lets_in(&site.to("password=sesame channel_binding=disable require_auth=scram-sha-256"), Tls);
    site.lets_in(&format!("postgres://keeper:sesame@localhost:{port}/postgres?sslmode=require"), Tls);

    let passwords = scratch.join("passwords");
    write_file(&passwords, format!("# a comment\n*:1:*:*:wrong\nlocalhost:{port}:replication:keeper:sesame\n"));
    set_permissions(&passwords, Permissions::from_mode(0o600)).expect("own files can be closed");
    site.lets_in(&site.to(&format!("passfile={}", passwords.display())), Tls);
    site.lets_in_with(&site.to(""), &[("PGPASSFILE", passwords.to_str().expect("ASCII"))], Tls);
    site.lets_in_with(&site.to(""), &[("PGPASSWORD", "sesame")], Tls);
    let services = scratch.join("services");
    write_file(
        &services,
        format!("[other]\nport=1\n[main]\n{}\npassword=sesame\n", site.to("").trim().replace(' ', "\n")),
    );
    let services = services.to_str().expect("ASCII");
    site.lets_in_with("service=main sslmode=require", &[("PGSERVICEFILE", services)], Tls);
    site.lets_in_with("sslmode=disable", &[("PGSERVICEFILE", services), ("PGSERVICE", "main")], Plain);

    cluster.let_in(&["local all,replication keeper scram-sha-256"]);
    let sockets = cluster.conninfo().replace("user=postgres", "user=keeper");
    site.lets_in(&format!("{sockets} password=sesame sslmode=verify-full"), Plain);

    // What Unicode writes in several ways is one password (RFC 4013).
    cluster.sql("alter role keeper password 'sesame ﬁ\u{2168}'");
    site.let_in("host", scram);
    site.lets_in(&site.to("password='sesame fiIX'"), Tls);
    if major >= MajorVersion::V16 {
        cluster.sql("set scram_iterations = 200000; alter role keeper password 'sesame'");
        let stored = "select rolpassword like 'SCRAM-SHA-256$200000:%' from pg_authid where rolname = 'keeper'";
        assert_eq!(cluster.query_one::<String>(stored), "t");
        site.lets_in(&site.to("password=sesame channel_binding=require"), Tls);
    }
    cluster.sql("set password_encryption = 'md5'; alter role keeper password 'sesame'");
    for method in ["md5", "password"] {
        site.let_in("host", method);
        site.lets_in(&site.to("password=sesame"), Tls);
    }
    site.let_in("hostnossl", "md5");
    site.lets_in(&site.to("password=sesame require_auth=md5"), Plain);

    let (certificate, key) = site.authority.issue(Subject::client("keeper")).write(scratch, "keeper");
    cluster.set("ssl_ca_file", site.authority.root().to_str().expect("ASCII"));
    site.let_in("hostssl", "cert");
    let own = format!("sslcert={} sslkey={}", certificate.display(), key.display());
    site.lets_in(&site.to(&format!("sslmode=verify-full {} {own}", site.roots())), Tls);
}
scenario!([V13, V16, V18], every_way_in);

/// What the server has against us, until it has nothing any more.
fn refusals_are_told_and_mended(major: MajorVersion) {
    let site = Site::new(major);
    let cluster = &site.cluster;
    let all = || site.let_in("host", "scram-sha-256");
    all();
    let agent = site.agent(&site.to("password=sesame-not"));
    agent.told("refused", "password authentication failed for user \"keeper\"");
    let report = site.walkeep.run(&["check", "--json"]);
    assert!(!report.succeeded() && !report.to_string().contains(SECRET), "{report}");
    let mend = || cluster.sql("alter role keeper password 'sesame-not'");
    agent.told_until("refused", "password authentication failed for user \"keeper\"", cluster, Tls, mend);

    cluster.sql("alter role keeper noreplication password 'sesame'");
    let privilege =
        if major >= MajorVersion::V16 { "permission denied to start WAL sender" } else { "replication role" };
    let mend = || cluster.sql("alter role keeper replication");
    site.agent(&site.to("password=sesame")).told_until("refused", privilege, cluster, Tls, mend);

    cluster.sql("alter role keeper nologin");
    let mend = || cluster.sql("alter role keeper login");
    let says = "is not permitted to log in";
    site.agent(&site.to("password=sesame")).told_until("refused", says, cluster, Tls, mend);

    let conninfo = site.to("password=sesame").replace("user=keeper", "user=newcomer");
    cluster.let_in(&["host all,replication newcomer 127.0.0.1/32 scram-sha-256"]);
    let agent = site.agent(&conninfo);
    agent.told("refused", "password authentication failed for user \"newcomer\"");
    cluster.sql("create role newcomer login replication password 'sesame'");
    wait_until("WAL to come in", ARRIVES, || agent.status()["streaming"] == true);
    agent.ends();

    // `all` does not match a walsender.
    cluster.let_in(&["host all keeper 127.0.0.1/32 scram-sha-256"]);
    let agent = site.agent(&site.to("password=sesame sslmode=require"));
    let says = "no pg_hba.conf entry for replication connection";
    let report = site.walkeep.run(&["check", "--json"]);
    assert!(!report.succeeded(), "{report}");
    let findings = report.json()["findings"].as_array().expect("a list").clone();
    let is_entrance = |f: &Value| f["subject"] == "stream" && f["severity"] == "problem";
    let told = |f: &Value| f["text"].as_str().is_some_and(|text| text.contains(says));
    assert!(findings.iter().any(|f| is_entrance(f) && told(f)), "{report}");
    agent.told_until("refused", says, cluster, Tls, all);
}
scenario!([V13, V16, V18], refusals_are_told_and_mended);

/// What is missing on our own side can be brought while the agent runs.
fn what_is_missing_here_is_told_and_mended(major: MajorVersion) {
    let site = Site::new(major);
    let (cluster, scratch) = (&site.cluster, site.walkeep.scratch().path());
    site.let_in("host", "scram-sha-256");
    let none = "the server wants a password for user 'keeper', and none is given";
    let passwords = scratch.join("passwords");
    let agent = site.agent(&site.to(&format!("passfile={}", passwords.display())));
    agent.told_until("authentication", none, cluster, Tls, || {
        write_password_file(&passwords, 0o600);
    });
    let services = scratch.join("services");
    write_file(&services, "[other]\nport=1\n");
    let environment = [("PGSERVICEFILE", services.to_str().expect("ASCII"))];
    let agent = site.agent_with("service=main password=sesame", &environment);
    let section = format!("[main]\n{}\n", site.to("").trim().replace(' ', "\n"));
    let mend = || write_file(&services, section);
    agent.told_until("configuration", "unable to find service 'main'", cluster, Tls, mend);
}
scenario!([V13, V18], what_is_missing_here_is_told_and_mended);

/// A password file that others can read is as good as none.
fn an_open_password_file_is_told_once(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("host", "scram-sha-256");
    let passwords = site.walkeep.scratch().path().join("passwords");
    write_password_file(&passwords, 0o644);
    let agent = site.agent(&site.to(&format!("passfile={}", passwords.display())));
    let none = "the server wants a password for user 'keeper', and none is given";
    agent.told("authentication", none);
    assert!(agent.log().contains("its permissions are 0644, others could read it"), "{}", agent.log());
    agent.told_until("authentication", none, &site.cluster, Tls, || write_password_file(&passwords, 0o600));
}
scenario!([V17], an_open_password_file_is_told_once);

fn a_password_in_plain_text_is_told_once(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("hostnossl", "password");
    let agent = site.agent(&site.to("password=sesame"));
    agent.streams_again(&site.cluster, Plain);
    agent.assert_nothing_repeated();
    let log = agent.ends();
    assert!(log.contains("the password itself over a connection that is not encrypted"), "{log}");
}
scenario!([V17], a_password_in_plain_text_is_told_once);
