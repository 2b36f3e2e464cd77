//! Certificates, keys and revocation lists from their files.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::error::TlsError;
use super::settings::{CertificateFile, RootCertificates, SslMode, TlsSettings};

/// The certificates that trust begins with; `None` where there is no file and the mode does not need one.
///
/// libpq also goes on without verifying when a file was named and does not exist; here that is an error.
pub(super) fn roots(settings: &TlsSettings) -> Result<Option<Vec<CertificateDer<'static>>>, TlsError> {
    let file = match &settings.roots {
        RootCertificates::System => return system_roots().map(Some),
        RootCertificates::File(file) => file,
        RootCertificates::Nowhere if settings.mode < SslMode::VerifyCa => return Ok(None),
        RootCertificates::Nowhere => {
            let mode = settings.mode.as_str();
            return Err(without_roots(format!("unable to verify the server: sslmode={mode} and no sslrootcert")));
        }
    };
    match read_optional(file, "root certificate")? {
        Some(text) => certificates(&text, file, "root certificate").map(Some),
        None if settings.mode < SslMode::VerifyCa => Ok(None),
        None => {
            let (mode, path) = (settings.mode.as_str(), file.path.display());
            Err(without_roots(format!("unable to verify the server: sslmode={mode} and '{path}' does not exist")))
        }
    }
}

fn without_roots(message: String) -> TlsError {
    TlsError::new(message).with_hint(
        "name a file of root certificates in sslrootcert, or say sslrootcert=system for those of the operating system",
    )
}

fn system_roots() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        // One bad file among hundreds of certificates is no reason to trust none of them.
        _ if !found.certs.is_empty() => Ok(found.certs),
        Some(error) => Err(TlsError::new(format!("unable to read the system's root certificates: {error}"))),
        None => Err(TlsError::new("unable to find root certificates of the operating system")
            .with_hint("install the package ca-certificates, or name a file in sslrootcert")),
    }
}

/// The lists of what has been revoked, none if there is no such file.
pub(super) fn revocation_lists(settings: &TlsSettings) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let Some(file) = &settings.revocation_list else { return Ok(Vec::new()) };
    let Some(text) = read_optional(file, "revocation list")? else { return Ok(Vec::new()) };
    let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let lists = lists.map_err(|error| unusable(file, "revocation list", &error.to_string()))?;
    if lists.is_empty() { Err(unusable(file, "revocation list", "it holds none in PEM")) } else { Ok(lists) }
}

/// Our certificate with those above it, and its key; `None` if we have none.
pub(super) fn identity(
    settings: &TlsSettings,
) -> Result<Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>, TlsError> {
    let Some(file) = &settings.certificate else { return Ok(None) };
    // As in libpq, a missing certificate is none, even if it was named: whether one is needed is up to the server.
    let file = CertificateFile { path: file.path.clone(), named: false };
    let Some(text) = read_optional(&file, "certificate")? else { return Ok(None) };
    let chain = certificates(&text, &file, "certificate")?;
    let Some(key) = &settings.key else {
        return Err(unusable(&file, "certificate", "there is no key for it").with_hint("name its key in sslkey"));
    };
    Ok(Some((chain, private_key(key)?)))
}

fn private_key(file: &CertificateFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    check_permissions(&file.path)?;
    let text = read(&file.path).map_err(|e| unusable(file, "private key", &e.to_string()))?;
    if text.windows(9).any(|word| word == b"ENCRYPTED") {
        let hint = "store it decrypted, readable by its owner only: openssl pkey -in KEY -out NEW_KEY";
        return Err(unusable(file, "private key", "it is encrypted").with_hint(hint));
    }
    // The parser's own errors could quote the key.
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| unusable(file, "private key", "it holds none in PEM"))
}

/// libpq's rule: others must not read it; the group may, when it belongs to root.
pub(super) fn check_permissions(path: &Path) -> Result<(), TlsError> {
    let file = CertificateFile { path: path.to_owned(), named: true };
    let metadata = std::fs::metadata(path).map_err(|e| unusable(&file, "private key", &e.to_string()))?;
    if !metadata.is_file() {
        return Err(unusable(&file, "private key", "it is not a plain file"));
    }
    let mode = metadata.mode() & 0o777;
    let (allowed, owner) = if metadata.uid() == 0 { (0o640, "root") } else { (0o700, "its user") };
    if mode & !(allowed | 0o700) != 0 {
        let reason = format!("its permissions are {mode:04o} and it belongs to {owner}");
        let hint = "a key may be readable by its owner only (0600), or by root and a group (0640)";
        return Err(unusable(&file, "private key", &reason).with_hint(hint));
    }
    Ok(())
}

fn certificates(text: &[u8], file: &CertificateFile, what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certificates = certificates.map_err(|error| unusable(file, what, &error.to_string()))?;
    if certificates.is_empty() { Err(unusable(file, what, "it holds none in PEM")) } else { Ok(certificates) }
}

/// The content of a file; `None` if it does not exist and nobody has named it.
fn read_optional(file: &CertificateFile, what: &str) -> Result<Option<Vec<u8>>, TlsError> {
    match read(&file.path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if !file.named && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(unusable(file, what, &e.to_string())),
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    std::fs::read(path)
}

fn unusable(file: &CertificateFile, what: &str, reason: &str) -> TlsError {
    TlsError::new(format!("unable to use {what} file '{}': {reason}", file.path.display()))
}
