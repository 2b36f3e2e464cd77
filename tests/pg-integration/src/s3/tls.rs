//! Certificates for a server on the loopback interface, from an authority made for one test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::user::write_file;

/// What a server needs to speak TLS, and its clients to believe it.
pub(super) struct Tls {
    pub(super) acceptor: TlsAcceptor,
    pub(super) ca: PathBuf,
}

impl Tls {
    /// Makes an authority, whose certificate becomes `ca.pem` in `directory`, and a server that it vouches for.
    pub(super) fn create(directory: &Path) -> Self {
        Self::try_create(directory).unwrap_or_else(|e| panic!("unable to make certificates: {e}"))
    }

    fn try_create(directory: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "Walkeep test authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

        let key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost", "*.s3.localhost"].map(str::to_owned);
        let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;

        let ca = directory.join("ca.pem");
        write_file(&ca, authority.pem());
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), ca })
    }
}
