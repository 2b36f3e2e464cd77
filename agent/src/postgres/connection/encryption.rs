//! Whether a session is encrypted: libpq's `sslmode` as a list of tries, and the negotiation of TLS.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use walkeep_proto::replication::FrontendMessage;

use super::super::conninfo::Host;
use super::super::tls::{self, SslMode, SslNegotiation, TlsError, TlsSettings};
use super::transport::Transport;

/// One way to open a session over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    /// None.
    Plain,
    /// TLS where the server has it, else none.
    TlsIfOffered,
    /// TLS or nothing.
    Tls,
}

/// The tries of a mode, in order. The second is for servers whose pg_hba.conf lets only the other kind in, and for
/// `prefer` also for those whose TLS does not work.
pub(super) const fn tries(mode: SslMode) -> &'static [Encryption] {
    match mode {
        SslMode::Disable => &[Encryption::Plain],
        SslMode::Allow => &[Encryption::Plain, Encryption::Tls],
        SslMode::Prefer => &[Encryption::TlsIfOffered, Encryption::Plain],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[Encryption::Tls],
    }
}

/// Whether TLS is on, and what a session can be bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    /// No TLS.
    Plain,
    /// TLS; the hash of the server's certificate (`tls-server-end-point`), if its signature has one.
    Tls { end_point: Option<Vec<u8>> },
}

/// Why there is no encrypted stream.
pub(super) struct NegotiationError {
    pub(super) error: anyhow::Error,
    /// Whether the handshake failed, so that a try without TLS may go better.
    pub(super) handshake: bool,
}

impl From<anyhow::Error> for NegotiationError {
    fn from(error: anyhow::Error) -> Self {
        Self { error, handshake: false }
    }
}

/// Encrypts a fresh connection as far as `encryption` wants.
pub(super) async fn negotiate(
    mut stream: TcpStream,
    host: &Host,
    settings: &TlsSettings,
    encryption: Encryption,
) -> Result<(Transport, Channel), NegotiationError> {
    let tls = match (encryption, settings.negotiation) {
        (Encryption::Plain, _) => false,
        (_, SslNegotiation::Direct) => true,
        (_, SslNegotiation::Postgres) => ask(&mut stream).await?,
    };
    if !tls {
        return match encryption {
            Encryption::Tls => Err(anyhow::Error::from(TlsError::not_offered()).into()),
            Encryption::Plain | Encryption::TlsIfOffered => Ok((Transport::Tcp(stream), Channel::Plain)),
        };
    }
    let upgraded = tls::upgrade(stream, host, settings).await;
    let stream = upgraded.map_err(|error| NegotiationError { error: error.into(), handshake: true })?;
    let end_point = tls::server_end_point(&stream);
    Ok((Transport::Tls(Box::new(stream)), Channel::Tls { end_point }))
}

/// Asks the server whether it does TLS.
///
/// Exactly one byte is read, from the socket itself: what somebody put behind it in plain text is no TLS record, breaks
/// the handshake, and can never be taken for something that came through TLS (CVE-2021-23222).
async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<bool> {
    let request = FrontendMessage::SslRequest.to_bytes()?;
    stream.write_all(&request).await.context("unable to ask for TLS")?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await.context("the server did not answer whether it supports TLS")?;
    match answer[0] {
        b'S' => Ok(true),
        b'N' => Ok(false),
        // Whoever sent it is not proved to be the server: its text is not shown.
        b'E' => bail!("the server answered the request for TLS with an error"),
        other => bail!("this is no PostgreSQL server: it answered the request for TLS with byte 0x{other:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[test]
    fn modes_that_promise_encryption_never_try_without() {
        for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
            assert_eq!(tries(mode), [Encryption::Tls]);
        }
        assert_eq!(tries(SslMode::Disable), [Encryption::Plain]);
    }

    async fn answer(bytes: &[u8]) -> (Result<bool>, Vec<u8>) {
        let (mut client, mut server) = duplex(64);
        server.write_all(bytes).await.unwrap();
        server.shutdown().await.unwrap();
        let tls = ask(&mut client).await;
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        (tls, rest)
    }

    #[tokio::test]
    async fn one_byte_is_read_and_no_more() {
        let (tls, rest) = answer(b"Sinjected").await;
        assert!(tls.unwrap());
        assert_eq!(rest, b"injected");
        assert!(!answer(b"N").await.0.unwrap());
        for bytes in [&b""[..], b"E\0\0\0\x08oops", b"H"] {
            let error = answer(bytes).await.0.unwrap_err();
            assert!(!format!("{error:#}").contains("oops"), "{error:#}");
        }
    }
}
