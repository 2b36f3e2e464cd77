//! Whole messages over a byte stream: one reader, one writer, independent of each other.
//!
//! Both can be dropped at any await and used again: nothing that was read or is to be written is lost with a future.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use walkeep_proto::replication::frontend::EncodeError;
use walkeep_proto::replication::{
    BackendMessage, FrontendMessage, ServerMessage, StandbyStatusUpdate, decode, message,
};

use super::error::ConnectionClosed;

/// Space for one read where little is expected.
pub(super) const SMALL_READS: usize = 16 << 10;
/// Space for one read of a stream of WAL: two of a walsender's longest messages.
pub(super) const LARGE_READS: usize = 256 << 10;
/// At most so much is made room for at once on the mere word of a length: a message grows as it arrives.
const LARGEST_GROWTH: usize = 1 << 20;
/// Settings that are remembered at most. A server reports about fifteen.
const MOST_PARAMETERS: usize = 64;
/// Warnings that are kept where they are wanted.
const MOST_WARNINGS: usize = 100;
/// Bytes that may wait to be written before the server is taken to be gone.
const MOST_OUTGOING: usize = 64 << 10;

/// What a server reported about its settings.
pub(super) type Parameters = BTreeMap<String, String>;

/// The reading side of a session.
pub(super) struct MessageReader<R> {
    stream: R,
    buffer: BytesMut,
    read_size: usize,
    parameters: Parameters,
    /// The first warnings since they are wanted.
    warnings: Option<Vec<ServerMessage>>,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new(), read_size: SMALL_READS, parameters: Parameters::new(), warnings: None }
    }

    /// Chooses how much is read at once: [`SMALL_READS`] or [`LARGE_READS`].
    pub(super) const fn set_read_size(&mut self, bytes: usize) {
        self.read_size = bytes;
    }

    /// From now on, warnings of the server are kept, the first hundred of them.
    pub(super) fn keep_warnings(&mut self) {
        self.warnings = Some(Vec::new());
    }

    /// What [`MessageReader::keep_warnings`] has kept; no more are.
    pub(super) fn take_warnings(&mut self) -> Vec<ServerMessage> {
        self.warnings.take().unwrap_or_default()
    }

    /// What the server has reported so far.
    pub(super) const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Bytes that have arrived and are not read.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer
    }

    /// The next message that answers something. Notices, notifications and changed settings, which may come at any
    /// time, are dealt with here.
    pub(super) async fn next(&mut self) -> Result<BackendMessage> {
        loop {
            match decode(&mut self.buffer)? {
                Some(BackendMessage::ParameterStatus { name, value }) => self.remember(name, value),
                Some(BackendMessage::NoticeResponse(notice)) => self.note(notice),
                Some(BackendMessage::NotificationResponse { channel, .. }) => {
                    tracing::debug!("ignored a notification on channel {channel:?}");
                }
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    fn note(&mut self, notice: ServerMessage) {
        tracing::debug!("the server says: {notice}");
        if let Some(warnings) = &mut self.warnings
            && notice.severity == "WARNING"
            && warnings.len() < MOST_WARNINGS
        {
            warnings.push(notice);
        }
    }

    fn remember(&mut self, name: String, value: String) {
        tracing::debug!("the server reports {name:?} = {value:?}");
        if self.parameters.len() < MOST_PARAMETERS || self.parameters.contains_key(&name) {
            self.parameters.insert(name, value);
        }
    }

    async fn fill(&mut self) -> Result<()> {
        let missing = message::missing(&self.buffer)?;
        // Reading goes on in the rest of the space while that is worth a call: new space for every small message would
        // be memory that each of them keeps.
        let free = self.buffer.capacity() - self.buffer.len();
        if free < missing.min(LARGEST_GROWTH).max(self.read_size / 8) {
            self.buffer.reserve(missing.clamp(self.read_size, LARGEST_GROWTH));
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => bail!(ConnectionClosed),
            Ok(_) => Ok(()),
            Err(error) if is_end(&error) => bail!(ConnectionClosed),
            Err(error) => Err(error).context("unable to read from the server"),
        }
    }
}

/// Whether the error is how a connection ends, with TLS (without its farewell) or without.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
}

/// The writing side of a session.
pub(super) struct MessageWriter<W> {
    stream: W,
    outgoing: BytesMut,
}

impl<W: AsyncWrite + Unpin> MessageWriter<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream, outgoing: BytesMut::new() }
    }

    /// Sends one message. Dropped before it is done, the rest of the message goes out before the next one.
    pub(super) async fn send(&mut self, message: FrontendMessage<'_>) -> Result<()> {
        self.append(message)?;
        self.flush().await
    }

    /// The same for a status, which needs no memory beyond the buffer's.
    pub(super) async fn send_status(&mut self, status: &StandbyStatusUpdate) -> Result<()> {
        if self.outgoing.len() > MOST_OUTGOING {
            bail!("the server does not read what it is sent");
        }
        status.encode_message(&mut self.outgoing);
        self.flush().await
    }

    fn append(&mut self, message: FrontendMessage<'_>) -> Result<(), EncodeError> {
        message.encode(&mut self.outgoing)
    }

    pub(super) async fn flush(&mut self) -> Result<()> {
        while self.outgoing.has_remaining() {
            match self.stream.write_buf(&mut self.outgoing).await {
                Ok(0) => bail!(ConnectionClosed),
                Ok(_) => {}
                Err(error) => return Err(broken(error)),
            }
        }
        self.stream.flush().await.map_err(broken)
    }

    /// Ends the stream in this direction.
    pub(super) async fn shutdown(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }
}

