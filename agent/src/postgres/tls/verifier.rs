//! How the server's certificate is verified, for each `sslmode`.

use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature_with_raw_key};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::TlsError;

/// How much of a certificate is verified. In every case the server must prove that it has the certificate's key.
#[derive(Debug)]
enum Verification {
    /// Nothing: whoever answers is believed.
    Nothing,
    /// That a trusted root has issued it.
    Chain(Trust),
    /// That too, and that it bears the host's name.
    Name(Trust),
}

#[derive(Debug)]
struct Trust {
    webpki: Arc<WebPkiServerVerifier>,
    /// Roots that the server may present itself: a certificate it signed with its own key, known to us.
    ///
    /// PostgreSQL's documentation describes how to make one, and OpenSSL accepts it; webpki never takes an issuer for a
    /// server. Empty when there is a revocation list, which speaks about issued certificates only.
    own: Vec<CertificateDer<'static>>,
}

/// Verifies the server's certificate as `sslmode` says.
#[derive(Debug)]
pub(super) struct Verifier {
    verification: Verification,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Believes whoever answers.
    pub(super) fn of_nothing(provider: Arc<CryptoProvider>) -> Self {
        Self { verification: Verification::Nothing, provider }
    }

    /// Verifies that one of the roots has issued the certificate, and with `name` that it is for the host.
    pub(super) fn of_roots(
        roots: Vec<CertificateDer<'static>>,
        revocation_lists: Vec<CertificateRevocationListDer<'static>>,
        name: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        // A bundle may hold certificates that are no root of anything we understand; the chain decides.
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        if added == 0 {
            return Err(TlsError::new("unable to understand any of the root certificates"));
        }
        let own = if revocation_lists.is_empty() { roots } else { Vec::new() };
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider))
            .with_crls(revocation_lists)
            .enforce_revocation_expiration()
            .build()
            .map_err(|error| TlsError::new(format!("unable to use the revocation list: {error}")))?;
        let trust = Trust { webpki, own };
        let verification = if name { Verification::Name(trust) } else { Verification::Chain(trust) };
        Ok(Self { verification, provider })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let (trust, name) = match &self.verification {
            Verification::Nothing => return Ok(ServerCertVerified::assertion()),
            Verification::Chain(trust) => (trust, false),
            Verification::Name(trust) => (trust, true),
        };
        if trust.own.iter().any(|own| own == end_entity) {
            verify_validity(end_entity, now)?;
            if name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let result = trust.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            // The name is looked at last, when everything else is right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !name => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // By the key alone, because webpki does not read certificates of version 1, which `openssl x509 -req` makes as
        // PostgreSQL's documentation describes it. They can be used where the chain is not verified.
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn verify_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    let validity = parsed.validity();
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < validity.not_before.timestamp() {
        Err(CertificateError::NotValidYet)
    } else if now > validity.not_after.timestamp() {
        Err(CertificateError::Expired)
    } else {
        Ok(())
    }
}
