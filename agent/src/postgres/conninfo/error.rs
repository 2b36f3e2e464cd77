//! Why a connection string cannot be used. No message ever contains a secret.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written: messages name the place that must be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The connection string itself.
    ConnectionString,
    /// A service file.
    ServiceFile(PathBuf),
    /// An environment variable.
    Variable(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionString => f.write_str("the connection string"),
            Self::ServiceFile(path) => write!(f, "service file '{}'", path.display()),
            Self::Variable(name) => write!(f, "the environment's {name}"),
        }
    }
}

/// Why a connection string cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConninfoError {
    /// The text is neither a list of parameters nor a URI.
    #[error("unable to understand the connection string: {0}")]
    Syntax(String),
    /// PostgreSQL has no such parameter.
    #[error("unable to use {what} of {origin}: there is no such parameter{}", nearest_text(*.nearest))]
    UnknownParameter {
        /// The name, or where it stands when it may be part of a password.
        what: String,
        /// Where it was written.
        origin: Origin,
        /// The known name that is most like it.
        nearest: Option<&'static str>,
    },
    /// The value is not one that the parameter can have.
    #[error("unable to use {parameter} '{value}' of {origin}: {reason}")]
    InvalidValue {
        /// The parameter.
        parameter: &'static str,
        /// What was written.
        value: String,
        /// Where it was written.
        origin: Origin,
        /// What would be right.
        reason: String,
    },
    /// The parameter, or this value of it, would change what the connection is allowed to be, and is not supported.
    #[error("unable to honour {parameter} of {origin}: {reason}")]
    Unsupported {
        /// The parameter.
        parameter: &'static str,
        /// Where it was written.
        origin: Origin,
        /// Why, and what to do instead.
        reason: String,
    },
    /// Two lists that belong together differ in length.
    #[error("unable to match {count} {of} to {hosts} hosts")]
    ListLengths {
        /// What the second list holds.
        of: &'static str,
        /// How many of those there are.
        count: usize,
        /// How many hosts there are.
        hosts: usize,
    },
    /// A line of the service file is wrong, or the file cannot be read.
    #[error("unable to use service file '{}': {reason}", .path.display())]
    ServiceFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with its line.
        reason: String,
    },
    /// No service file defines the service.
    #[error("unable to find service '{service}': {searched}")]
    ServiceNotFound {
        /// Name of the service.
        service: String,
        /// Which files were searched.
        searched: String,
    },
    /// Nothing says which role to log in as.
    #[error("unable to tell the role to log in as: no user is given, and the account that runs this has no name")]
    NoUser,
    /// The environment holds a variable that is not text.
    #[error("unable to use the environment's {0}: it is not UTF-8")]
    VariableNotText(&'static str),
}

impl ConninfoError {
    /// What to do next, where that is not in the message.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoUser => Some("add user=ROLE to the connection string, or set PGUSER"),
            Self::ServiceNotFound { .. } => {
                Some("add a section [NAME] to ~/.pg_service.conf, or name the file in PGSERVICEFILE")
            }
            _ => None,
        }
    }
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(", did you mean '{name}'?")).unwrap_or_default()
}
