//! The places to try: `host`, `hostaddr` and `port`, each of which may be a list.

use std::fmt;
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConninfoError;
use super::parameters::{Setting, Settings, is_blank};
use super::password::Password;

/// Where servers listen when nothing says otherwise.
const DEFAULT_PORT: u16 = 5432;

/// The longest socket path that fits into `sockaddr_un` beside its closing zero (Linux).
const MAX_SOCKET_PATH: usize = 107;

/// One place to try.
#[derive(Clone, Debug)]
pub struct Host {
    /// `host` as written: the name that a certificate must bear. `None` when only `hostaddr` was given, or nothing.
    pub name: Option<String>,
    /// Where the socket is opened.
    pub address: HostAddress,
    /// The port, which for a socket directory is part of the socket's name.
    pub port: u16,
    pub(super) password: Option<Password>,
    pub(super) password_key: String,
}

/// Where a socket is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// Over TCP.
    Tcp {
        /// A name to look up, which may stand for several addresses, or an address in text form without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
    /// The socket itself, `DIRECTORY/.s.PGSQL.PORT`. One in Linux's abstract namespace begins with a zero byte, as
    /// tokio's `UnixStream::connect` expects it.
    Unix(PathBuf),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, &self.name) {
            (HostAddress::Unix(path), _) => {
                let path = path.to_string_lossy();
                write!(f, "socket '{}'", path.strip_prefix('\0').map(|name| format!("@{name}")).unwrap_or(path.into()))
            }
            (HostAddress::Tcp { host, port }, Some(name)) if name != host => {
                write!(f, "'{name}' ({host}) port {port}")
            }
            (HostAddress::Tcp { host, port }, _) => write!(f, "'{host}' port {port}"),
        }
    }
}

/// The hosts in the order written; never none.
pub(super) fn resolve(settings: &Settings, environment: &Environment) -> Result<Vec<Host>, ConninfoError> {
    let addresses = list(settings.nonempty("hostaddr"));
    let names = list(settings.nonempty("host"));
    let count = if addresses.is_empty() { names.len().max(1) } else { addresses.len() };
    if !names.is_empty() && names.len() != count {
        return Err(ConninfoError::ListLengths { of: "host names", count: names.len(), hosts: count });
    }
    let ports = ports(settings.nonempty("port"))?;
    if ports.len() > 1 && ports.len() != count {
        return Err(ConninfoError::ListLengths { of: "ports", count: ports.len(), hosts: count });
    }
    (0..count)
        .map(|index| {
            let written = |list: &[String]| list.get(index).filter(|text| !text.is_empty()).cloned();
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
            let (name, address) = (written(&names), written(&addresses));
            match (address, name) {
                (Some(address), name) => by_address(settings, address, name, port),
                (None, Some(name)) if is_socket(&name) => in_directory(settings, &name, port, environment),
                (None, Some(name)) => Ok(by_name(name, port)),
                (None, None) => default_host(settings, port, environment),
            }
        })
        .collect()
}

fn list(setting: Option<&Setting>) -> Vec<String> {
    setting.map(|setting| setting.value.split(',').map(str::to_owned).collect()).unwrap_or_default()
}

/// An empty port in a list is the default one.
fn ports(setting: Option<&Setting>) -> Result<Vec<u16>, ConninfoError> {
    let Some(setting) = setting else { return Ok(Vec::new()) };
    let port = |text: &str| match text.trim_matches(is_blank) {
        "" if text.is_empty() => Ok(DEFAULT_PORT),
        text => match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(setting.invalid("port", "a port is a number from 1 to 65535")),
        },
    };
    setting.value.split(',').map(port).collect()
}

/// Whether libpq takes a host name for a socket's directory, or for a name in the abstract namespace.
fn is_socket(name: &str) -> bool {
    name.starts_with(['/', '@'])
}

fn by_address(settings: &Settings, address: String, name: Option<String>, port: u16) -> Result<Host, ConninfoError> {
    // The zone of a link-local address is no part of what is parsed.
    let digits = address.split_once('%').map_or(address.as_str(), |(digits, _)| digits);
    if digits.parse::<IpAddr>().is_err() {
        let wrong = settings.get("hostaddr").map(|setting| {
            setting.invalid("hostaddr", format!("'{address}' is no IP address; a name belongs into host"))
        });
        return Err(wrong.unwrap_or(ConninfoError::Syntax("hostaddr is no IP address".to_owned())));
    }
    let password_key = name.clone().unwrap_or_else(|| address.clone());
    Ok(Host { name, address: HostAddress::Tcp { host: address, port }, port, password: None, password_key })
}

fn by_name(name: String, port: u16) -> Host {
    let address = HostAddress::Tcp { host: name.clone(), port };
    Host { name: Some(name.clone()), address, port, password: None, password_key: name }
}

fn in_directory(settings: &Settings, name: &str, port: u16, environment: &Environment) -> Result<Host, ConninfoError> {
    let path = socket_in(Path::new(name), port);
    if path.as_os_str().len() > MAX_SOCKET_PATH {
        let reason = format!("the path of the socket '{}' is longer than {MAX_SOCKET_PATH} bytes", path.display());
        let wrong = settings.get("host").map(|setting| setting.invalid("host", reason.clone()));
        return Err(wrong.unwrap_or(ConninfoError::Syntax(reason)));
    }
    let path = match name.strip_prefix('@') {
        Some(_) => PathBuf::from(path.to_string_lossy().replacen('@', "\0", 1)),
        None => path,
    };
    // In password files the directory that is the default is written `localhost`.
    let is_default = environment.socket_directories().iter().any(|directory| directory.as_os_str() == name);
    let password_key = if is_default { "localhost" } else { name }.to_owned();
    Ok(Host { name: Some(name.to_owned()), address: HostAddress::Unix(path), port, password: None, password_key })
}

