//! From an open byte stream to a server that is ready for a statement.

use anyhow::{Result, bail};
use tokio::io::{AsyncRead, AsyncWrite};
use walkeep_proto::replication::error::Tag;
use walkeep_proto::replication::{BackendMessage, FrontendMessage, WireError};

use super::super::conninfo::Conninfo;
use super::Purpose;
use super::error::ServerError;
use super::messages::{MessageReader, MessageWriter};

/// The name that servers show for us where the connection string gives none.
const APPLICATION_NAME: &str = "walkeep";

/// Most characters of a server's words that are no message.
const LONGEST_OLD_ERROR: usize = 200;

/// Asks for a session.
pub(super) async fn request<W: AsyncWrite + Unpin>(
    writer: &mut MessageWriter<W>,
    conninfo: &Conninfo,
    purpose: Purpose,
) -> Result<()> {
    let mut parameters = vec![
        ("user", conninfo.user.as_str()),
        ("database", &conninfo.database),
        ("application_name", conninfo.application_name.as_deref().unwrap_or(APPLICATION_NAME)),
        ("client_encoding", "UTF8"),
    ];
    if purpose == Purpose::PhysicalReplication {
        parameters.push(("replication", "true"));
    }
    if let Some(options) = &conninfo.options {
        parameters.push(("options", options));
    }
    writer.send(FrontendMessage::Startup(&parameters)).await
}

/// The next message of a server that has not yet opened the session. Its refusal is an error.
pub(super) async fn next<R: AsyncRead + Unpin>(reader: &mut MessageReader<R>) -> Result<BackendMessage> {
    match reader.next().await {
        Ok(BackendMessage::ErrorResponse(error)) => bail!(ServerError(error)),
        Ok(message) => Ok(message),
        Err(error) => match error.downcast_ref().and_then(|wire| old_error(wire, reader.unread())) {
            Some(text) => bail!("the server was unable to open a session: {text}"),
            None => Err(error),
        },
    }
}

/// A postmaster that is unable to start a process says so as servers did before 7.4: `E`, a text, a zero byte.
fn old_error(error: &WireError, unread: &[u8]) -> Option<String> {
    let (WireError::TooLong { tag: Tag(b'E'), .. } | WireError::ImpossibleLength { tag: Tag(b'E'), .. }) = error else {
        return None;
    };
    let text = unread.strip_prefix(b"E")?.split(|byte| *byte == 0).next()?;
    let text = String::from_utf8_lossy(text);
    Some(text.chars().filter(|c| !c.is_control()).take(LONGEST_OLD_ERROR).collect())
}

/// Waits until the server is ready for the first statement; gives the number of its process.
pub(super) async fn wait_until_ready<R: AsyncRead + Unpin>(reader: &mut MessageReader<R>) -> Result<u32> {
    let mut process = 0;
    loop {
        match next(reader).await? {
            // The secret would be of use to cancel statements.
            BackendMessage::BackendKeyData { process: number, .. } => process = number,
            BackendMessage::ReadyForQuery(_) => return Ok(process),
            other => bail!("the server sent {} before it was ready", super::query::name_of(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt, duplex};
    use walkeep_proto::replication::SqlState;

    use super::super::messages::framed;
    use super::*;

    async fn answer(bytes: &[u8]) -> Result<u32> {
        let (client, mut server) = duplex(1 << 10);
        server.write_all(bytes).await.unwrap();
        drop(server);
        wait_until_ready(&mut MessageReader::new(client)).await
    }

    #[tokio::test]
    async fn a_session_is_open_when_the_server_is_ready() {
        assert_eq!(answer(&[framed(b'K', b"\0\0\0\x07\0\0\0\x01"), framed(b'Z', b"I")].concat()).await.unwrap(), 7);
        let refused = answer(&framed(b'E', b"SFATAL\0C53300\0Mnot you\0\0")).await.unwrap_err();
        assert_eq!(refused.downcast::<ServerError>().unwrap().code(), SqlState::TOO_MANY_CONNECTIONS);
        let confused = answer(&framed(b'c', b"")).await.unwrap_err().to_string();
        assert_eq!(confused, "the server sent CopyDone before it was ready");
    }

    #[tokio::test]
    async fn a_postmaster_without_processes_is_understood() {
        let error = answer(b"Ecould not fork new process for connection: Out of memory\n\0").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server was unable to open a session: could not fork new process for connection: Out of memory"
        );
        // The text may be translated.
        let error = answer("Eéchec".as_bytes()).await.unwrap_err().to_string();
        assert_eq!(error, "the server was unable to open a session: échec");
    }
}
