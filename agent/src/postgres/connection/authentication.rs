//! Being let in: answers the server's requests for passwords and proofs, and insists on proofs of its own.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use postgres_protocol::authentication::md5_hash;
use tokio::io::{AsyncRead, AsyncWrite};
use walkeep_proto::replication::scram::{ChannelBinding as Binding, NONCE_LENGTH, SCRAM_SHA_256_PLUS, ScramClient};
use walkeep_proto::replication::{AuthenticationRequest, BackendMessage, FrontendMessage};

use super::super::conninfo::{AuthenticationMethod, ChannelBinding, Conninfo, Password};
use super::super::warn_once;
use super::encryption::Channel;
use super::error::NotAuthenticated;
use super::messages::{MessageReader, MessageWriter};
use super::startup;

/// The exchange with one server.
pub(super) struct Authentication<'a, R, W> {
    pub(super) reader: &'a mut MessageReader<R>,
    pub(super) writer: &'a mut MessageWriter<W>,
    pub(super) conninfo: &'a Conninfo,
    pub(super) password: Option<Password>,
    pub(super) channel: &'a Channel,
    /// Whether anything that is derived from the password was sent.
    pub(super) secret_sent: bool,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Authentication<'_, R, W> {
    /// Runs until the server lets us in.
    pub(super) async fn run(&mut self) -> Result<()> {
        match self.next().await? {
            AuthenticationRequest::Ok => self.check(AuthenticationMethod::None),
            AuthenticationRequest::CleartextPassword => self.cleartext().await,
            AuthenticationRequest::Md5Password { salt } => self.md5(salt).await,
            AuthenticationRequest::Sasl { mechanisms } => self.scram(&mechanisms).await,
            AuthenticationRequest::SaslContinue(_) | AuthenticationRequest::SaslFinal(_) => {
                bail!("the server goes on with a SASL exchange that was not begun")
            }
            AuthenticationRequest::Other(method) => {
                Err(refused(format!("the server wants authentication by {method}, which is not supported")))
            }
        }
    }

    async fn next(&mut self) -> Result<AuthenticationRequest> {
        match startup::next(self.reader).await? {
            BackendMessage::Authentication(request) => Ok(request),
            other => bail!("the server sent {} instead of authenticating", super::query::name_of(&other)),
        }
    }

    /// Whether the connection string lets the server authenticate us like this.
    fn check(&self, method: AuthenticationMethod) -> Result<()> {
        let name = match method {
            AuthenticationMethod::None => "let us in without authentication",
            AuthenticationMethod::Password => "asked for the password itself",
            AuthenticationMethod::Md5 => "asked for the password's MD5 hash",
            AuthenticationMethod::ScramSha256 => "asked for SCRAM-SHA-256",
        };
        if !self.conninfo.authentication.allows(method) {
            return Err(refused(format!("the server {name}, which require_auth does not allow")));
        }
        let bindable = method == AuthenticationMethod::ScramSha256;
        if !bindable && self.conninfo.channel_binding == ChannelBinding::Require {
            let wants = "which cannot be bound to the TLS channel as channel_binding=require wants";
            return Err(refused(format!("the server {name}, {wants}")));
        }
        Ok(())
    }

    fn password(&self) -> Result<Password> {
        let user = &self.conninfo.user;
        let none = || refused(format!("the server wants a password for user '{user}', and none is given"));
        self.password.clone().ok_or_else(none)
    }

    async fn cleartext(&mut self) -> Result<()> {
        self.check(AuthenticationMethod::Password)?;
        if *self.channel == Channel::Plain {
            warn_once("the server wants the password itself over a connection that is not encrypted".to_owned());
        }
        let password = self.password()?;
        self.secret_sent = true;
        self.writer.send(FrontendMessage::Password(password.as_bytes())).await?;
        self.let_in().await
    }

    async fn md5(&mut self, salt: [u8; 4]) -> Result<()> {
        self.check(AuthenticationMethod::Md5)?;
        let hash = md5_hash(self.conninfo.user.as_bytes(), self.password()?.as_bytes(), salt);
        self.secret_sent = true;
        self.writer.send(FrontendMessage::Password(hash.as_bytes())).await?;
        self.let_in().await
    }

    async fn scram(&mut self, mechanisms: &[String]) -> Result<()> {
        self.check(AuthenticationMethod::ScramSha256)?;
        let binding = choose(mechanisms, self.channel, self.conninfo.channel_binding)?;
        let password = self.password()?;
        let mechanism = binding.mechanism();
        let client = ScramClient::new(binding, rand::random::<[u8; NONCE_LENGTH]>());
        let first = client.first_message();
        self.secret_sent = true;
        let response = FrontendMessage::SaslInitialResponse { mechanism, data: first.as_bytes() };
        self.writer.send(response).await?;
        let challenge = client.challenge(&self.sasl(false).await?)?;
        tracing::debug!("authenticating by {mechanism} with {} iterations", challenge.iterations());
        let respond = move || challenge.respond(password.as_bytes());
        let (response, server_proof) =
            tokio::task::spawn_blocking(respond).await.context("unable to compute the SCRAM proof")?;
        self.writer.send(FrontendMessage::SaslResponse(response.as_bytes())).await?;
        server_proof.check(&self.sasl(true).await?)?;
        self.let_in().await
    }

    /// The server's next message of the SASL exchange, which is its last or not. Being let in early is none: the server
    /// has not proved that it knows the password.
    async fn sasl(&mut self, last: bool) -> Result<Bytes> {
        match self.next().await? {
            AuthenticationRequest::SaslContinue(data) if !last => Ok(data),
            AuthenticationRequest::SaslFinal(data) if last => Ok(data),
            _ => Err(refused("the server left the SCRAM exchange before it was finished")),
        }
    }

    async fn let_in(&mut self) -> Result<()> {
        match self.next().await? {
            AuthenticationRequest::Ok => Ok(()),
            _ => bail!("the server asks for a second authentication"),
        }
    }
}