/// The local server's socket: in the first directory that has one for this port, else in the first that exists.
fn default_host(settings: &Settings, port: u16, environment: &Environment) -> Result<Host, ConninfoError> {
    let directories = environment.socket_directories();
    let has_socket = |directory: &&PathBuf| {
        std::fs::metadata(socket_in(directory, port)).is_ok_and(|metadata| metadata.file_type().is_socket())
    };
    let directory = directories.iter().find(has_socket);
    let directory = directory.or_else(|| directories.iter().find(|directory| directory.is_dir()));
    match directory.or(directories.first()).and_then(|directory| directory.to_str()) {
        Some(directory) => {
            let host = in_directory(settings, directory, port, environment)?;
            Ok(Host { name: None, ..host })
        }
        None => Ok(by_name("localhost".to_owned(), port)),
    }
}

fn socket_in(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

#[cfg(test)]
mod tests {
    use super::super::keyword_value;
    use super::*;
    use crate::postgres::conninfo::Origin;

    fn resolved(text: &str, environment: &Environment) -> Result<Vec<Host>, ConninfoError> {
        let mut settings = Settings::default();
        for pair in keyword_value::parse(text)? {
            settings.set(&pair.keyword, &pair.value, &Origin::ConnectionString)?;
        }
        resolve(&settings, environment)
    }

    fn shown(text: &str) -> Vec<String> {
        let environment = Environment::default().with_socket_directories(vec!["/nowhere/run".into()]);
        let hosts = resolved(text, &environment).unwrap_or_else(|error| panic!("{text}: {error}"));
        hosts.iter().map(|host| format!("{host} as {}", host.password_key)).collect()
    }

    #[test]
    fn pairs_names_addresses_and_ports() {
        for (text, expected) in [
            ("", "socket '/nowhere/run/.s.PGSQL.5432' as localhost"),
            ("port=7", "socket '/nowhere/run/.s.PGSQL.7' as localhost"),
            ("host='' port=''", "socket '/nowhere/run/.s.PGSQL.5432' as localhost"),
            ("host=/nowhere/run", "socket '/nowhere/run/.s.PGSQL.5432' as localhost"),
            ("host=/else/where", "socket '/else/where/.s.PGSQL.5432' as /else/where"),
            ("host=@abstract", "socket '@abstract/.s.PGSQL.5432' as @abstract"),
            ("host=a", "'a' port 5432 as a"),
            ("host=a port=' 7 '", "'a' port 7 as a"),
            ("host=::1", "'::1' port 5432 as ::1"),
            ("hostaddr=10.0.0.1", "'10.0.0.1' port 5432 as 10.0.0.1"),
            ("hostaddr=fe80::1%eth0", "'fe80::1%eth0' port 5432 as fe80::1%eth0"),
            ("host=a hostaddr=10.0.0.1", "'a' (10.0.0.1) port 5432 as a"),
        ] {
            assert_eq!(shown(text), [expected], "{text}");
        }
        assert_eq!(
            shown("host=a,/b,,c port=1,2,,4"),
            [
                "'a' port 1 as a",
                "socket '/b/.s.PGSQL.2' as /b",
                "socket '/nowhere/run/.s.PGSQL.5432' as localhost",
                "'c' port 4 as c"
            ]
        );
        assert_eq!(shown("host=a,b port=7"), ["'a' port 7 as a", "'b' port 7 as b"]);
        // Where there is no address, the name is looked up.
        assert_eq!(shown("host=a,b hostaddr=::1,"), ["'a' (::1) port 5432 as a", "'b' port 5432 as b"]);
    }

    #[test]
    fn refuses_lists_that_do_not_match_and_what_cannot_be_opened() {
        let long = format!("host=/{}", "x".repeat(100));
        for text in [
            "host=a,b port=1,2,3",
            "host=a port=1,2",
            "host=a,b hostaddr=::1",
            "hostaddr=example.com",
            "port=0",
            "port=65536",
            "port=-1",
            "port=x",
            "port=' '",
            &long,
        ] {
            assert!(resolved(text, &Environment::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn finds_the_socket_of_a_local_server() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = vec![first.path().to_owned(), second.path().to_owned()];
        let environment = Environment::default().with_socket_directories(directories);
        let path = second.path().join(".s.PGSQL.5433");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(resolved("port=5433", &environment).unwrap()[0].address, HostAddress::Unix(path));
        let absent = HostAddress::Unix(first.path().join(".s.PGSQL.5432"));
        assert_eq!(resolved("", &environment).unwrap()[0].address, absent);
    }

    #[test]
    fn opens_abstract_sockets_the_way_tokio_wants_it() {
        let hosts = resolved("host=@x", &Environment::default()).unwrap();
        assert_eq!(hosts[0].address, HostAddress::Unix(PathBuf::from("\0x/.s.PGSQL.5432")));
    }
}
