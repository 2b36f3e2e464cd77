//! The messages of a server, taken one by one off the front of a buffer.

use bytes::{Buf, Bytes, BytesMut};

use super::authentication::AuthenticationRequest;
use super::error::{Tag, WireError};
use super::fields::Fields;
use super::server_message::ServerMessage;

/// Bytes before the content of a message: its kind, and the length that counts itself.
pub const HEADER_LENGTH: usize = 5;

/// Most bytes of one `CopyData` or `DataRow`. A walsender sends at most 128 KiB of WAL at a time; a row of an ordinary
/// query may be larger.
pub const LONGEST_DATA: u32 = 16 << 20;

/// Most bytes of any other message: error texts, which can quote statements, are the longest of them.
pub const LONGEST_OTHER: u32 = 1 << 20;

/// Most bytes of a message that only opens a session: a few names, a salt, a nonce.
pub const LONGEST_OPENING: u32 = 64 << 10;

/// Where a session stands between two statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In no transaction.
    Idle,
    /// Inside a transaction.
    InTransaction,
    /// Inside a transaction that failed and can only be rolled back.
    Failed,
}

/// The layout of data that a copy transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFormat {
    /// Whether the whole copy is binary; replication says textual and sends bytes.
    pub binary: bool,
    /// Columns of the data: 0 in replication.
    pub columns: u16,
}

/// One message of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendMessage {
    /// `Authentication…`: the next step of letting the client in.
    Authentication(AuthenticationRequest),
    /// What a request to cancel a statement must name.
    BackendKeyData {
        /// The server process.
        process: u32,
        /// Its secret of this session.
        secret: CancelSecret,
    },
    /// The value of a setting that clients follow; may come at any time.
    ParameterStatus {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// Something to know; may come at any time.
    NoticeResponse(ServerMessage),
    /// The statement failed, or the session ends.
    ErrorResponse(ServerMessage),
    /// The server waits for the next statement.
    ReadyForQuery(TransactionStatus),
    /// The names of the columns of the rows that follow.
    RowDescription(Vec<String>),
    /// One row, in text form; NULL is `None`.
    DataRow(Vec<Option<Bytes>>),
    /// A statement has ended; its tag, such as `SELECT 1`.
    CommandComplete(String),
    /// The statement was empty.
    EmptyQueryResponse,
    /// The server sends data until [`Self::CopyDone`].
    CopyOutResponse(CopyFormat),
    /// The server takes data until the client's CopyDone.
    CopyInResponse(CopyFormat),
    /// Both sides send data, each until its own CopyDone: replication.
    CopyBothResponse(CopyFormat),
    /// A piece of a copy.
    CopyData(Bytes),
    /// The server's side of a copy has ended.
    CopyDone,
    /// A NOTIFY of another session; may come at any time.
    NotificationResponse {
        /// The notifying server process.
        process: u32,
        /// The channel.
        channel: String,
        /// The text given to NOTIFY.
        payload: String,
    },
    /// The server knows only an older minor version of the protocol, or not all of its options.
    NegotiateProtocolVersion {
        /// The newest minor version it knows.
        newest_minor: i32,
        /// The options it does not know.
        unrecognized: Vec<String>,
    },
}

/// The key with which a session can be cancelled. Debug does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CancelSecret(pub i32);

impl std::fmt::Debug for CancelSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelSecret(..)")
    }
}

/// Takes the first message off `buffer`; `None` while it is not complete, with the buffer unchanged.
///
/// Data inside messages is not copied: it keeps the memory of the buffer it came in. A kind or a length that cannot be
/// is an error as soon as it is there, before memory for the content is needed. After an error the buffer is of no use.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<BackendMessage>, WireError> {
    let Some((tag, length)) = header(buffer)? else { return Ok(None) };
    if buffer.len() - HEADER_LENGTH < length {
        return Ok(None);
    }
    buffer.advance(HEADER_LENGTH);
    let body = buffer.split_to(length).freeze();
    parse(tag, body).map(Some)
}

/// How many bytes the first message in `buffer` still needs, as far as that is known; 0 when it is complete.
pub fn missing(buffer: &[u8]) -> Result<usize, WireError> {
    match header(buffer)? {
        Some((_, length)) => Ok((HEADER_LENGTH + length).saturating_sub(buffer.len())),
        None => Ok(HEADER_LENGTH - buffer.len()),
    }
}

/// Kind and length of the content of the first message, once they are there.
fn header(buffer: &[u8]) -> Result<Option<(Tag, usize)>, WireError> {
    let Some(tag) = buffer.first().copied().map(Tag) else { return Ok(None) };
    let limit = longest(tag).ok_or(WireError::UnknownTag(tag))?;
    let Some(length) = buffer[1..].first_chunk() else { return Ok(None) };
    let length = i32::from_be_bytes(*length);
    let content = length.checked_sub(4).and_then(|content| u32::try_from(content).ok());
    let content = content.ok_or(WireError::ImpossibleLength { tag, length })?;
    if content > limit {
        return Err(WireError::TooLong { tag, length: content, limit });
    }
    // At most 16 MiB.
    Ok(Some((tag, content as usize)))
}

