//! Which certificates of servers are accepted.

use super::*;

#[tokio::test]
async fn each_mode_accepts_and_refuses_what_it_should() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    // Somebody who calls itself like ours and is not.
    let impostor = Authority::new("ours");
    let files = Files::new();
    let root = files.write("root.crt", &ours.pem);
    let servers = [
        ("right", ours.issue(&named(&["db.example"]))),
        ("wrong name", ours.issue(&named(&["db2.example", "10.0.0.9"]))),
        ("unknown root", other.issue(&named(&["db.example"]))),
        ("impostor", impostor.issue(&named(&["db.example"]))),
        ("unknown root and wrong name", other.issue(&named(&["db2.example"]))),
        ("expired", ours.issue(&expired(&["db.example"]))),
        ("expired and wrong name", ours.issue(&expired(&["db2.example"]))),
    ];
    let chain_accepts = ["right", "wrong name"].as_slice();
    let everything: Vec<&str> = servers.iter().map(|(name, _)| *name).collect();
    for (settings, accepted) in [
        ("sslmode=allow", everything.as_slice()),
        ("sslmode=prefer", &everything),
        ("sslmode=require", &everything),
        (&format!("sslmode=prefer sslrootcert={root}"), chain_accepts),
        (&format!("sslmode=require sslrootcert={root}"), chain_accepts),
        (&format!("sslmode=verify-ca sslrootcert={root}"), chain_accepts),
        (&format!("sslmode=verify-full sslrootcert={root}"), &["right"]),
    ] {
        for versions in [[&TLS12].as_slice(), &[&TLS13]] {
            for (name, identity) in &servers {
                let text = format!("host=db.example {settings}");
                let outcome = connect(&text, server_of_versions(identity, versions)).await;
                let what = format!("{settings} {name}: {}", message(&outcome));
                assert_eq!(outcome.client.is_ok(), accepted.contains(name), "{what}");
                assert_eq!(outcome.server.is_ok(), accepted.contains(name), "{what}");
                if let Err(error) = &outcome.client {
                    assert!(error.is_verification_failure() && error.hint().is_some(), "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn messages_say_what_is_wrong() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let files = Files::new();
    let text = format!("host=db.example sslmode=verify-full sslrootcert={}", files.write("root.crt", &ours.pem));
    for (identity, parts) in [
        (self_signed(named(&["db.example"])), ["'db.example' port 5432", "one of an issuer", "not among the trusted"]),
        (
            ours.issue(&named(&["db2.example"])),
            ["'db.example' port 5432", "not for 'db.example', it bears", "db2.example"],
        ),
        // The common name is right, and does not count.
        (ours.issue(&named(&[])), ["'db.example' port 5432", "not for 'db.example'", "no subject alternative name"]),
        (other.issue(&named(&["db.example"])), ["'db.example' port 5432", "no trusted root", "sslmode=verify-full"]),
        (ours.issue(&expired(&["db.example"])), ["'db.example' port 5432", "certificate", "has expired"]),
    ] {
        let outcome = connect(&text, server(&identity)).await;
        let message = message(&outcome);
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[tokio::test]
async fn names_may_be_addresses_or_patterns() {
    let ours = Authority::new("ours");
    let files = Files::new();
    let root = files.write("root.crt", &ours.pem);
    let mut addresses = named(&["*.db.example"]);
    for address in ["10.0.0.9", "::1"] {
        addresses.subject_alt_names.push(SanType::IpAddress(address.parse::<IpAddr>().unwrap()));
    }
    let identity = ours.issue(&addresses);
    for (host, accepted, told) in [
        ("host=10.0.0.9", true, None),
        ("host=::1", true, None),
        ("host=10.0.0.8", false, None),
        ("host=one.db.example", true, Some("one.db.example")),
        ("host=db.example", false, None),
        ("host=a.one.db.example", false, None),
        // The name is what counts, wherever the socket leads.
        ("host=one.db.example hostaddr=10.0.0.8", true, Some("one.db.example")),
        ("host=one.db.example sslsni=0", true, None),
    ] {
        let outcome = connect(&format!("{host} sslmode=verify-full sslrootcert={root}"), server(&identity)).await;
        assert_eq!(outcome.client.is_ok(), accepted, "{host}: {}", message(&outcome));
        if accepted {
            assert_eq!(outcome.server.unwrap().as_deref(), told, "{host}");
        }
    }
    // Without a name nothing can be compared; the lesser modes do not need one.
    for (text, part) in [("hostaddr=10.0.0.9", "has no name"), ("host='no name'", "no certificate can bear")] {
        let outcome = connect(&format!("{text} sslmode=verify-full sslrootcert={root}"), server(&identity)).await;
        assert!(message(&outcome).contains(part), "{}", message(&outcome));
        let outcome = connect(&format!("{text} sslmode=verify-ca sslrootcert={root}"), server(&identity)).await;
        assert!(outcome.client.is_ok(), "{}", message(&outcome));
    }
}

#[tokio::test]
async fn a_server_may_present_a_root_itself() {
    let files = Files::new();
    let identity = self_signed(named(&["db.example"]));
    let old = self_signed(expired(&["db.example"]));
    let other = self_signed(named(&["db.example"]));
    let root = files.write("root.crt", &format!("{}{}", identity.pem, old.pem));
    for (mode, host, identity, accepted) in [
        ("verify-ca", "db.example", &identity, true),
        ("verify-full", "db.example", &identity, true),
        ("verify-ca", "db2.example", &identity, true),
        ("verify-full", "db2.example", &identity, false),
        ("verify-ca", "db.example", &old, false),
        ("verify-ca", "db.example", &other, false),
    ] {
        let outcome = connect(&format!("host={host} sslmode={mode} sslrootcert={root}"), server(identity)).await;
        assert_eq!(outcome.client.is_ok(), accepted, "{mode} {host}: {}", message(&outcome));
    }
}

#[tokio::test]
async fn certificates_of_version_1_are_used_where_nothing_is_verified() {
    let files = Files::new();
    let text = include_str!("../fixtures/version-1.pem");
    let root = files.write("root.crt", text);
    let other = files.write("other.crt", &Authority::new("other").pem);
    let identity = Identity {
        chain: vec![CertificateDer::from_pem_slice(text.as_bytes()).unwrap()],
        pem: text.to_owned(),
        key: KeyPair::from_pem(text.split_inclusive("-----END CERTIFICATE-----\n").nth(1).unwrap()).unwrap(),
    };
    for (settings, part) in [
        ("sslmode=require".to_owned(), ""),
        // It is trusted itself, so there is no chain to verify.
        (format!("sslmode=verify-ca sslrootcert={root}"), ""),
        (format!("sslmode=verify-full sslrootcert={root}"), "version 1"),
        (format!("sslmode=verify-ca sslrootcert={other}"), "version 1"),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(), "version 1"),
    ] {
        let config = server_of_key(&identity, &[&TLS12, &TLS13]);
        let outcome = connect(&format!("host=db.example {settings}"), config).await;
        assert_eq!(outcome.client.is_ok(), part.is_empty(), "{settings}: {}", message(&outcome));
        assert!(message(&outcome).contains(part), "{settings}: {}", message(&outcome));
    }
}

#[tokio::test]
async fn intermediate_certificates_come_from_the_server() {
    let ours = Authority::new("ours");
    let files = Files::new();
    let root = files.write("root.crt", &ours.pem);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "between");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.signed_by(&key, &ours.issuer).unwrap();
    let between =
        Authority { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) };
    let mut identity = between.issue(&named(&["db.example"]));
    let text = format!("host=db.example sslmode=verify-full sslrootcert={root}");
    assert!(connect(&text, server(&identity)).await.client.is_err());
    identity.chain.push(between.der);
    let outcome = connect(&text, server(&identity)).await;
    assert!(outcome.client.is_ok(), "{}", message(&outcome));
}

#[tokio::test]
async fn root_certificates_must_be_there_and_readable() {
    let ours = Authority::new("ours");
    let identity = ours.issue(&named(&["db.example"]));
    let files = Files::new();
    let empty = files.write("empty.crt", "");
    let broken = files.write("broken.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    for (text, part) in [
        ("sslmode=verify-ca", "no sslrootcert"),
        ("sslmode=verify-full sslrootcert=/nowhere/root.crt", "/nowhere/root.crt"),
        // libpq would not verify at all.
        ("sslmode=require sslrootcert=/nowhere/root.crt", "/nowhere/root.crt"),
        (&format!("sslmode=require sslrootcert={empty}"), "holds none in PEM"),
        (&format!("sslmode=require sslrootcert={broken}"), "unable to understand any"),
    ] {
        let outcome = connect(&format!("host=db.example {text}"), server(&identity)).await;
        assert!(message(&outcome).contains(part), "{text}: {}", message(&outcome));
        assert!(outcome.client.is_err_and(|error| !error.is_verification_failure()), "{text}");
    }
}

#[tokio::test]
async fn system_roots_do_not_trust_everybody() {
    let identity = Authority::new("ours").issue(&named(&["db.example"]));
    let outcome = connect("host=db.example sslrootcert=system", server(&identity)).await;
    // Where the machine has no certificates at all, that is said instead.
    assert!(outcome.client.is_err());
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let (ours, other) = (Authority::new("ours"), Authority::new("other"));
    let files = Files::new();
    let root = files.write("root.crt", &ours.pem);
    let with_serial = |serial: u64| {
        let mut params = named(&["db.example"]);
        params.serial_number = Some(SerialNumber::from(serial));
        ours.issue(&params)
    };
    let (good, bad) = (with_serial(7), with_serial(8));
    let list = files.write("list.crl", &ours.revoke(8, 2100));
    let old = files.write("old.crl", &ours.revoke(8, 2021));
    let foreign = files.write("foreign.crl", &other.revoke(9, 2100));
    for (mode, list, identity, part) in [
        ("verify-full", &list, &good, ""),
        ("verify-ca", &list, &good, ""),
        ("verify-full", &list, &bad, "revoked"),
        ("verify-ca", &list, &bad, "revoked"),
        ("verify-full", &old, &good, "list in sslcrl has expired"),
        ("verify-full", &foreign, &good, "no revocation list speaks"),
        ("verify-full", &root, &good, "holds none in PEM"),
        ("verify-full", &"/nowhere/list".to_owned(), &good, "/nowhere/list"),
    ] {
        let text = format!("host=db.example sslmode={mode} sslrootcert={root} sslcrl={list}");
        let outcome = connect(&text, server(identity)).await;
        assert_eq!(outcome.client.is_ok(), part.is_empty(), "{list}: {}", message(&outcome));
        assert!(message(&outcome).contains(part), "{list}: {}", message(&outcome));
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_in_every_mode() {
    let ours = Authority::new("ours");
    let files = Files::new();
    let root = files.write("root.crt", &ours.pem);
    let (victim, thief) = (ours.issue(&named(&["db.example"])), ours.issue(&named(&["thief.example"])));
    let thief = Identity { chain: victim.chain, ..thief };
    for version in [&TLS12, &TLS13] {
        for settings in ["sslmode=require", "sslmode=prefer", &format!("sslmode=verify-full sslrootcert={root}")] {
            let config = server_of_key(&thief, &[version]);
            let outcome = connect(&format!("host=db.example {settings}"), config).await;
            assert!(outcome.client.is_err(), "{settings}");
            assert!(message(&outcome).contains("a signature is wrong"), "{}", message(&outcome));
        }
    }
}
