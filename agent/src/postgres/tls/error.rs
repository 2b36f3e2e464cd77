//! Why a connection could not be encrypted, and what to do about it.

use std::io;

use tokio_rustls::rustls::{CertificateError, Error};

use super::settings::TlsSettings;

/// A connection could not be encrypted.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TlsError {
    message: String,
    hint: Option<&'static str>,
    verification: bool,
}

impl TlsError {
    /// Something on this side stands in the way, such as a file.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, verification: false }
    }

    /// The server has none, and the connection string insists.
    pub(crate) fn not_offered() -> Self {
        Self::new("the server does not support TLS, which sslmode wants")
            .with_hint("set ssl = on in the server, or another sslmode")
    }

    pub(super) fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The handshake with this host failed.
    pub(super) fn of_handshake(error: &io::Error, host: &str, settings: &TlsSettings) -> Self {
        let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        let (reason, hint) = match cause {
            Some(Error::InvalidCertificate(certificate)) => explain(certificate, settings),
            Some(Error::AlertReceived(alert)) => {
                (format!("the server refused it: {alert:?}"), Some("the server's log says why"))
            }
            Some(Error::PeerIncompatible(reason)) => {
                let hint = "the versions or ciphers of both sides have nothing in common; see the server's \
                            ssl_min_protocol_version, ssl_max_protocol_version and ssl_ciphers";
                (format!("the server's TLS does not fit: {reason:?}"), Some(hint))
            }
            Some(Error::InvalidMessage(_)) => {
                let hint = "what answered there does not speak TLS; sslnegotiation=direct needs a server of version 17";
                ("the answer is no TLS".to_owned(), Some(hint))
            }
            Some(other) => (other.to_string(), None),
            None if error.kind() == io::ErrorKind::UnexpectedEof => {
                ("the server closed the connection".to_owned(), Some("the server's log says why"))
            }
            None => (error.to_string(), None),
        };
        let message = format!("unable to encrypt the connection to {host}: {reason}");
        Self { message, hint, verification: matches!(cause, Some(Error::InvalidCertificate(_))) }
    }

    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        self.hint
    }

    /// Whether the server's certificate was refused: no other attempt at the same server will help.
    pub fn is_verification_failure(&self) -> bool {
        self.verification
    }
}

/// What rustls passes on from webpki: there is no type for it, only its name.
fn explain_other(name: &str) -> (String, Option<&'static str>) {
    match name {
        "CaUsedAsEndEntity" => {
            let hint = "name a copy of the server's certificate in sslrootcert if it is self-signed; else issue it \
                        again with basicConstraints=CA:FALSE";
            ("the server's certificate is one of an issuer, and not among the trusted roots".to_owned(), Some(hint))
        }
        "UnsupportedCertVersion" => {
            let hint = "issue it again with a subject alternative name, which makes it version 3";
            ("the server's certificate is of version 1, which cannot be verified".to_owned(), Some(hint))
        }
        other => (format!("the server's certificate is refused: {other}"), None),
    }
}

/// Why the server's certificate is refused, and what helps.
fn explain(error: &CertificateError, settings: &TlsSettings) -> (String, Option<&'static str>) {
    let mode = settings.mode.as_str();
    match error {
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            let hint = "connect by a name that the certificate bears, or add hostaddr=ADDRESS beside host=NAME; a name \
                        in the certificate's common name does not count, it must be a subject alternative name";
            let bears = match presented.as_slice() {
                [] => "it bears no subject alternative name".to_owned(),
                names => format!("it bears {}", names.join(", ")),
            };
            (format!("the server's certificate is not for '{expected}', {bears}"), Some(hint))
        }
        CertificateError::NotValidForName => {
            ("the server's certificate is not for this host".to_owned(), Some("see its subject alternative names"))
        }
        CertificateError::UnknownIssuer => {
            let hint = "name the file of the issuer's certificate in sslrootcert, or sslrootcert=system for one that \
                        the operating system trusts; the server's ssl_cert_file must hold intermediate certificates";
            (format!("no trusted root has issued the server's certificate (sslmode={mode})"), Some(hint))
        }
        CertificateError::BadSignature => {
            let hint = "compare the issuer's certificate in sslrootcert with the one that the server's was issued by";
            let reason = "a signature is wrong: a root certificate bears the issuer's name and has another key, or the \
                          server does not have the key of its certificate";
            (reason.to_owned(), Some(hint))
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "the server's certificate, or one above it, has expired".to_owned(),
            Some("renew it, or set the clock right"),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            ("the server's certificate is not valid yet".to_owned(), Some("compare the clocks of both hosts"))
        }
        CertificateError::Revoked => ("the server's certificate has been revoked".to_owned(), None),
        CertificateError::UnknownRevocationStatus => {
            let hint = "sslcrl needs a revocation list of every issuer between the certificate and its root";
            ("no revocation list speaks about the server's certificate".to_owned(), Some(hint))
        }
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            ("the revocation list in sslcrl has expired".to_owned(), Some("fetch a new one from the issuer"))
        }
        CertificateError::Other(other) => explain_other(&other.to_string()),
        other => (format!("the server's certificate is refused: {other}"), None),
    }
}
