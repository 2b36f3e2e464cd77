//! TLS as libpq's `ssl*` parameters describe it, done by rustls.
//!
//! The exchange before it (SSLRequest, and whether to try at all or again without) is the connection's matter.

mod channel_binding;
mod error;
mod files;
mod settings;
#[cfg(test)]
mod tests;
mod verifier;

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::{ClientConfig, Resumption};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version::{TLS12, TLS13};

pub use channel_binding::channel_binding;
pub use error::TlsError;
pub use settings::{CertificateFile, RootCertificates, SslMode, SslNegotiation, TlsSettings, TlsVersion};
pub use tokio_rustls::client::TlsStream;

use super::conninfo::Host;
use verifier::Verifier;

/// PostgreSQL's name in ALPN: required by servers when negotiation is direct, and harmless otherwise.
const PROTOCOL: &[u8] = b"postgresql";

/// Encrypts a connection: on a socket whose server has answered 'S' to SSLRequest, or at once when negotiation is
/// direct. Nothing read before may be left over (CVE-2021-23222).
///
/// Reads the files that the settings name each time, so that renewed certificates are used.
pub async fn upgrade<S>(stream: S, host: &Host, settings: &TlsSettings) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = server_name(host, settings)?;
    let owned = settings.clone();
    // The system's roots are hundreds of files: not a matter for a thread that serves sockets.
    let config = tokio::task::spawn_blocking(move || client_config(&owned)).await;
    let config = config.map_err(|error| TlsError::new(format!("unable to read certificates: {error}")))??;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = connected.map_err(|error| TlsError::of_handshake(&error, &host.to_string(), settings))?;
    if settings.negotiation == SslNegotiation::Direct && stream.get_ref().1.alpn_protocol() != Some(PROTOCOL) {
        let message =
            format!("unable to encrypt the connection to {host}: the server did not agree to ALPN 'postgresql'");
        return Err(TlsError::new(message).with_hint("what answers there is no PostgreSQL 17 or later"));
    }
    Ok(stream)
}

/// `tls-server-end-point` of the server at the other end; `None` if its certificate has no hash to bind to.
pub fn server_end_point<S>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
    channel_binding(stream.get_ref().1.peer_certificates()?.first()?)
}

/// The name that the certificate must bear and that the server is told.
fn server_name(host: &Host, settings: &TlsSettings) -> Result<ServerName<'static>, TlsError> {
    // The zone of a link-local address says which way to go, not who is there.
    let name = host.name.as_deref().map(|name| name.split_once('%').map_or(name, |(address, _)| address));
    match name.map(|name| ServerName::try_from(name.to_owned())) {
        Some(Ok(name)) => Ok(name),
        // Where it is not verified, what is no name for TLS is not sent either: addresses are not.
        _ if settings.mode != SslMode::VerifyFull => {
            Ok(ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED)))
        }
        Some(Err(_)) => Err(TlsError::new(format!(
            "unable to verify the server: {host} has a name that no certificate can bear (sslmode=verify-full)"
        ))),
        None => Err(TlsError::new(format!(
            "unable to verify the server: {host} has no name to compare with its certificate (sslmode=verify-full)"
        ))
        .with_hint("add host=NAME beside hostaddr")),
    }
}

fn client_config(settings: &TlsSettings) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    // As in libpq, root certificates that are there are used even where the mode does not ask for them.
    let verifier = match files::roots(settings)? {
        None => Verifier::of_nothing(Arc::clone(&provider)),
        Some(roots) => {
            let name = settings.mode == SslMode::VerifyFull;
            Verifier::of_roots(roots, files::revocation_lists(settings)?, name, Arc::clone(&provider))?
        }
    };
    let versions = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)].into_iter();
    let versions = versions.filter(|(version, _)| (settings.minimum..=settings.maximum).contains(version));
    let versions: Vec<_> = versions.map(|(_, version)| version).collect();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|error| TlsError::new(format!("unable to set up TLS: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match files::identity(settings)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|error| {
            let path = settings.certificate.as_ref().map(|file| file.path.display().to_string()).unwrap_or_default();
            TlsError::new(format!("unable to use certificate file '{path}' with its key: {error}"))
        })?,
    };
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.enable_sni = settings.server_name_indication;
    // PostgreSQL resumes no sessions.
    config.resumption = Resumption::disabled();
    Ok(config)
}