/// Which mechanism, and what it is bound to; the rules are libpq's.
fn choose(mechanisms: &[String], channel: &Channel, wanted: ChannelBinding) -> Result<Binding> {
    let offered = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
    let required = wanted == ChannelBinding::Require;
    let binding = match channel {
        Channel::Plain => {
            require(!required, "channel_binding=require needs TLS, and the connection has none")?;
            // A server offers this over TLS only: somebody in between has removed the encryption.
            require(
                !offered(SCRAM_SHA_256_PLUS),
                "the server believes that the connection is encrypted by TLS, which it is not on this side",
            )?;
            Binding::Unsupported
        }
        Channel::Tls { .. } if wanted == ChannelBinding::Disable => Binding::Unsupported,
        Channel::Tls { end_point: None } => {
            let problem = "the signature of the server's certificate has no hash that channel_binding could use";
            require(!required, problem)?;
            Binding::Unsupported
        }
        Channel::Tls { end_point: Some(hash) } if offered(SCRAM_SHA_256_PLUS) => {
            Binding::TlsServerEndPoint(hash.clone())
        }
        Channel::Tls { end_point: Some(_) } => {
            require(!required, "the server does not offer channel binding, which channel_binding=require wants")?;
            Binding::NotOffered
        }
    };
    let mechanism = binding.mechanism();
    if !offered(mechanism) {
        return Err(refused(format!("the server does not offer {mechanism}: it offers {}", mechanisms.join(", "))));
    }
    Ok(binding)
}

fn require(holds: bool, problem: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(refused(problem)) }
}

/// What this side does not go along with, whatever the server thinks of it.
fn refused(problem: impl Into<String>) -> anyhow::Error {
    NotAuthenticated(problem.into()).into()
}

#[cfg(test)]
mod tests {
    use walkeep_proto::replication::scram::SCRAM_SHA_256;

    use super::*;

    const BOTH: &[&str] = &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256];
    const ONE: &[&str] = &[SCRAM_SHA_256];

    fn choice(offered: &[&str], channel: &Channel, wanted: ChannelBinding) -> Result<Binding> {
        let mechanisms: Vec<String> = offered.iter().map(|name| (*name).to_owned()).collect();
        choose(&mechanisms, channel, wanted)
    }

    #[test]
    fn scram_is_bound_to_tls_wherever_both_sides_can() {
        use ChannelBinding::{Disable, Prefer, Require};
        let tls = Channel::Tls { end_point: Some(vec![7; 32]) };
        let unbindable = Channel::Tls { end_point: None };
        let bound = Some(Binding::TlsServerEndPoint(vec![7; 32]));
        let cases = [
            (BOTH, &tls, Prefer, bound.clone()),
            (BOTH, &tls, Require, bound),
            (BOTH, &tls, Disable, Some(Binding::Unsupported)),
            (ONE, &tls, Prefer, Some(Binding::NotOffered)),
            (ONE, &tls, Require, None),
            (ONE, &tls, Disable, Some(Binding::Unsupported)),
            (BOTH, &unbindable, Prefer, Some(Binding::Unsupported)),
            (BOTH, &unbindable, Require, None),
            (ONE, &Channel::Plain, Prefer, Some(Binding::Unsupported)),
            (ONE, &Channel::Plain, Require, None),
            (BOTH, &Channel::Plain, Prefer, None),
            (BOTH, &Channel::Plain, Disable, None),
            (&["OAUTHBEARER"], &tls, Prefer, None),
            (&[], &Channel::Plain, Prefer, None),
        ];
        for (offered, channel, wanted, expected) in cases {
            assert_eq!(choice(offered, channel, wanted).ok(), expected, "{offered:?} {channel:?} {wanted:?}");
        }
    }
}
