//! The client against servers of this process with certificates made for each test.

mod identity;
mod verification;

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::*;
use crate::postgres::conninfo::{Conninfo, Environment};

/// Somebody who issues certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    fn issue(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }

    /// The list of revoked certificates, valid until this year.
    fn revoke(&self, serial: u64, until: i32) -> String {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A certificate with its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    pem: String,
    key: KeyPair,
}

impl Identity {
    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

fn named(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, "db.example");
    params
}

fn expired(names: &[&str]) -> CertificateParams {
    let mut params = named(names);
    params.not_before = date_time_ymd(2019, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 1);
    params
}

/// A self-signed certificate that also says it is an issuer, as `openssl req -x509` makes it.
fn self_signed(mut params: CertificateParams) -> Identity {
    let key = KeyPair::generate().unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).unwrap();
    Identity { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
}

fn server(identity: &Identity) -> ServerConfig {
    server_of_versions(identity, &[&TLS12, &TLS13])
}

fn server_of_versions(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.private_key())
        .unwrap();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config
}

/// Presents a certificate whether or not its key fits.
#[derive(Debug)]
struct Presented(Arc<CertifiedKey>);

impl ResolvesServerCert for Presented {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn server_of_key(identity: &Identity, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let key = ring::sign::any_supported_type(&identity.private_key()).unwrap();
    let presented = Presented(Arc::new(CertifiedKey::new(identity.chain.clone(), key)));
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(presented))
}

/// What both ends made of a connection.
struct Outcome {
    client: Result<TlsStream<DuplexStream>, TlsError>,
    /// The name that the server was told, or its error.
    server: Result<Option<String>, String>,
}

/// Connects and sends a byte each way.
async fn connect(text: &str, config: ServerConfig) -> Outcome {
    let environment = Environment::default().with_user("u");
    let conninfo = Conninfo::resolve_in(text, &environment).unwrap();
    let (near, far) = tokio::io::duplex(1 << 14);
    let serve = async move {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(far).await.map_err(|e| e.to_string())?;
        let name = stream.get_ref().1.server_name().map(str::to_owned);
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map_err(|e| e.to_string())?;
        stream.write_all(&byte).await.map_err(|e| e.to_string())?;
        stream.flush().await.map_err(|e| e.to_string())?;
        Ok(name)
    };
    let ask = async {
        let mut stream = upgrade(near, &conninfo.hosts[0], &conninfo.tls).await?;
        // With TLS 1.3 the server refuses our certificate after our handshake is over.
        let mut byte = [7];
        let exchanged = async {
            stream.write_all(&byte).await?;
            stream.flush().await?;
            stream.read_exact(&mut byte).await
        };
        let _ = exchanged.await;
        Ok(stream)
    };
    let (client, server) = tokio::join!(ask, serve);
    Outcome { client, server }
}

struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> String {
        self.write_with_mode(name, text, 0o600)
    }

    fn write_with_mode(&self, name: &str, text: &str, mode: u32) -> String {
        let path: PathBuf = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.display().to_string()
    }
}

fn message(outcome: &Outcome) -> String {
    outcome.client.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

#[tokio::test]
async fn versions_are_kept_within_bounds() {
    let identity = Authority::new("ours").issue(&named(&["db.example"]));
    for (text, versions, accepted) in [
        ("", [&TLS12].as_slice(), true),
        ("", &[&TLS13], true),
        ("ssl_min_protocol_version=TLSv1.3", &[&TLS12], false),
        ("ssl_min_protocol_version=TLSv1.3", &[&TLS13], true),
        ("ssl_max_protocol_version=TLSv1.2", &[&TLS13], false),
        ("ssl_max_protocol_version=TLSv1.2", &[&TLS12], true),
    ] {
        let text = format!("host=db.example sslmode=require {text}");
        let outcome = connect(&text, server_of_versions(&identity, versions)).await;
        assert_eq!(outcome.client.is_ok(), accepted, "{text}: {}", message(&outcome));
    }
}

#[tokio::test]
async fn direct_negotiation_needs_the_name_of_the_protocol() {
    let identity = Authority::new("ours").issue(&named(&["db.example"]));
    let without = || {
        let mut config = server(&identity);
        config.alpn_protocols.clear();
        config
    };
    let direct = "host=db.example sslmode=require sslnegotiation=direct";
    assert!(connect(direct, server(&identity)).await.client.is_ok());
    let outcome = connect(direct, without()).await;
    assert!(message(&outcome).contains("ALPN"), "{}", message(&outcome));
    assert!(connect("host=db.example sslmode=require", without()).await.client.is_ok());
}

#[tokio::test]
async fn what_is_no_tls_is_refused() {
    let conninfo = Conninfo::resolve_in("host=db.example user=u sslmode=require", &Environment::default()).unwrap();
    for (answer, part) in [(b"E\0\0\0\x08no!\0".as_slice(), "no TLS"), (b"", "closed the connection")] {
        let (near, mut far) = tokio::io::duplex(1 << 14);
        let serve = async move {
            let mut hello = [0; 5];
            far.read_exact(&mut hello).await.unwrap();
            far.write_all(answer).await.unwrap();
        };
        let (client, ()) = tokio::join!(upgrade(near, &conninfo.hosts[0], &conninfo.tls), serve);
        let error = client.map(drop).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.is_verification_failure());
    }
}

#[tokio::test]
async fn binds_to_the_certificate_that_was_presented() {
    let identity = Authority::new("ours").issue(&named(&["db.example"]));
    let outcome = connect("host=db.example sslmode=require", server(&identity)).await;
    let expected = channel_binding(&identity.chain[0]).unwrap();
    assert_eq!(expected.len(), 32);
    assert_eq!(server_end_point(&outcome.client.unwrap()), Some(expected));
}
