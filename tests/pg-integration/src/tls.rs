//! Authorities and certificates made for one test.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, date_time_ymd,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::user::{Scratch, write_file};

/// What an authority signs with. What a session can be bound to depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA with SHA-256.
    Sha256,
    /// ECDSA with SHA-384.
    Sha384,
    /// Ed25519, whose signatures have no hash that a session could be bound to.
    Ed25519,
}

/// Whom a certificate is for.
#[derive(Debug, Clone)]
pub struct Subject {
    names: Vec<String>,
    common_name: String,
    valid: Option<(i32, i32)>,
}

impl Subject {
    /// A server of these names or addresses.
    pub fn server(names: &[&str]) -> Self {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Self { names, common_name: "a server of a test".to_owned(), valid: None }
    }

    /// A client who is this role.
    pub fn client(role: &str) -> Self {
        Self { names: Vec::new(), common_name: role.to_owned(), valid: None }
    }

    /// Valid from the first day of one year to the first day of another; without it, now.
    #[must_use]
    pub const fn valid(mut self, from: i32, to: i32) -> Self {
        self.valid = Some((from, to));
        self
    }
}

/// An authority: whoever trusts the file [`Authority::root`] trusts what it has issued.
pub struct Authority {
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    scratch: Scratch,
}

impl Authority {
    /// A new one, that nobody knows yet, with a name of its own.
    pub fn new(signature: Signature) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Self::named(&format!("Walkeep test authority {}", NEXT.fetch_add(1, Ordering::Relaxed)), signature)
    }

    /// Another one by the same name.
    #[must_use]
    pub fn impostor(&self) -> Self {
        Self::named(&self.name, Signature::Sha256)
    }

    fn named(name: &str, signature: Signature) -> Self {
        let algorithm = match signature {
            Signature::Sha256 => &PKCS_ECDSA_P256_SHA256,
            Signature::Sha384 => &PKCS_ECDSA_P384_SHA384,
            Signature::Ed25519 => &PKCS_ED25519,
        };
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(algorithm).expect("keys can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority can be made");
        let scratch = Scratch::new("ca");
        write_file(&scratch.path().join("root.crt"), issuer.pem());
        Self { name: name.to_owned(), issuer, scratch }
    }

    /// The file with its certificate, for `sslrootcert` and `ssl_ca_file`.
    pub fn root(&self) -> PathBuf {
        self.scratch.path().join("root.crt")
    }

    /// Issues a certificate.
    #[track_caller]
    pub fn issue(&self, subject: Subject) -> Certificate {
        let mut params = CertificateParams::new(subject.names).expect("names are in ASCII");
        params.distinguished_name.push(DnType::CommonName, subject.common_name);
        if let Some((from, to)) = subject.valid {
            (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        }
        let key = KeyPair::generate().expect("keys can be made");
        let issued = params.signed_by(&key, &self.issuer).expect("a certificate can be issued");
        Certificate { der: issued.der().clone(), pem: issued.pem(), key }
    }

    /// A client of TLS that trusts this authority.
    pub fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("own certificates can be read");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

/// A certificate with its key.
pub struct Certificate {
    der: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

impl Certificate {
    /// Writes `<name>.crt` and `<name>.key`, which is private to the test user; returns where they are.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (path, key) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
        write_file(&path, &self.pem);
        write_file(&key, self.key.serialize_pem());
        fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("own files can be closed");
        (path, key)
    }

    /// A server of TLS that shows this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("own keys can be read");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows them")
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone()], key)
            .expect("the key is the certificate's");
        TlsAcceptor::from(Arc::new(config))
    }
}
