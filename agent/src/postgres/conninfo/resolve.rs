//! Puts together what the connection string, the service file, the environment and the defaults say.

use std::path::PathBuf;
use std::time::Duration;

use super::authentication::AllowedAuthentication;
use super::environment::Environment;
use super::error::{ConninfoError, Origin};
use super::hosts::{self, Host};
use super::keepalives::Keepalives;
use super::keyword_value::{self, Pair};
use super::parameters::{Settings, is_blank, is_known};
use super::password::{Login, Password, PasswordFile};
use super::{ChannelBinding, Conninfo, LoadBalanceHosts, TargetSessionAttributes, service_file, tls, uri};

/// Where nothing is said, libpq waits for ever; a program that nobody watches must not.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Parameters whose unquoted value may go on in what looks like the next parameter.
const SECRETS: [&str; 5] = ["password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret"];

pub(super) fn resolve(text: &str, environment: &Environment) -> Result<Conninfo, ConninfoError> {
    let mut settings = Settings::default();
    read_text(text, &mut settings)?;
    service_file::apply(&mut settings, environment)?;
    settings.set_from_environment(environment)?;
    refuse_nested(&settings)?;
    settings.refuse_unsupported()?;
    check_protocol(&settings)?;

    let user = settings.text("user").or_else(|| environment.user().map(str::to_owned));
    let user = user.ok_or(ConninfoError::NoUser)?;
    let database = settings.text("dbname").unwrap_or_else(|| user.clone());
    let password = settings.text("password").map(Password::new);
    let mut hosts = hosts::resolve(&settings, environment)?;
    let mut warnings = Vec::new();
    if password.is_none() {
        warnings.extend(look_up_passwords(&mut hosts, &user, &database, password_file(&settings, environment)));
    }
    Ok(Conninfo {
        hosts,
        application_name: settings.text("application_name").or_else(|| settings.text("fallback_application_name")),
        options: settings.text("options"),
        connect_timeout: connect_timeout(&settings)?,
        target_session_attributes: target_session_attributes(&settings)?,
        load_balance_hosts: load_balance_hosts(&settings)?,
        channel_binding: channel_binding(&settings)?,
        authentication: AllowedAuthentication::resolve(&settings)?,
        tls: tls::resolve(&settings, environment)?,
        keepalives: Keepalives::resolve(&settings)?,
        user,
        database,
        warnings,
        password,
    })
}

fn read_text(text: &str, settings: &mut Settings) -> Result<(), ConninfoError> {
    let pairs = if uri::is_uri(text) { uri::parse(text)? } else { keyword_value::parse(text)? };
    let mut after_secret = false;
    for Pair { keyword, value, position } in pairs {
        settings.set(&keyword, &value, &Origin::ConnectionString).map_err(|error| match error {
            ConninfoError::UnknownParameter { origin, .. } if after_secret => {
                let what = format!("the word at character {position}, which follows a secret without quotes,");
                ConninfoError::UnknownParameter { what, origin, nearest: None }
            }
            error => error,
        })?;
        after_secret |= SECRETS.contains(&keyword.as_str());
    }
    Ok(())
}

/// libpq itself takes such a database name literally, only its tools expand it. It is nearly always a mistake, and may
/// contain a password, which would reach the server's log.
fn refuse_nested(settings: &Settings) -> Result<(), ConninfoError> {
    let Some(setting) = settings.nonempty("dbname") else { return Ok(()) };
    let keyword = setting.value.split_once('=').map(|(keyword, _)| keyword.trim_matches(is_blank));
    if uri::is_uri(&setting.value) || keyword.is_some_and(is_known) {
        let reason = "it is a connection string itself; write its parameters beside the others";
        return Err(setting.unsupported("dbname", reason));
    }
    Ok(())
}

/// Protocol 3.0 is what every supported server speaks, and all that is spoken here.
fn check_protocol(settings: &Settings) -> Result<(), ConninfoError> {
    match settings.nonempty("min_protocol_version") {
        Some(setting) if setting.value != "3.0" => {
            Err(setting.unsupported("min_protocol_version", "only protocol 3.0 is spoken"))
        }
        _ => Ok(()),
    }
}

fn password_file(settings: &Settings, environment: &Environment) -> Option<PathBuf> {
    let named = settings.text("passfile").map(PathBuf::from);
    named.or_else(|| Some(environment.home()?.join(".pgpass")))
}

/// Gives each host its password; returns why the file cannot be used.
///
/// The line for the database comes first. One for `replication` serves too: it is what PostgreSQL's documentation tells
/// to write for a standby, and what pg_basebackup and pg_receivewal look for.
fn look_up_passwords(hosts: &mut [Host], user: &str, database: &str, path: Option<PathBuf>) -> Option<String> {
    let (file, warning) = PasswordFile::read(&path?);
    for host in hosts {
        let find = |database| file.find(&Login { host: &host.password_key, port: host.port, database, user });
        // An empty password is none, as in the string itself.
        let password = find(database).or_else(|| find("replication")).filter(|found| !found.as_bytes().is_empty());
        host.password = password;
    }
    warning
}

fn connect_timeout(settings: &Settings) -> Result<Option<Duration>, ConninfoError> {
    Ok(match settings.integer("connect_timeout")? {
        None => Some(DEFAULT_CONNECT_TIMEOUT),
        Some(seconds) => u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs),
    })
}

fn target_session_attributes(settings: &Settings) -> Result<TargetSessionAttributes, ConninfoError> {
    let choices = [
        ("any", TargetSessionAttributes::Any),
        ("read-write", TargetSessionAttributes::ReadWrite),
        ("read-only", TargetSessionAttributes::ReadOnly),
        ("primary", TargetSessionAttributes::Primary),
        ("standby", TargetSessionAttributes::Standby),
        ("prefer-standby", TargetSessionAttributes::PreferStandby),
    ];
    Ok(settings.choice("target_session_attrs", &choices)?.unwrap_or_default())
}

fn load_balance_hosts(settings: &Settings) -> Result<LoadBalanceHosts, ConninfoError> {
    let choices = [("disable", LoadBalanceHosts::Disable), ("random", LoadBalanceHosts::Random)];
    Ok(settings.choice("load_balance_hosts", &choices)?.unwrap_or_default())
}

fn channel_binding(settings: &Settings) -> Result<ChannelBinding, ConninfoError> {
    let choices = [
        ("disable", ChannelBinding::Disable),
        ("prefer", ChannelBinding::Prefer),
        ("require", ChannelBinding::Require),
    ];
    Ok(settings.choice("channel_binding", &choices)?.unwrap_or_default())
}
