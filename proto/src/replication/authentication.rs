//! What a server asks of a client before it lets it in (`libpq/protocol.h`, `AUTH_REQ_…`).

use std::fmt;

use bytes::Bytes;

use super::error::WireError;
use super::fields::Fields;

/// One step of authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthenticationRequest {
    /// The client is let in.
    Ok,
    /// The password itself is wanted.
    CleartextPassword,
    /// The password is wanted, hashed with the user's name and this salt.
    Md5Password {
        /// Chosen by the server for this connection.
        salt: [u8; 4],
    },
    /// A SASL exchange is wanted by one of these mechanisms, the server's favourite first.
    Sasl {
        /// Names such as `SCRAM-SHA-256`.
        mechanisms: Vec<String>,
    },
    /// The server's next message of the SASL exchange.
    SaslContinue(Bytes),
    /// The server's last message of the SASL exchange.
    SaslFinal(Bytes),
    /// A method that this client does not have.
    Other(UnsupportedMethod),
}

/// A method of authentication that this client does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsupportedMethod(pub i32);

impl fmt::Display for UnsupportedMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 | 2 => f.write_str("Kerberos"),
            4 => f.write_str("crypt"),
            6 => f.write_str("SCM credentials"),
            7 | 8 => f.write_str("GSSAPI"),
            9 => f.write_str("SSPI"),
            number => write!(f, "method {number}"),
        }
    }
}

impl AuthenticationRequest {
    /// Reads the content of a message of kind `'R'`.
    pub(super) fn parse(body: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new("Authentication", body);
        let request = match fields.i32()? {
            0 => Self::Ok,
            3 => Self::CleartextPassword,
            5 => Self::Md5Password { salt: fields.array()? },
            10 => Self::Sasl { mechanisms: mechanisms(&mut fields)? },
            11 => return Ok(Self::SaslContinue(fields.rest())),
            12 => return Ok(Self::SaslFinal(fields.rest())),
            // What such a method appends is of no interest.
            other => return Ok(Self::Other(UnsupportedMethod(other))),
        };
        fields.finish()?;
        Ok(request)
    }
}

/// Names, ended by an empty one.
fn mechanisms(fields: &mut Fields) -> Result<Vec<String>, WireError> {
    let mut names = Vec::new();
    loop {
        let name = fields.text()?;
        if name.is_empty() {
            return Ok(names);
        }
        names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &'static [u8]) -> Result<AuthenticationRequest, WireError> {
        AuthenticationRequest::parse(Bytes::from_static(bytes))
    }

    #[test]
    fn every_known_method_is_read() {
        assert_eq!(parse(b"\0\0\0\0").unwrap(), AuthenticationRequest::Ok);
        assert_eq!(parse(b"\0\0\0\x03").unwrap(), AuthenticationRequest::CleartextPassword);
        assert_eq!(parse(b"\0\0\0\x05abcd").unwrap(), AuthenticationRequest::Md5Password { salt: *b"abcd" });
        let mechanisms = vec!["SCRAM-SHA-256-PLUS".to_owned(), "SCRAM-SHA-256".to_owned()];
        assert_eq!(
            parse(b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0").unwrap(),
            AuthenticationRequest::Sasl { mechanisms }
        );
        assert_eq!(parse(b"\0\0\0\x0Br=x").unwrap(), AuthenticationRequest::SaslContinue(Bytes::from_static(b"r=x")));
        assert_eq!(parse(b"\0\0\0\x0Cv=x").unwrap(), AuthenticationRequest::SaslFinal(Bytes::from_static(b"v=x")));
    }

    #[test]
    fn a_method_that_is_missing_here_is_named() {
        let Ok(AuthenticationRequest::Other(method)) = parse(b"\0\0\0\x07") else { panic!("GSSAPI is not supported") };
        assert_eq!(method.to_string(), "GSSAPI");
    }

    #[test]
    fn fields_that_do_not_fit_are_refused() {
        for bytes in
            [&b"\0\0\0"[..], b"\0\0\0\0x", b"\0\0\0\x05abc", b"\0\0\0\x05abcde", b"\0\0\0\x0Ax", b"\0\0\0\x0Ax\0"]
        {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }
}
