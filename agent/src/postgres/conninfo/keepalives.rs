//! How the kernel notices that the other end is gone.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;

use super::error::ConninfoError;
use super::parameters::Settings;

/// After how much silence the kernel asks the peer, where nothing says so.
///
/// The kernel's own two hours would let a lost primary go unnoticed for as long.
const DEFAULT_IDLE: Duration = Duration::from_secs(30);

/// TCP keepalives and user timeout. `None` leaves the kernel's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether keepalives are sent at all.
    pub enabled: bool,
    /// Silence before the first one.
    pub idle: Option<Duration>,
    /// Time between two.
    pub interval: Option<Duration>,
    /// How many may be lost before the connection is given up.
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged before the connection is given up.
    pub user_timeout: Option<Duration>,
}

impl Default for Keepalives {
    fn default() -> Self {
        Self { enabled: true, idle: Some(DEFAULT_IDLE), interval: None, count: None, user_timeout: None }
    }
}

impl Keepalives {
    pub(super) fn resolve(settings: &Settings) -> Result<Self, ConninfoError> {
        let defaults = Self::default();
        // Zero and less stand for the kernel's setting.
        let positive = |name| -> Result<Option<u32>, ConninfoError> {
            Ok(settings.integer(name)?.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0))
        };
        let seconds = |name| -> Result<Option<Duration>, ConninfoError> {
            Ok(positive(name)?.map(|seconds| Duration::from_secs(seconds.into())))
        };
        let idle = seconds("keepalives_idle")?;
        Ok(Self {
            enabled: settings.integer("keepalives")?.is_none_or(|number| number != 0),
            idle: if settings.get("keepalives_idle").is_some() { idle } else { defaults.idle },
            interval: seconds("keepalives_interval")?,
            count: positive("keepalives_count")?,
            user_timeout: positive("tcp_user_timeout")?.map(|milliseconds| Duration::from_millis(milliseconds.into())),
        })
    }

    /// Sets them on a connected TCP socket.
    pub fn apply(&self, socket: &tokio::net::TcpStream) -> io::Result<()> {
        sockopt::set_socket_keepalive(socket, self.enabled)?;
        if self.enabled {
            if let Some(idle) = self.idle {
                sockopt::set_tcp_keepidle(socket, idle)?;
            }
            if let Some(interval) = self.interval {
                sockopt::set_tcp_keepintvl(socket, interval)?;
            }
            if let Some(count) = self.count {
                sockopt::set_tcp_keepcnt(socket, count)?;
            }
        }
        if let Some(timeout) = self.user_timeout {
            sockopt::set_tcp_user_timeout(socket, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::keyword_value;
    use super::*;
    use crate::postgres::conninfo::Origin;

    fn resolved(text: &str) -> Result<Keepalives, ConninfoError> {
        let mut settings = Settings::default();
        for pair in keyword_value::parse(text)? {
            settings.set(&pair.keyword, &pair.value, &Origin::ConnectionString)?;
        }
        Keepalives::resolve(&settings)
    }

    #[test]
    fn reads_numbers_and_leaves_the_rest_to_the_kernel() {
        assert_eq!(resolved("").unwrap(), Keepalives::default());
        assert!(!resolved("keepalives=0").unwrap().enabled);
        assert_eq!(resolved("keepalives_idle=0").unwrap().idle, None);
        assert_eq!(resolved("keepalives_idle=-5").unwrap().idle, None);
        let all = "keepalives=1 keepalives_idle=5 keepalives_interval=' 6 ' keepalives_count=7 tcp_user_timeout=800";
        let expected = Keepalives {
            enabled: true,
            idle: Some(Duration::from_secs(5)),
            interval: Some(Duration::from_secs(6)),
            count: Some(7),
            user_timeout: Some(Duration::from_millis(800)),
        };
        assert_eq!(resolved(all).unwrap(), expected);
        for text in ["keepalives=on", "keepalives_idle=1s", "keepalives_count=99999999999", "tcp_user_timeout=''"] {
            assert!(resolved(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn sets_them_on_a_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let text = "keepalives_idle=5 keepalives_interval=6 keepalives_count=7 tcp_user_timeout=800";
        resolved(text).unwrap().apply(&socket).unwrap();
        assert!(sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(5));
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), Duration::from_secs(6));
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), 7);
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 800);
        resolved("keepalives=0").unwrap().apply(&socket).unwrap();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
    }
}
