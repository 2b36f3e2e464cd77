//! From a connection string to a session: every host, every address of it, every way to encrypt, in libpq's order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::super::conninfo::{Conninfo, Host, HostAddress, LoadBalanceHosts, TargetSessionAttributes, shuffle};
use super::super::warn_once;
use super::authentication::Authentication;
use super::encryption::{self, Channel, Encryption, NegotiationError};
use super::error::{ConnectError, FailedAttempt};
use super::messages::{MessageReader, MessageWriter};
use super::transport::Transport;
use super::{Connection, Facts, Purpose, session_attributes, startup};

/// Addresses of one name that are tried at most.
const MOST_ADDRESSES: usize = 32;

/// One place where a socket can be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Why a try failed, and whether the same address may be better with the other kind of encryption.
struct Failure {
    error: anyhow::Error,
    encryption: bool,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, encryption: false }
    }
}

impl From<NegotiationError> for Failure {
    fn from(failed: NegotiationError) -> Self {
        Self { error: failed.error, encryption: failed.handshake }
    }
}

/// What all tries have in common.
#[derive(Clone, Copy)]
struct Search<'a> {
    conninfo: &'a Conninfo,
    purpose: Purpose,
    wanted: TargetSessionAttributes,
}

/// Opens a session with the first server that will do.
pub(super) async fn connect(conninfo: &Conninfo, purpose: Purpose) -> Result<Connection, ConnectError> {
    let mut failed = Vec::new();
    for wanted in session_attributes::passes(conninfo.target_session_attributes) {
        // A second pass over the same hosts says all that the first did, and more.
        failed.clear();
        let search = Search { conninfo, purpose, wanted: *wanted };
        for host in conninfo.hosts_to_try(rand::random()) {
            match search.host(host, &mut failed).await {
                Some(connection) => {
                    for attempt in failed {
                        warn_once(format!("unable to connect to {}: {:#}", attempt.target, attempt.error));
                    }
                    return Ok(connection);
                }
                None => continue,
            }
        }
    }
    Err(ConnectError { attempts: failed })
}

impl Search<'_> {
    async fn host(&self, host: &Host, failed: &mut Vec<FailedAttempt>) -> Option<Connection> {
        let addresses = match within(self.conninfo.connect_timeout, self.addresses(host)).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failed.push(FailedAttempt { target: host.to_string(), error });
                return None;
            }
        };
        for address in addresses {
            let target = describe(host, &address);
            match self.address(host, &address, &target).await {
                Ok(connection) => return Some(connection),
                Err(errors) => {
                    failed.extend(errors.into_iter().map(|error| FailedAttempt { target: target.clone(), error }));
                }
            }
        }
        None
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<Address>> {
        let (name, port) = match &host.address {
            HostAddress::Unix(path) => return Ok(vec![Address::Unix(path.clone())]),
            HostAddress::Tcp { host, port } => (host.as_str(), *port),
        };
        let found = lookup_host((name, port)).await.context("unable to find the host's address")?;
        let mut addresses: Vec<Address> = found.take(MOST_ADDRESSES).map(Address::Tcp).collect();
        if self.conninfo.load_balance_hosts == LoadBalanceHosts::Random {
            shuffle(&mut addresses, rand::random());
        }
        Ok(addresses)
    }

    /// All ways to encrypt, while another one may help; with all their errors.
    async fn address(&self, host: &Host, address: &Address, target: &str) -> Result<Connection, Vec<anyhow::Error>> {
        let mut errors = Vec::new();
        for encryption in match address {
            Address::Tcp(_) => encryption::tries(self.conninfo.tls.mode),
            // What goes through a socket of the file system never leaves the machine.
            Address::Unix(_) => &[Encryption::Plain],
        } {
            let mut may_retry = false;
            let tried = within(self.conninfo.connect_timeout, async {
                self.session(host, address, target, *encryption).await.map_err(|failure| {
                    may_retry = failure.encryption;
                    failure.error
                })
            });
            match tried.await {
                Ok(connection) => return Ok(connection),
                Err(error) => errors.push(error),
            }
            if !may_retry {
                break;
            }
        }
        Err(errors)
    }

    async fn session(
        &self,
        host: &Host,
        address: &Address,
        target: &str,
        encryption: Encryption,
    ) -> Result<Connection, Failure> {
        let (transport, channel) = self.open(host, address, encryption).await?;
        let (reader, writer) = tokio::io::split(transport);
        let (mut reader, mut writer) = (MessageReader::new(reader), MessageWriter::new(writer));
        startup::request(&mut writer, self.conninfo, self.purpose).await?;
        let mut authentication = Authentication {
            reader: &mut reader,
            writer: &mut writer,
            conninfo: self.conninfo,
            password: self.conninfo.password_for(host),
            channel: &channel,
            secret_sent: false,
        };
        if let Err(error) = authentication.run().await {
            // pg_hba.conf may want the other kind of connection. libpq also tries again when the password was wrong;
            // that would show a proof of it without TLS after it was shown with.
            let refused = error.is::<super::ServerError>() && !authentication.secret_sent;
            return Err(Failure { error, encryption: refused });
        }
        let process = startup::wait_until_ready(&mut reader).await?;
        let encrypted = channel != Channel::Plain;
        tracing::debug!("connected to {target}, server process {process}, TLS: {encrypted}");
        let facts = Facts { purpose: self.purpose, target: target.to_owned(), process, encrypted };
        let mut connection = Connection { reader, writer, facts, ready: true };
        if let Err(error) = session_attributes::check(&mut connection, self.wanted).await {
            connection.close().await;
            return Err(error.into());
        }
        Ok(connection)
    }

    async fn open(
        &self,
        host: &Host,
        address: &Address,
        encryption: Encryption,
    ) -> Result<(Transport, Channel), Failure> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.context("unable to open the socket")?;
                Ok((Transport::Unix(stream), Channel::Plain))
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.context("unable to open a connection")?;
                stream.set_nodelay(true).context("unable to set TCP_NODELAY")?;
                self.conninfo.keepalives.apply(&stream).context("unable to set the TCP keepalives")?;
                Ok(encryption::negotiate(stream, host, &self.conninfo.tls, encryption).await?)
            }
        }
    }
}

/// The host, and its address where that is not the same.
fn describe(host: &Host, address: &Address) -> String {
    match address {
        Address::Tcp(address) if !host.to_string().contains(&address.ip().to_string()) => {
            format!("{host} ({})", address.ip())
        }
        Address::Tcp(_) | Address::Unix(_) => host.to_string(),
    }
}

/// Bounds how long a try takes.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(anyhow!("no session within {} s (connect_timeout)", limit.as_secs_f64())),
        },
    }
}
