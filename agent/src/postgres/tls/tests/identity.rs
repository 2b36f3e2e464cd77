//! Our own certificate.

use super::*;

#[tokio::test]
async fn presents_our_certificate_when_there_is_one() {
    let ours = Authority::new("ours");
    let files = Files::new();
    let identity = ours.issue(&named(&["db.example"]));
    let client = ours.issue(&named(&["u"]));
    let certificate = files.write("client.crt", &client.pem);
    let key = files.write("client.key", &client.key.serialize_pem());
    let foreign_key = files.write("foreign.key", &identity.key.serialize_pem());
    let encrypted = files
        .write("encrypted.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let open = files.write_with_mode("open.key", &client.key.serialize_pem(), 0o644);
    let provider = Arc::new(ring::default_provider());
    let config = || {
        let mut roots = RootCertStore::empty();
        roots.add(ours.der.clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(identity.chain.clone(), identity.private_key())
            .unwrap()
    };
    for (text, accepted, part) in [
        (format!("sslcert={certificate} sslkey={key}"), true, ""),
        (String::new(), false, ""),
        (format!("sslcert={certificate} sslkey={key} sslcertmode=disable"), false, ""),
        // As in libpq: somebody else decides whether one is needed.
        (format!("sslcert=/nowhere/client.crt sslkey={key}"), false, ""),
        (format!("sslcert={certificate}"), false, "there is no key"),
        (format!("sslcert={certificate} sslkey=/nowhere/client.key"), false, "/nowhere/client.key"),
        (format!("sslcert={certificate} sslkey={foreign_key}"), false, "with its key"),
        (format!("sslcert={certificate} sslkey={encrypted}"), false, "is encrypted"),
        (format!("sslcert={certificate} sslkey={open}"), false, "0644"),
        (format!("sslcert={certificate} sslkey={certificate}"), false, "holds none in PEM"),
        (format!("sslcert={key} sslkey={key}"), false, "holds none in PEM"),
    ] {
        let outcome = connect(&format!("host=db.example sslmode=require {text}"), config()).await;
        assert_eq!(outcome.server.is_ok(), accepted, "{text}: {:?} {}", outcome.server, message(&outcome));
        assert!(message(&outcome).contains(part), "{text}: {}", message(&outcome));
    }
}

#[test]
fn keys_that_others_can_read_are_refused() {
    let files = Files::new();
    let key = KeyPair::generate().unwrap().serialize_pem();
    // Tests that run as root own what they write: a group may read root's keys.
    let group = rustix::process::geteuid().is_root();
    for (mode, accepted) in
        [(0o600, true), (0o400, true), (0o700, true), (0o640, group), (0o660, false), (0o604, false), (0o601, false)]
    {
        let path = files.write_with_mode(&format!("key{mode:o}"), &key, mode);
        let checked = files::check_permissions(Path::new(&path));
        assert_eq!(checked.is_ok(), accepted, "{mode:o}");
    }
    assert!(files::check_permissions(files.directory.path()).is_err());
}
