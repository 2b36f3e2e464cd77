//! Encryption: every sslmode, what certificates must be, and TLS from the first byte on.

use walkeep_pg_integration::tls::{Authority, Signature, Subject};
use walkeep_pg_integration::user::write_file;
use walkeep_pg_integration::{MajorVersion, scenario};

use super::{Plain, Site, Tls};

/// Each sslmode against servers that want TLS, do without, or have none.
fn each_sslmode_is_what_it_says(major: MajorVersion) {
    let site = Site::new(major);
    for (line, mode, channel) in [
        ("host", "disable", Plain),
        ("host", "allow", Plain),
        ("host", "prefer", Tls),
        ("host", "require", Tls),
        ("hostssl", "allow", Tls),
        ("hostssl", "prefer", Tls),
        ("hostnossl", "allow", Plain),
        ("hostnossl", "prefer", Plain),
    ] {
        site.let_in(line, "scram-sha-256");
        site.lets_in(&site.to(&format!("password=sesame sslmode={mode}")), channel);
    }
    site.let_in("hostssl", "scram-sha-256");
    site.lets_in(&site.to("password=sesame"), Tls);
    for mode in ["require", "verify-ca", "verify-full"] {
        site.lets_in(&site.to(&format!("password=sesame sslmode={mode} {}", site.roots())), Tls);
    }
    let entry = "no pg_hba.conf entry for replication connection";
    let agent = site.agent(&site.to("password=sesame sslmode=disable"));
    agent.told_until("refused", entry, &site.cluster, Plain, || site.let_in("host", "scram-sha-256"));
    site.let_in("hostnossl", "scram-sha-256");
    let agent = site.agent(&site.to("password=sesame sslmode=require"));
    agent.told_until("refused", entry, &site.cluster, Tls, || site.let_in("host", "scram-sha-256"));

    site.cluster.set("ssl", "off");
    for mode in ["allow", "prefer"] {
        site.lets_in(&site.to(&format!("password=sesame sslmode={mode}")), Plain);
    }
    for mode in ["require", "verify-full"] {
        site.cluster.set("ssl", "off");
        let agent = site.agent(&site.to(&format!("password=sesame sslmode={mode} {}", site.roots())));
        let says = "the server does not support TLS, which sslmode wants";
        agent.told_until("tls", says, &site.cluster, Tls, || site.cluster.set("ssl", "on"));
    }
}
scenario!([V13, V16, V18], each_sslmode_is_what_it_says);

/// Certificates that are not what they should be, until they are exchanged.
fn certificates_are_verified(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("hostssl", "trust");
    let cluster = &site.cluster;
    let here = || site.authority.issue(Subject::server(&["localhost", "127.0.0.1"]));
    let verified = |mode: &str| site.to(&format!("sslmode={mode} {}", site.roots()));
    let bad = [
        (site.authority.issue(Subject::server(&["elsewhere.example"])), "is not for 'localhost'"),
        (site.authority.issue(Subject::server(&["localhost"]).valid(2001, 2002)), "has expired"),
        (site.authority.issue(Subject::server(&["localhost"]).valid(3001, 3002)), "is not valid yet"),
        (Authority::new(Signature::Sha256).issue(Subject::server(&["localhost"])), "no trusted root has issued"),
        (site.authority.impostor().issue(Subject::server(&["localhost"])), "a signature is wrong"),
    ];
    for (certificate, says) in &bad {
        cluster.present(certificate);
        // Nothing was said about whom to trust.
        site.lets_in(&site.to("sslmode=require"), Tls);
        let agent = site.agent(&verified("verify-full"));
        agent.told_until("tls", says, cluster, Tls, || cluster.present(&here()));
    }
    for (certificate, says) in &bad[1..] {
        for mode in ["require", "verify-ca"] {
            cluster.present(certificate);
            let agent = site.agent(&verified(mode));
            agent.told_until("tls", says, cluster, Tls, || cluster.present(&here()));
        }
    }
    cluster.present(&bad[0].0);
    site.lets_in(&verified("verify-ca"), Tls);

    cluster.present(&here());
    let port = cluster.port();
    let by_address =
        format!("host=127.0.0.1 port={port} user=keeper dbname=postgres sslmode=verify-full {}", site.roots());
    site.lets_in(&by_address, Tls);
    let agent = site.agent(&by_address.replace("host=", "hostaddr="));
    agent.told("tls", "has no name to compare with its certificate");
    agent.ends();
    let path = site.walkeep.scratch().path().join("roots.crt");
    let agent = site.agent(&site.to(&format!("sslmode=verify-full sslrootcert={}", path.display())));
    let root = std::fs::read(site.authority.root()).expect("the authority has a certificate");
    agent.told_until("tls", "unable to use root certificate file", cluster, Tls, || write_file(&path, root));
}
scenario!([V13, V16, V18], certificates_are_verified);

/// TLS from the first byte on: 17 and later do it, and before that it is told why not.
fn direct_tls(major: MajorVersion) {
    let site = Site::new(major);
    site.let_in("hostssl", "scram-sha-256");
    let direct =
        format!("password=sesame sslnegotiation=direct channel_binding=require sslmode=verify-full {}", site.roots());
    if major >= MajorVersion::V17 {
        site.lets_in(&site.to(&direct), Tls);
        site.lets_in(&site.to("password=sesame sslnegotiation=direct sslmode=require"), Tls);
        let bad = Authority::new(Signature::Sha256).issue(Subject::server(&["localhost"]));
        site.cluster.present(&bad);
        let mend = || site.cluster.present(&site.authority.issue(Subject::server(&["localhost"])));
        let says = "no trusted root has issued";
        site.agent(&site.to(&direct)).told_until("tls", says, &site.cluster, Tls, mend);
    } else {
        let agent = site.agent(&site.to(&direct));
        agent.told("tls", "unable to encrypt the connection to 'localhost'");
        agent.ends();
    }
}
scenario!([V13, V16, V17, V18], direct_tls);
