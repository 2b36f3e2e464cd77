//! Where and how to connect: everything that libpq finds out from a connection string before it opens a socket.
//!
//! `Conninfo::resolve` reads the string, the service file, the environment and the defaults, in libpq's order of
//! precedence, and looks up each host's password. What comes out is complete and checked: the connection needs nothing
//! else. A secret never appears in `Debug`, in a message or in an error.
//!
//! Stricter than libpq, always on the side of refusing: a password with unescaped reserved characters in a URI, a root
//! certificate or revocation list that is named and missing, and parameters that would change what the connection may
//! be and are not supported (`parameters.rs` lists them, and those that are accepted without effect).

mod authentication;
mod environment;
mod error;
mod hosts;
mod keepalives;
mod keyword_value;
mod parameters;
mod password;
mod resolve;
mod service_file;
#[cfg(test)]
mod tests;
mod tls;
mod uri;

use std::time::Duration;

pub use authentication::{AllowedAuthentication, AuthenticationMethod};
pub use environment::Environment;
pub use error::{ConninfoError, Origin};
pub use hosts::{Host, HostAddress};
pub use keepalives::Keepalives;
pub use keyword_value::quote;
pub use password::Password;

use super::tls::TlsSettings;

/// How to reach and greet a server, all defaults filled in.
#[derive(Clone, Debug)]
pub struct Conninfo {
    /// Where to try, in the order written; never empty. See [`Conninfo::hosts_to_try`].
    pub hosts: Vec<Host>,
    /// Role to log in as.
    pub user: String,
    /// Database to log in to.
    pub database: String,
    /// `application_name`, or else `fallback_application_name`.
    pub application_name: Option<String>,
    /// Command-line options for the server (`options`).
    pub options: Option<String>,
    /// How long each address may take until the server has let us in; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    /// Which kind of server is wanted.
    pub target_session_attributes: TargetSessionAttributes,
    /// Whether hosts, and the addresses of each host, are tried in random order.
    pub load_balance_hosts: LoadBalanceHosts,
    /// Whether SCRAM must be bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// How the server may ask us for proof (`require_auth`).
    pub authentication: AllowedAuthentication,
    /// Encryption.
    pub tls: TlsSettings,
    /// How the kernel notices that the other end is gone; for TCP only.
    pub keepalives: Keepalives,
    /// What the user should know although it stops nothing, such as a password file that others could read.
    pub warnings: Vec<String>,
    password: Option<Password>,
}

/// Which kind of server is wanted (`target_session_attrs`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetSessionAttributes {
    /// Every one.
    #[default]
    Any,
    /// One whose sessions can write: neither in recovery nor with `default_transaction_read_only`.
    ReadWrite,
    /// One whose sessions cannot write.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby if any host is one, else any: all hosts are tried twice.
    PreferStandby,
}

/// Whether the order of hosts matters (`load_balance_hosts`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBalanceHosts {
    /// Hosts and addresses are tried in the order written and looked up.
    #[default]
    Disable,
    /// They are tried in random order.
    Random,
}

/// Whether SCRAM must be bound to the TLS channel (`channel_binding`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    /// It is not.
    Disable,
    /// It is, where the server can and the connection is encrypted.
    #[default]
    Prefer,
    /// It is, or the connection is given up; every other way of authentication is refused with it.
    Require,
}

impl Conninfo {
    /// Resolves a connection string with this process's environment, and logs the warnings.
    ///
    /// To be called for every new connection: files and the environment may have changed.
    pub fn resolve(text: &str) -> Result<Self, ConninfoError> {
        let conninfo = Self::resolve_in(text, &Environment::of_process())?;
        for warning in &conninfo.warnings {
            super::warn_once(warning.clone());
        }
        Ok(conninfo)
    }

    /// Resolves a connection string with this environment.
    pub fn resolve_in(text: &str, environment: &Environment) -> Result<Self, ConninfoError> {
        resolve::resolve(text, environment)
    }

    /// The password for this host: what the string, the service or PGPASSWORD say, else what the password file says.
    pub fn password_for(&self, host: &Host) -> Option<Password> {
        self.password.clone().or_else(|| host.password.clone())
    }

    /// The hosts in the order to try them: as written, or in an order that the seed decides.
    pub fn hosts_to_try(&self, seed: u64) -> Vec<&Host> {
        let mut hosts: Vec<&Host> = self.hosts.iter().collect();
        if self.load_balance_hosts == LoadBalanceHosts::Random {
            shuffle(&mut hosts, seed);
        }
        hosts
    }
}

/// Brings the items into an order that the seed decides (Fisher and Yates): the connection uses it for the addresses of
/// one host too.
pub fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut state = seed;
    for last in (1..items.len()).rev() {
        items.swap(last, usize::try_from(random(&mut state) % (last as u64 + 1)).unwrap_or(last));
    }
}

/// SplitMix64: enough for spreading load, and for nothing that must stay secret.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
