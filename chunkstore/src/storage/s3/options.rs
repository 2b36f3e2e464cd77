//! The values of a bucket's options, read and checked one by one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption, StorageClass};

use crate::error::{Error, Result};
use crate::storage::S3Options;

pub(super) fn wrong(problem: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("options of the bucket: {problem}"))
}

pub(super) fn endpoint(text: &str) -> Result<String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let legal = |host: &str| !host.starts_with('/') && !host.contains(['@', '?', '#']) && host.is_ascii();
    match host.map(|host| host.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && legal(host) && !text.contains(char::is_whitespace) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err(wrong(format_args!("endpoint '{text}' is no address, expected https://HOST:PORT"))),
    }
}

pub(super) fn encryption(options: &S3Options) -> Result<Option<ServerSideEncryption>> {
    match (options.encryption.as_deref(), &options.kms_key) {
        (Some("AES256") | None, Some(_)) => Err(wrong("kms_key needs encryption = \"aws:kms\"")),
        (Some("AES256"), None) => Ok(Some(ServerSideEncryption::Aes256)),
        (Some("aws:kms"), _) => Ok(Some(ServerSideEncryption::AwsKms)),
        (Some(other), _) => Err(wrong(format_args!("encryption '{other}' is unknown, expected AES256 or aws:kms"))),
        (None, None) => Ok(None),
    }
}

/// Services have classes of their own, so only the spelling can be checked.
pub(super) fn class(option: &str, text: Option<&str>) -> Result<Option<StorageClass>> {
    let Some(text) = text else { return Ok(None) };
    let spelled = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if text.is_empty() || text.len() > 64 || !text.bytes().all(spelled) {
        return Err(wrong(format_args!("{option} '{text}' is no storage class, expected for example STANDARD_IA")));
    }
    if ["GLACIER", "DEEP_ARCHIVE"].contains(&text) {
        let problem = "cannot be read without hours of preparation, so nothing could be restored or verified";
        return Err(wrong(format_args!("{option} '{text}' {problem}; GLACIER_IR can")));
    }
    Ok(Some(StorageClass::from(text)))
}

pub(super) fn lock(options: &S3Options) -> Result<Option<(ObjectLockMode, Duration)>> {
    let mode = match options.lock_mode.as_deref() {
        None | Some("GOVERNANCE") => ObjectLockMode::Governance,
        Some("COMPLIANCE") => ObjectLockMode::Compliance,
        Some(other) => {
            return Err(wrong(format_args!("lock_mode '{other}' is unknown, expected GOVERNANCE or COMPLIANCE")));
        }
    };
    match options.lock_days {
        None if options.lock_mode.is_some() => Err(wrong("lock_mode needs lock_days")),
        None => Ok(None),
        Some(days @ 1..=36_500) => Ok(Some((mode, Duration::from_secs(u64::from(days) * 24 * 3600)))),
        Some(days) => Err(wrong(format_args!("lock_days {days} is not between 1 and 36500"))),
    }
}

/// Reads the certificates and parses each: the SDK would panic over one that it cannot read.
pub(super) fn authorities(path: &Path) -> Result<(PathBuf, Vec<u8>)> {
    use tokio_rustls::rustls::RootCertStore;
    use tokio_rustls::rustls::pki_types::CertificateDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let text = std::fs::read(path).map_err(|e| Error::storage("read", path.display(), e))?;
    let no_certificate = |e: &dyn std::fmt::Display| wrong(format_args!("ca_file '{}': {e}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|e| no_certificate(&e))?;
        roots.add(certificate).map_err(|e| no_certificate(&e))?;
    }
    if roots.is_empty() {
        return Err(no_certificate(&"there is no PEM certificate in it"));
    }
    Ok((path.to_owned(), text))
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::*;
    use crate::storage::BucketUrl;

    fn refused(change: impl FnOnce(&mut S3Options)) -> String {
        let mut options = S3Options::default();
        change(&mut options);
        let error =
            Settings::new(&BucketUrl { bucket: "bucket".to_owned(), prefix: String::new() }, &options).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Invalid, "{error}");
        error.to_string()
    }

    #[test]
    fn senseless_options_are_refused() {
        let text = |text: &str| Some(text.to_owned());
        assert!(refused(|o| o.endpoint = text("minio:9000")).contains("'minio:9000'"));
        assert!(refused(|o| o.endpoint = text("ftp://x")).contains("https://HOST:PORT"));
        assert!(refused(|o| o.endpoint = text("https:///x")).contains("no address"));
        assert!(refused(|o| o.endpoint = text("https://user:word@x")).contains("no address"));
        assert!(refused(|o| o.encryption = text("aes256")).contains("AES256"));
        assert!(refused(|o| o.kms_key = text("alias/x")).contains("aws:kms"));
        assert!(refused(|o| o.pack_class = text("standard")).contains("pack_class"));
        assert!(refused(|o| o.wal_class = text("DEEP_ARCHIVE")).contains("GLACIER_IR"));
        assert!(refused(|o| o.lock_mode = text("COMPLIANCE")).contains("lock_days"));
        assert!(refused(|o| (o.lock_days, o.lock_mode) = (Some(3), text("x"))).contains("GOVERNANCE"));
        assert!(refused(|o| o.lock_days = Some(0)).contains("lock_days 0"));
        assert!(refused(|o| o.request_timeout = Some(0)).contains("request_timeout 0"));
        assert!(refused(|o| (o.request_timeout, o.total_timeout) = (Some(9), Some(5))).contains("total_timeout 5"));
    }

    #[test]
    fn authorities_must_be_certificates() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with_file = |o: &mut S3Options| o.ca_file = Some(file.path().to_owned());
        assert!(refused(with_file).contains("no PEM certificate"));
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(file.path(), certificate).unwrap();
        assert!(refused(with_file).contains("ca_file"));
    }
}