fn broken(error: io::Error) -> anyhow::Error {
    if is_end(&error) {
        ConnectionClosed.into()
    } else {
        anyhow::Error::new(error).context("unable to write to the server")
    }
}

/// The bytes of a server's message.
#[cfg(test)]
pub(super) fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("tests are short").to_be_bytes();
    [&[tag], &length[..], body].concat()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::duplex;
    use walkeep_proto::lsn::Lsn;
    use walkeep_proto::wal::PgTimestamp;

    use super::*;

    fn data(payload: &[u8]) -> Bytes {
        FrontendMessage::CopyData(payload).to_bytes().unwrap()
    }

    #[tokio::test]
    async fn a_dropped_read_loses_nothing() {
        let (client, mut server) = duplex(1 << 10);
        let mut reader = MessageReader::new(client);
        for byte in data(b"some WAL").iter() {
            tokio::select! {
                biased;
                message = reader.next() => panic!("{message:?} is not complete"),
                () = tokio::task::yield_now() => {}
            }
            server.write_all(&[*byte]).await.unwrap();
        }
        assert_eq!(reader.next().await.unwrap(), BackendMessage::CopyData(Bytes::from("some WAL")));
    }

    #[tokio::test]
    async fn a_dropped_write_is_finished_by_the_next() {
        let (client, mut server) = duplex(10);
        let mut writer = MessageWriter::new(client);
        tokio::select! {
            biased;
            _ = writer.send(FrontendMessage::CopyData(b"longer than the pipe")) => panic!("nobody reads"),
            () = tokio::task::yield_now() => {}
        }
        let mut received = Vec::new();
        let (sent, _) = tokio::join!(
            async {
                writer.send(FrontendMessage::CopyDone).await.unwrap();
                drop(writer);
            },
            server.read_to_end(&mut received),
        );
        let () = sent;
        assert_eq!(received, [data(b"longer than the pipe"), Bytes::from_static(b"c\0\0\0\x04")].concat());
    }

    #[tokio::test]
    async fn what_may_come_at_any_time_is_no_answer() {
        let (client, mut server) = duplex(1 << 10);
        let mut reader = MessageReader::new(client);
        let coming = [
            framed(b'S', b"name\0one\0"),
            framed(b'N', b"SNOTICE\0C00000\0Mx\0\0"),
            framed(b'A', b"\0\0\0\x01c\0p\0"),
            framed(b'S', b"name\0two\0"),
            framed(b'c', b""),
        ];
        server.write_all(&coming.concat()).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), BackendMessage::CopyDone);
        assert_eq!(reader.parameters()["name"], "two");
        drop(server);
        assert!(reader.next().await.unwrap_err().is::<ConnectionClosed>());
    }

    #[tokio::test]
    async fn parameters_do_not_pile_up() {
        let (client, mut server) = duplex(1 << 20);
        let mut reader = MessageReader::new(client);
        for number in 0..1000 {
            server.write_all(&framed(b'S', format!("{number}\0x\0").as_bytes())).await.unwrap();
        }
        server.write_all(b"c\0\0\0\x04").await.unwrap();
        assert_eq!(reader.next().await.unwrap(), BackendMessage::CopyDone);
        assert_eq!(reader.parameters().len(), MOST_PARAMETERS);
    }

    #[tokio::test]
    async fn a_long_message_is_not_believed_before_it_comes() {
        let (client, mut server) = duplex(1 << 10);
        let mut reader = MessageReader::new(client);
        server.write_all(b"d\x01\0\0\0").await.unwrap();
        tokio::select! {
            biased;
            message = reader.next() => panic!("{message:?} is not complete"),
            () = tokio::task::yield_now() => {}
        }
        assert!(reader.buffer.capacity() <= 2 * LARGEST_GROWTH, "{}", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn statuses_nobody_reads_do_not_pile_up() {
        let (client, _server) = duplex(8);
        let mut writer = MessageWriter::new(client);
        let status = StandbyStatusUpdate {
            write: Lsn::new(1),
            flush: Lsn::new(1),
            apply: Lsn::INVALID,
            at: PgTimestamp::new(0),
            reply_requested: false,
        };
        let error = loop {
            tokio::select! {
                biased;
                sent = writer.send_status(&status) => break sent.unwrap_err(),
                () = tokio::task::yield_now() => {}
            }
        };
        assert_eq!(error.to_string(), "the server does not read what it is sent");
        assert!(writer.outgoing.len() <= MOST_OUTGOING + 39);
    }
}
