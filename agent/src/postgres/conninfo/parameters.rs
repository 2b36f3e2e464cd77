//! The parameters that libpq knows, and the values that were given for them.

use std::collections::BTreeMap;

use super::environment::Environment;
use super::error::{ConninfoError, Origin};

/// What becomes of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Support {
    /// It does what it does in libpq.
    Used,
    /// Accepted and without effect, which weakens nothing.
    Ignored,
    /// Would change what the connection may be, and is refused with this reason.
    Refused(&'static str),
}

/// One parameter of a connection string.
#[derive(Debug)]
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// The environment variable that gives its value when nothing else does.
    variable: Option<&'static str>,
    support: Support,
}

const fn used(name: &'static str, variable: &'static str) -> Parameter {
    Parameter { name, variable: Some(variable), support: Support::Used }
}

const fn plain(name: &'static str) -> Parameter {
    Parameter { name, variable: None, support: Support::Used }
}

const fn ignored(name: &'static str, variable: Option<&'static str>) -> Parameter {
    Parameter { name, variable, support: Support::Ignored }
}

const fn refused(name: &'static str, variable: Option<&'static str>, reason: &'static str) -> Parameter {
    Parameter { name, variable, support: Support::Refused(reason) }
}

/// Every parameter of libpq 13 to 18, except those of removed features (`tty`, `authtype`).
const PARAMETERS: &[Parameter] = &[
    used("service", "PGSERVICE"),
    used("servicefile", "PGSERVICEFILE"),
    used("user", "PGUSER"),
    used("password", "PGPASSWORD"),
    used("passfile", "PGPASSFILE"),
    used("channel_binding", "PGCHANNELBINDING"),
    used("connect_timeout", "PGCONNECT_TIMEOUT"),
    used("dbname", "PGDATABASE"),
    used("host", "PGHOST"),
    used("hostaddr", "PGHOSTADDR"),
    used("port", "PGPORT"),
    used("options", "PGOPTIONS"),
    used("application_name", "PGAPPNAME"),
    plain("fallback_application_name"),
    plain("keepalives"),
    plain("keepalives_idle"),
    plain("keepalives_interval"),
    plain("keepalives_count"),
    plain("tcp_user_timeout"),
    used("sslmode", "PGSSLMODE"),
    used("sslnegotiation", "PGSSLNEGOTIATION"),
    used("sslcert", "PGSSLCERT"),
    used("sslkey", "PGSSLKEY"),
    used("sslcertmode", "PGSSLCERTMODE"),
    used("sslrootcert", "PGSSLROOTCERT"),
    used("sslcrl", "PGSSLCRL"),
    used("sslsni", "PGSSLSNI"),
    used("require_auth", "PGREQUIREAUTH"),
    used("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    used("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    used("min_protocol_version", "PGMINPROTOCOLVERSION"),
    used("gssencmode", "PGGSSENCMODE"),
    used("target_session_attrs", "PGTARGETSESSIONATTRS"),
    used("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    // The client always speaks UTF-8, protocol 3.0 and no GSSAPI or OAuth; compression of TLS is never offered.
    ignored("client_encoding", Some("PGCLIENTENCODING")),
    ignored("sslcompression", Some("PGSSLCOMPRESSION")),
    ignored("max_protocol_version", Some("PGMAXPROTOCOLVERSION")),
    ignored("krbsrvname", Some("PGKRBSRVNAME")),
    ignored("gsslib", Some("PGGSSLIB")),
    ignored("gssdelegation", Some("PGGSSDELEGATION")),
    ignored("oauth_issuer", None),
    ignored("oauth_client_id", None),
    ignored("oauth_client_secret", None),
    ignored("oauth_scope", None),
    // Would write the keys of the connection to a file: not doing so harms nobody.
    ignored("sslkeylogfile", None),
    refused("replication", None, "the replication mode is chosen by what the connection is for; leave it out"),
    refused("requirepeer", Some("PGREQUIREPEER"), "the owner of the server's process is not checked; leave it out"),
    refused("sslcrldir", Some("PGSSLCRLDIR"), "directories of revocation lists are not read; use sslcrl with one file"),
    refused("sslpassword", None, "encrypted private keys are not read; store the key decrypted, readable by its owner"),
    refused("scram_client_key", None, "logging in with SCRAM keys is not supported; use a password"),
    refused("scram_server_key", None, "logging in with SCRAM keys is not supported; use a password"),
];

/// The value of a parameter, and who said it.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) value: String,
    pub(super) origin: Origin,
}

/// The values given so far. Holds the password: it has no `Debug`.
#[derive(Default)]
pub(super) struct Settings {
    values: BTreeMap<&'static str, Setting>,
}

impl Settings {
    /// Sets a parameter, over what was said before.
    pub(super) fn set(&mut self, name: &str, value: &str, origin: &Origin) -> Result<(), ConninfoError> {
        let (parameter, value) = find(name, value, origin)?;
        self.values.insert(parameter.name, Setting { value: value.to_owned(), origin: origin.clone() });
        Ok(())
    }

    /// Sets a parameter that nothing was said about before.
    pub(super) fn set_default(&mut self, name: &str, value: &str, origin: &Origin) -> Result<(), ConninfoError> {
        let (parameter, value) = find(name, value, origin)?;
        let setting = || Setting { value: value.to_owned(), origin: origin.clone() };
        self.values.entry(parameter.name).or_insert_with(setting);
        Ok(())
    }

    /// Adds what the environment says about everything not yet set.
    pub(super) fn set_from_environment(&mut self, environment: &Environment) -> Result<(), ConninfoError> {
        for parameter in PARAMETERS {
            if let Some(variable) = parameter.variable
                && !self.values.contains_key(parameter.name)
                && let Some(value) = environment.variable(variable)?
            {
                self.set(parameter.name, value, &Origin::Variable(variable))?;
            }
        }
        // The predecessor of PGSSLMODE, still honoured by libpq when it begins with 1.
        if environment.variable("PGREQUIRESSL")?.is_some_and(|value| value.starts_with('1')) {
            self.set_default("sslmode", "require", &Origin::Variable("PGREQUIRESSL"))?;
        }
        Ok(())
    }

    /// Fails when something was set that is not supported and must not be ignored. Empty values say nothing.
    pub(super) fn refuse_unsupported(&self) -> Result<(), ConninfoError> {
        for parameter in PARAMETERS {
            if let Support::Refused(reason) = parameter.support
                && let Some(setting) = self.nonempty(parameter.name)
            {
                return Err(setting.unsupported(parameter.name, reason));
            }
        }
        Ok(())
    }

    /// What was said about a parameter, be it empty.
    pub(super) fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }

    /// What was said about a parameter, unless it is empty.
    pub(super) fn nonempty(&self, name: &str) -> Option<&Setting> {
        self.get(name).filter(|setting| !setting.value.is_empty())
    }

    /// The text of a parameter, unless it is empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.nonempty(name).map(|setting| setting.value.clone())
    }

    /// The value of a parameter that can have only these; an empty one is wrong, as in libpq.
    pub(super) fn choice<T: Copy>(
        &self,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, ConninfoError> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        match choices.iter().find(|(word, _)| *word == setting.value) {
            Some((_, choice)) => Ok(Some(*choice)),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(setting.invalid(name, format!("it is one of {}", words.join(", "))))
            }
        }
    }

    /// The value of a parameter that is a whole number; blanks around it are allowed, as in libpq.
    pub(super) fn integer(&self, name: &'static str) -> Result<Option<i32>, ConninfoError> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let number = setting.value.trim_matches(is_blank).parse();
        number.map(Some).map_err(|_| setting.invalid(name, "it is a whole number of 32 bits"))
    }
}

