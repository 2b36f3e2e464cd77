//! Errors and notices of a server: what went wrong, in its own words.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::error::WireError;
use super::fields::Fields;

/// The five characters that say what kind of condition a server reports (PostgreSQL's appendix "Error Codes").
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The server has as many connections of this kind as it may have.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// All replication slots or walsenders are in use.
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self(*b"53400");
    /// No pg_hba.conf line lets this user in, the user is unknown or lacks an attribute.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// The password is wrong.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// The user may not do this.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// The command is not of the server's language, which is that of another version or mode.
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// What was to be created exists.
    pub const DUPLICATE_OBJECT: Self = Self(*b"42710");
    /// What was named, such as a slot, does not exist.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// The object is not in the state that the command needs: a slot that was invalidated, `wal_level` too low.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// Somebody else uses the object, such as a slot.
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// A file is missing: a WAL segment that was removed, a timeline without history.
    pub const UNDEFINED_FILE: Self = Self(*b"58P01");
    /// The server cannot do this, or was built without it.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// An option has a value that the server does not take.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// Pages of the cluster are damaged.
    pub const DATA_CORRUPTED: Self = Self(*b"XX001");
    /// Whatever has no code of its own, such as WAL that was removed while it was being read.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");
    /// The server is shutting down, or an administrator ended the session.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// Another process of the server crashed.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// The server is starting, stopping or recovering and takes no connections now.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");

    /// The characters.
    pub fn as_str(&self) -> &str {
        // The constructor accepts ASCII only.
        str::from_utf8(&self.0).unwrap_or("")
    }

    /// The first two characters: the class of the condition, such as `28` for refused authorization.
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or("")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no SQLSTATE.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an SQLSTATE has five digits or capital letters")]
pub struct ParseSqlStateError;

impl FromStr for SqlState {
    type Err = ParseSqlStateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let code: [u8; 5] = text.as_bytes().try_into().map_err(|_| ParseSqlStateError)?;
        let legal = code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        if legal { Ok(Self(code)) } else { Err(ParseSqlStateError) }
    }
}

/// What an `ErrorResponse` or a `NoticeResponse` says.
///
/// Display gives one line: severity, message, detail and hint, SQLSTATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerMessage {
    /// `ERROR`, `FATAL`, `PANIC`, or `WARNING`, `NOTICE` …; never translated where the server is able to say so.
    pub severity: String,
    /// The kind of the condition.
    pub code: SqlState,
    /// What happened.
    pub message: String,
    /// More about it; may be several lines.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Where in the server's work it happened.
    pub context: Option<String>,
    /// The function of PostgreSQL's source that reported it.
    pub routine: Option<String>,
}

impl ServerMessage {
    /// Reads the content of a message of kind `'E'` or `'N'`.
    pub(super) fn parse(name: &'static str, body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new(name, body);
        let (mut localized, mut severity, mut code, mut message) = (None, None, None, None);
        let (mut detail, mut hint, mut context, mut routine) = (None, None, None, None);
        loop {
            let place = match fields.u8()? {
                0 => break,
                b'S' => &mut localized,
                b'V' => &mut severity,
                b'C' => &mut code,
                b'M' => &mut message,
                b'D' => &mut detail,
                b'H' => &mut hint,
                b'W' => &mut context,
                b'R' => &mut routine,
                // Positions, object names, file and line; and what later versions may add.
                _ => {
                    fields.c_string()?;
                    continue;
                }
            };
            *place = Some(fields.text()?);
        }
        fields.finish()?;
        let code = code.ok_or_else(|| fields.malformed("it has no SQLSTATE"))?;
        Ok(Self {
            severity: severity.or(localized).ok_or_else(|| fields.malformed("it has no severity"))?,
            code: code.parse().map_err(|_| fields.malformed("its SQLSTATE is none"))?,
            message: message.ok_or_else(|| fields.malformed("it has no text"))?,
            detail,
            hint,
            context,
            routine,
        })
    }

    /// Whether the server ends the session with this.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }
}

impl fmt::Display for ServerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", OneLine(&self.severity), OneLine(&self.message))?;
        for (name, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "; {name}: {}", OneLine(text))?;
            }
        }
        write!(f, " [{}]", self.code)
    }
}

/// A server's text without line ends and other controls, which could forge lines of a log.
struct OneLine<'a>(&'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split(char::is_control).filter(|part| !part.is_empty()).enumerate() {
            let separator = if index == 0 { "" } else { " " };
            write!(f, "{separator}{part}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &'static [u8]) -> Result<ServerMessage, WireError> {
        ServerMessage::parse("ErrorResponse", Bytes::from_static(bytes))
    }

    #[test]
    fn the_fields_of_an_error_are_read() {
        let error = parse(
            b"SFEHLER\0VERROR\0C58P01\0Mrequested WAL segment has already been removed\0Done\ntwo\0Hwait\0Fwalsender.c\0\
              L123\0RWalSndErr\0Wcontext\0\0",
        )
        .unwrap();
        assert_eq!((error.severity.as_str(), error.code), ("ERROR", SqlState::UNDEFINED_FILE));
        assert_eq!(error.routine.as_deref(), Some("WalSndErr"));
        assert_eq!(error.context.as_deref(), Some("context"));
        assert!(!error.is_fatal());
        assert_eq!(
            error.to_string(),
            "ERROR: requested WAL segment has already been removed; detail: one two; hint: wait [58P01]"
        );
    }

    #[test]
    fn no_field_breaks_a_line() {
        let error = parse(b"SE\nR\0C58P01\0Ma\r\nb\x1B[2J\0Dc\nd\0He\n\0\0").unwrap();
        assert_eq!(error.to_string(), "E R: a b [2J; detail: c d; hint: e [58P01]");
    }

    #[test]
    fn severity_falls_back_to_the_translated_one() {
        let error = parse(b"SFATAL\0C28P01\0Mno\0\0").unwrap();
        assert!(error.is_fatal());
        assert_eq!(error.code.class(), "28");
    }

    #[test]
    fn what_is_no_error_is_refused() {
        for bytes in [
            &b""[..],
            b"\0",
            b"SERROR\0C58P01\0Mx\0",
            b"SERROR\0C58P01\0Mx\0\0\0",
            b"SERROR\0C58P01\0\0",
            b"SERROR\0Mx\0\0",
            b"SERROR\0C58p01\0Mx\0\0",
            b"SERROR\0C58P011\0Mx\0\0",
            b"C58P01\0Mx\0\0",
            b"SERROR",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
