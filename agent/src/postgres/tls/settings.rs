//! What a connection's encryption must be.

use std::path::PathBuf;

/// How much encryption is asked for and how much of it is verified (`sslmode`); each is stricter than the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypt.
    Disable,
    /// Encrypt only when the server refuses us otherwise.
    Allow,
    /// Encrypt where the server can, else not. Anybody in between can make it "not".
    #[default]
    Prefer,
    /// Encrypt. Verifies the certificate's chain when there is a file of root certificates.
    Require,
    /// Encrypt and verify the certificate's chain.
    VerifyCa,
    /// Encrypt and verify the certificate's chain and that it bears the host's name.
    VerifyFull,
}

impl SslMode {
    /// PostgreSQL's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// How encryption begins (`sslnegotiation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslNegotiation {
    /// With an SSLRequest that the server agrees to.
    #[default]
    Postgres,
    /// At once (servers of version 17 and later); saves a round trip, and there is nothing to strip.
    Direct,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// A file of certificates or keys, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFile {
    /// Where it is.
    pub path: PathBuf,
    /// Whether somebody named it, or it is only where such a file would be.
    pub named: bool,
}

/// Where the certificates are that all trust begins with (`sslrootcert`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those of the operating system.
    System,
    /// In a file, if it exists.
    File(CertificateFile),
    /// No file is named and there is no home directory.
    Nowhere,
}

/// What a connection's encryption must be: all `ssl*` parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// How much is asked for.
    pub mode: SslMode,
    /// How it begins.
    pub negotiation: SslNegotiation,
    /// What trust begins with.
    pub roots: RootCertificates,
    /// Certificates that are trusted no more (`sslcrl`).
    pub revocation_list: Option<CertificateFile>,
    /// Our own certificate and those that lead to its root (`sslcert`).
    pub certificate: Option<CertificateFile>,
    /// The private key of our certificate (`sslkey`).
    pub key: Option<CertificateFile>,
    /// Whether the server is told which name we want (`sslsni`).
    pub server_name_indication: bool,
    /// The least acceptable version.
    pub minimum: TlsVersion,
    /// The greatest acceptable version.
    pub maximum: TlsVersion,
}

impl Default for TlsSettings {
    /// What libpq does when nothing is said and there is no home directory.
    fn default() -> Self {
        Self {
            mode: SslMode::default(),
            negotiation: SslNegotiation::default(),
            roots: RootCertificates::Nowhere,
            revocation_list: None,
            certificate: None,
            key: None,
            server_name_indication: true,
            minimum: TlsVersion::V1_2,
            maximum: TlsVersion::V1_3,
        }
    }
}
