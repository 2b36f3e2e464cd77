//! The `ssl*` parameters.

use std::path::PathBuf;

use super::environment::Environment;
use super::error::ConninfoError;
use super::parameters::Settings;
use crate::postgres::tls::{CertificateFile, RootCertificates, SslMode, SslNegotiation, TlsSettings, TlsVersion};

const MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// Puts the parameters together. Files are named here and read when a connection is made.
pub(super) fn resolve(settings: &Settings, environment: &Environment) -> Result<TlsSettings, ConninfoError> {
    refuse_gssapi(settings)?;
    let roots = root_certificates(settings, environment);
    let system = roots == RootCertificates::System;
    // libpq's default, so that what works with psql works here: encrypted where the server can, and not verified.
    // Connections over TCP to other hosts should say sslmode=verify-full.
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = settings.choice("sslmode", &MODES)?.unwrap_or(default);
    if let Some(setting) = settings.nonempty("sslrootcert")
        && system
        && mode != SslMode::VerifyFull
    {
        let reason = format!("'system' needs sslmode=verify-full, and sslmode is {}", mode.as_str());
        return Err(setting.unsupported("sslrootcert", reason));
    }
    let negotiations = [("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];
    let negotiation = settings.choice("sslnegotiation", &negotiations)?.unwrap_or_default();
    if let Some(setting) = settings.get("sslnegotiation")
        && negotiation == SslNegotiation::Direct
        && mode < SslMode::Require
    {
        let reason = format!("'direct' needs sslmode=require or stricter, and sslmode is {}", mode.as_str());
        return Err(setting.unsupported("sslnegotiation", reason));
    }
    let (minimum, maximum) = versions(settings)?;
    let file = |parameter, default| file(settings, environment, parameter, default);
    let present = certificate_is_presented(settings)?;
    Ok(TlsSettings {
        mode,
        negotiation,
        revocation_list: file("sslcrl", "root.crl").filter(|list| list.named || !system),
        certificate: file("sslcert", "postgresql.crt").filter(|_| present),
        key: file("sslkey", "postgresql.key"),
        roots,
        server_name_indication: settings.text("sslsni").is_none_or(|text| text.starts_with('1')),
        minimum,
        maximum,
    })
}

fn refuse_gssapi(settings: &Settings) -> Result<(), ConninfoError> {
    let modes = [("disable", false), ("prefer", false), ("require", true)];
    match settings.get("gssencmode") {
        Some(setting) if settings.choice("gssencmode", &modes)? == Some(true) => {
            Err(setting.unsupported("gssencmode", "GSSAPI is not supported; use TLS, with sslmode=verify-full"))
        }
        _ => Ok(()),
    }
}

fn root_certificates(settings: &Settings, environment: &Environment) -> RootCertificates {
    match file(settings, environment, "sslrootcert", "root.crt") {
        Some(file) if file.named && file.path.as_os_str() == "system" => RootCertificates::System,
        Some(file) => RootCertificates::File(file),
        None => RootCertificates::Nowhere,
    }
}

/// A file that is named, or else the one of this name below `~/.postgresql`.
fn file(settings: &Settings, environment: &Environment, parameter: &str, default: &str) -> Option<CertificateFile> {
    if let Some(path) = settings.text(parameter) {
        return Some(CertificateFile { path: PathBuf::from(path), named: true });
    }
    let path = environment.home()?.join(".postgresql").join(default);
    Some(CertificateFile { path, named: false })
}

fn certificate_is_presented(settings: &Settings) -> Result<bool, ConninfoError> {
    let modes = [("disable", Some(false)), ("allow", Some(true)), ("require", None)];
    match (settings.choice("sslcertmode", &modes)?, settings.get("sslcertmode")) {
        (Some(None), Some(setting)) => {
            let reason = "whether the server asked for a certificate is not checked; let pg_hba.conf require it";
            Err(setting.unsupported("sslcertmode", reason))
        }
        (mode, _) => Ok(mode.flatten().unwrap_or(true)),
    }
}

/// The least and the greatest version that may be agreed on. rustls speaks 1.2 and 1.3.
fn versions(settings: &Settings) -> Result<(TlsVersion, TlsVersion), ConninfoError> {
    let minimum = match version(settings, "ssl_min_protocol_version")? {
        // A lower bound that is exceeded is met.
        Some(Some(version)) => version,
        Some(None) | None => TlsVersion::V1_2,
    };
    let maximum = match (version(settings, "ssl_max_protocol_version")?, settings.get("ssl_max_protocol_version")) {
        (Some(None), Some(setting)) => {
            return Err(setting.unsupported("ssl_max_protocol_version", "TLS before 1.2 is not supported"));
        }
        (version, _) => version.flatten().unwrap_or(TlsVersion::V1_3),
    };
    match settings.get("ssl_max_protocol_version") {
        Some(setting) if minimum > maximum => {
            Err(setting.invalid("ssl_max_protocol_version", "ssl_min_protocol_version is greater"))
        }
        _ => Ok((minimum, maximum)),
    }
}

/// `Some(None)` is a version that is known and no longer spoken.
fn version(settings: &Settings, name: &'static str) -> Result<Option<Option<TlsVersion>>, ConninfoError> {
    let Some(setting) = settings.nonempty(name) else { return Ok(None) };
    match setting.value.to_ascii_lowercase().as_str() {
        "tlsv1" | "tlsv1.1" => Ok(Some(None)),
        "tlsv1.2" => Ok(Some(Some(TlsVersion::V1_2))),
        "tlsv1.3" => Ok(Some(Some(TlsVersion::V1_3))),
        _ => Err(setting.invalid(name, "it is one of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::keyword_value;
    use super::*;
    use crate::postgres::conninfo::Origin;

    fn resolved(text: &str) -> Result<TlsSettings, ConninfoError> {
        let mut settings = Settings::default();
        for pair in keyword_value::parse(text)? {
            settings.set(&pair.keyword, &pair.value, &Origin::ConnectionString)?;
        }
        resolve(&settings, &Environment::default().with_home("/home/u"))
    }

    #[test]
    fn modes_are_libpqs() {
        assert_eq!(resolved("").unwrap().mode, SslMode::Prefer);
        for (word, mode) in MODES {
            assert_eq!(resolved(&format!("sslmode={word}")).unwrap().mode, mode);
            assert_eq!(mode.as_str(), word);
        }
        assert_eq!(resolved("requiressl=1").unwrap().mode, SslMode::Require);
        assert_eq!(resolved("requiressl=0").unwrap().mode, SslMode::Prefer);
        assert_eq!(resolved("sslrootcert=system").unwrap().mode, SslMode::VerifyFull);
        assert_eq!(resolved("sslrootcert=system sslmode=verify-full").unwrap().roots, RootCertificates::System);
        assert_eq!(resolved("sslmode=require sslnegotiation=direct").unwrap().negotiation, SslNegotiation::Direct);
        for text in [
            "sslmode=''",
            "sslmode=Require",
            "sslmode=on",
            "sslrootcert=system sslmode=verify-ca",
            "sslrootcert=system sslmode=require",
            "sslnegotiation=direct",
            "sslnegotiation=direct sslmode=prefer",
            "sslnegotiation=fast sslmode=require",
            "gssencmode=require",
            "gssencmode=maybe",
            "sslcertmode=require",
        ] {
            assert!(resolved(text).is_err(), "{text}");
        }
        assert!(resolved("gssencmode=prefer").is_ok() && resolved("gssencmode=disable").is_ok());
    }

    #[test]
    fn files_are_named_or_below_home() {
        let file = |path: &str, named| CertificateFile { path: path.into(), named };
        let settings = resolved("").unwrap();
        assert_eq!(settings.roots, RootCertificates::File(file("/home/u/.postgresql/root.crt", false)));
        assert_eq!(settings.revocation_list, Some(file("/home/u/.postgresql/root.crl", false)));
        assert_eq!(settings.certificate, Some(file("/home/u/.postgresql/postgresql.crt", false)));
        assert_eq!(settings.key, Some(file("/home/u/.postgresql/postgresql.key", false)));
        let settings = resolved("sslrootcert=/r sslcrl=/l sslcert=/c sslkey=/k").unwrap();
        assert_eq!(settings.roots, RootCertificates::File(file("/r", true)));
        assert_eq!(settings.revocation_list, Some(file("/l", true)));
        assert_eq!(settings.certificate, Some(file("/c", true)));
        assert_eq!(settings.key, Some(file("/k", true)));
        assert_eq!(resolved("sslcert=/c sslcertmode=disable").unwrap().certificate, None);
        // The user's own list belongs to the user's own roots.
        assert_eq!(resolved("sslrootcert=system").unwrap().revocation_list, None);
        assert_eq!(resolved("sslrootcert=system sslcrl=/l").unwrap().revocation_list, Some(file("/l", true)));
        let homeless = resolve(&Settings::default(), &Environment::default()).unwrap();
        assert_eq!((homeless.roots, homeless.certificate), (RootCertificates::Nowhere, None));
    }

    #[test]
    fn versions_are_at_least_1_2() {
        let range = |text| resolved(text).map(|settings| (settings.minimum, settings.maximum));
        assert_eq!(range("").unwrap(), (TlsVersion::V1_2, TlsVersion::V1_3));
        assert_eq!(range("ssl_min_protocol_version=TLSv1").unwrap(), (TlsVersion::V1_2, TlsVersion::V1_3));
        assert_eq!(range("ssl_min_protocol_version=tlsv1.3").unwrap(), (TlsVersion::V1_3, TlsVersion::V1_3));
        assert_eq!(range("ssl_max_protocol_version=TLSv1.2").unwrap(), (TlsVersion::V1_2, TlsVersion::V1_2));
        assert_eq!(range("ssl_min_protocol_version='' ssl_max_protocol_version=''").unwrap().1, TlsVersion::V1_3);
        for text in [
            "ssl_max_protocol_version=TLSv1.1",
            "ssl_min_protocol_version=SSLv3",
            "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
        ] {
            assert!(range(text).is_err(), "{text}");
        }
        assert!(resolved("").unwrap().server_name_indication);
        assert!(!resolved("sslsni=0").unwrap().server_name_indication);
    }
}