impl Setting {
    /// An error about this value.
    pub(super) fn invalid(&self, parameter: &'static str, reason: impl Into<String>) -> ConninfoError {
        let (value, origin) = (self.value.clone(), self.origin.clone());
        ConninfoError::InvalidValue { parameter, value, origin, reason: reason.into() }
    }

    /// An error about a value that is right in itself.
    pub(super) fn unsupported(&self, parameter: &'static str, reason: impl Into<String>) -> ConninfoError {
        ConninfoError::Unsupported { parameter, origin: self.origin.clone(), reason: reason.into() }
    }
}

/// Whether there is a parameter of this name.
pub(super) fn is_known(name: &str) -> bool {
    PARAMETERS.iter().any(|parameter| parameter.name == name)
}

/// What C's `isspace` calls a blank, and libpq with it.
pub(super) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\u{b}' | '\u{c}' | '\r')
}

fn find<'a>(name: &str, value: &'a str, origin: &Origin) -> Result<(&'static Parameter, &'a str), ConninfoError> {
    // The predecessor of sslmode: libpq translates it wherever it appears.
    let (name, value) = match name {
        "requiressl" if value.starts_with('1') => ("sslmode", "require"),
        "requiressl" => ("sslmode", "prefer"),
        _ => (name, value),
    };
    let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) else {
        let what = format!("'{name}'");
        return Err(ConninfoError::UnknownParameter { what, origin: origin.clone(), nearest: nearest(name) });
    };
    if value.contains('\0') {
        // C strings end there, and so do the startup message's.
        let reason = "it contains a zero byte".to_owned();
        return Err(ConninfoError::Unsupported { parameter: parameter.name, origin: origin.clone(), reason });
    }
    Ok((parameter, value))
}

/// The known name that is most like this one, if any is.
fn nearest(name: &str) -> Option<&'static str> {
    let distances = PARAMETERS.iter().map(|known| (strsim::damerau_levenshtein(name, known.name), known.name));
    let (distance, known) = distances.min()?;
    (distance <= known.len().div_ceil(2)).then_some(known)
}
