//! The messages of a client.

use std::io;

use bytes::{Bytes, BytesMut};
use postgres_protocol::message::frontend;

/// One message to a server. There is no Debug on purpose: some hold passwords.
#[derive(Clone, Copy)]
pub enum FrontendMessage<'a> {
    /// Asks for TLS; the server answers with one byte, `S` or `N`.
    SslRequest,
    /// Opens a session of protocol 3.0 with these parameters: `user`, `database`, `replication`, and settings.
    Startup(&'a [(&'a str, &'a str)]),
    /// A password, or its MD5 hash, as the server asked for it.
    Password(&'a [u8]),
    /// Chooses a SASL mechanism and begins it.
    SaslInitialResponse {
        /// The mechanism, such as `SCRAM-SHA-256`.
        mechanism: &'a str,
        /// Its first message.
        data: &'a [u8],
    },
    /// Goes on with the SASL exchange.
    SaslResponse(&'a [u8]),
    /// Statements, or one replication command.
    Query(&'a str),
    /// A piece of a copy.
    CopyData(&'a [u8]),
    /// Ends this side of a copy.
    CopyDone,
    /// Ends the session.
    Terminate,
}

/// A message cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A text that the protocol ends with a zero byte contains one, or a message exceeds 2 GiB.
    #[error("{0} does not fit into a message of PostgreSQL's protocol")]
    Unfit(&'static str, #[source] io::Error),
    /// A startup parameter without a name would end the list of them.
    #[error("a startup parameter has no name")]
    NamelessParameter,
}

impl FrontendMessage<'_> {
    /// Appends the message to `buffer`; after an error the buffer is as before.
    pub fn encode(&self, buffer: &mut BytesMut) -> Result<(), EncodeError> {
        let before = buffer.len();
        let encoded = self.append(buffer);
        if encoded.is_err() {
            buffer.truncate(before);
        }
        encoded
    }

    fn append(&self, buffer: &mut BytesMut) -> Result<(), EncodeError> {
        let unfit = |what| move |error| EncodeError::Unfit(what, error);
        match *self {
            Self::SslRequest => frontend::ssl_request(buffer),
            Self::Startup(parameters) => {
                if parameters.iter().any(|(name, _)| name.is_empty()) {
                    return Err(EncodeError::NamelessParameter);
                }
                frontend::startup_message(parameters.iter().copied(), buffer).map_err(unfit("a startup parameter"))?;
            }
            Self::Password(password) => {
                frontend::password_message(password, buffer).map_err(unfit("the password"))?;
            }
            Self::SaslInitialResponse { mechanism, data } => {
                frontend::sasl_initial_response(mechanism, data, buffer).map_err(unfit("a SASL message"))?;
            }
            Self::SaslResponse(data) => frontend::sasl_response(data, buffer).map_err(unfit("a SASL message"))?,
            Self::Query(sql) => frontend::query(sql, buffer).map_err(unfit("a statement"))?,
            Self::CopyData(data) => {
                // Only borrowed for the copy into the buffer.
                frontend::CopyData::new(data).map_err(unfit("data"))?.write(buffer);
            }
            Self::CopyDone => frontend::copy_done(buffer),
            Self::Terminate => frontend::terminate(buffer),
        }
        Ok(())
    }

    /// The message alone.
    pub fn to_bytes(&self) -> Result<Bytes, EncodeError> {
        let mut buffer = BytesMut::new();
        self.encode(&mut buffer)?;
        Ok(buffer.freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_every_message_are_pinned() {
        let parameters = [("user", "u"), ("replication", "true")];
        let cases: [(FrontendMessage<'_>, &[u8]); 9] = [
            (FrontendMessage::SslRequest, b"\0\0\0\x08\x04\xD2\x16\x2F"),
            (FrontendMessage::Startup(&parameters), b"\0\0\0\x21\0\x03\0\0user\0u\0replication\0true\0\0"),
            (FrontendMessage::Password(b"p"), b"p\0\0\0\x06p\0"),
            (FrontendMessage::SaslInitialResponse { mechanism: "M", data: b"xy" }, b"p\0\0\0\x0CM\0\0\0\0\x02xy"),
            (FrontendMessage::SaslResponse(b"xy"), b"p\0\0\0\x06xy"),
            (FrontendMessage::Query("SHOW x"), b"Q\0\0\0\x0BSHOW x\0"),
            (FrontendMessage::CopyData(b"xy"), b"d\0\0\0\x06xy"),
            (FrontendMessage::CopyDone, b"c\0\0\0\x04"),
            (FrontendMessage::Terminate, b"X\0\0\0\x04"),
        ];
        for (message, expected) in cases {
            assert_eq!(message.to_bytes().unwrap(), expected);
        }
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let mut buffer = BytesMut::from(&b"before"[..]);
        for message in [
            FrontendMessage::Startup(&[("user", "a\0b")]),
            FrontendMessage::Startup(&[("", "x")]),
            FrontendMessage::Password(b"a\0b"),
            FrontendMessage::Query("SELECT '\0'"),
        ] {
            assert!(message.encode(&mut buffer).is_err());
            assert_eq!(buffer, "before");
        }
    }
}