/// Most bytes that the content of a message of this kind may have; `None` for a kind that is not known.
const fn longest(tag: Tag) -> Option<u32> {
    match tag.0 {
        b'd' | b'D' => Some(LONGEST_DATA),
        b'A' | b'C' | b'E' | b'N' | b'S' | b'T' | b'G' | b'H' | b'W' => Some(LONGEST_OTHER),
        b'R' | b'K' | b'v' => Some(LONGEST_OPENING),
        b'I' | b'Z' | b'c' => Some(1),
        _ => None,
    }
}

fn parse(tag: Tag, body: Bytes) -> Result<BackendMessage, WireError> {
    let of = |name| Fields::new(name, body.clone());
    match tag.0 {
        b'R' => AuthenticationRequest::parse(body).map(BackendMessage::Authentication),
        b'K' => backend_key_data(of("BackendKeyData")),
        b'S' => parameter_status(of("ParameterStatus")),
        b'N' => ServerMessage::parse("NoticeResponse", body).map(BackendMessage::NoticeResponse),
        b'E' => ServerMessage::parse("ErrorResponse", body).map(BackendMessage::ErrorResponse),
        b'Z' => ready_for_query(of("ReadyForQuery")),
        b'T' => row_description(of("RowDescription")),
        b'D' => data_row(of("DataRow")),
        b'C' => command_complete(of("CommandComplete")),
        b'I' => empty(&of("EmptyQueryResponse"), BackendMessage::EmptyQueryResponse),
        b'H' => copy_format(of("CopyOutResponse")).map(BackendMessage::CopyOutResponse),
        b'G' => copy_format(of("CopyInResponse")).map(BackendMessage::CopyInResponse),
        b'W' => copy_format(of("CopyBothResponse")).map(BackendMessage::CopyBothResponse),
        b'd' => Ok(BackendMessage::CopyData(body)),
        b'c' => empty(&of("CopyDone"), BackendMessage::CopyDone),
        b'A' => notification(of("NotificationResponse")),
        b'v' => negotiate(of("NegotiateProtocolVersion")),
        _ => Err(WireError::UnknownTag(tag)),
    }
}

fn empty(fields: &Fields, message: BackendMessage) -> Result<BackendMessage, WireError> {
    fields.finish().map(|()| message)
}

/// Protocol 3.0, the one that this client asks for, has secrets of four bytes.
fn backend_key_data(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let process = u32::from_be_bytes(fields.array()?);
    let secret = CancelSecret(fields.i32()?);
    fields.finish()?;
    Ok(BackendMessage::BackendKeyData { process, secret })
}

fn parameter_status(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let (name, value) = (fields.text()?, fields.text()?);
    fields.finish()?;
    Ok(BackendMessage::ParameterStatus { name, value })
}

fn ready_for_query(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let status = match fields.u8()? {
        b'I' => TransactionStatus::Idle,
        b'T' => TransactionStatus::InTransaction,
        b'E' => TransactionStatus::Failed,
        _ => return Err(fields.malformed("its transaction status is none of I, T and E")),
    };
    fields.finish()?;
    Ok(BackendMessage::ReadyForQuery(status))
}

fn row_description(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let mut names = Vec::new();
    for _ in 0..fields.count16()? {
        names.push(fields.text()?);
        // Table, attribute number, type, its length and modifier, format: all values come as text.
        fields.skip(4 + 2 + 4 + 2 + 4 + 2)?;
    }
    fields.finish()?;
    Ok(BackendMessage::RowDescription(names))
}

fn data_row(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let mut values = Vec::new();
    for _ in 0..fields.count16()? {
        values.push(match fields.i32()? {
            -1 => None,
            length => {
                let length = usize::try_from(length).map_err(|_| fields.malformed("a value's length is negative"))?;
                Some(fields.take(length)?)
            }
        });
    }
    fields.finish()?;
    Ok(BackendMessage::DataRow(values))
}

fn command_complete(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let tag = fields.text()?;
    fields.finish()?;
    Ok(BackendMessage::CommandComplete(tag))
}

fn copy_format(mut fields: Fields) -> Result<CopyFormat, WireError> {
    let binary = fields.flag()?;
    let columns = fields.count16()?;
    for _ in 0..columns {
        if fields.u16()? > 1 {
            return Err(fields.malformed("a column's format is neither text nor binary"));
        }
    }
    fields.finish()?;
    Ok(CopyFormat { binary, columns })
}

fn notification(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let process = u32::from_be_bytes(fields.array()?);
    let (channel, payload) = (fields.text()?, fields.text()?);
    fields.finish()?;
    Ok(BackendMessage::NotificationResponse { process, channel, payload })
}

fn negotiate(mut fields: Fields) -> Result<BackendMessage, WireError> {
    let newest_minor = fields.i32()?;
    let count = u32::try_from(fields.i32()?).map_err(|_| fields.malformed("a count is negative"))?;
    let mut unrecognized = Vec::new();
    // An option takes at least its zero byte: the loop ends with the message whatever the count says.
    for _ in 0..count {
        unrecognized.push(fields.text()?);
    }
    fields.finish()?;
    Ok(BackendMessage::NegotiateProtocolVersion { newest_minor, unrecognized })
}

#[cfg(test)]
mod tests;
