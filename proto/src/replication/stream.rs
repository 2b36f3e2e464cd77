//! What travels inside `CopyData` while a server streams WAL.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::{Tag, WireError};
use super::fields::Fields;
use crate::lsn::Lsn;
use crate::wal::PgTimestamp;

/// One payload of a server's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMessage {
    /// A piece of WAL (`XLogData`), at most 128 KiB. It may end in the middle of a record, at the end of a WAL page.
    WalData {
        /// Position of its first byte.
        start: Lsn,
        /// Up to where the server could send now: what a primary has flushed, a standby received or replayed.
        server_end: Lsn,
        /// The server's clock when it sent this.
        sent_at: PgTimestamp,
        /// The WAL.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// Up to where the server has sent.
        server_end: Lsn,
        /// The server's clock when it sent this.
        sent_at: PgTimestamp,
        /// Whether a [`StandbyStatusUpdate`] is wanted at once; without one the server ends the connection.
        reply_requested: bool,
    },
}

impl StreamMessage {
    /// Reads the content of one `CopyData`. The WAL in it is not copied.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        let Some(kind) = payload.first().copied() else {
            return Err(WireError::malformed("CopyData", "it is empty"));
        };
        match kind {
            b'w' => wal_data(Fields::new("XLogData", payload.slice(1..))),
            b'k' => keepalive(Fields::new("Primary keepalive message", payload.slice(1..))),
            other => Err(WireError::UnknownPayload(Tag(other))),
        }
    }
}

fn wal_data(mut fields: Fields) -> Result<StreamMessage, WireError> {
    let start = Lsn::new(fields.u64()?);
    let server_end = Lsn::new(fields.u64()?);
    let sent_at = PgTimestamp::new(fields.i64()?);
    if fields.is_empty() {
        return Err(fields.malformed("it holds no WAL"));
    }
    let data = fields.rest();
    // So that nobody behind this has to think of it.
    if !start.is_valid() || start.checked_add(data.len() as u64).is_none() {
        return Err(WireError::malformed("XLogData", "its position is none"));
    }
    Ok(StreamMessage::WalData { start, server_end, sent_at, data })
}

fn keepalive(mut fields: Fields) -> Result<StreamMessage, WireError> {
    let server_end = Lsn::new(fields.u64()?);
    let sent_at = PgTimestamp::new(fields.i64()?);
    let reply_requested = fields.flag()?;
    fields.finish()?;
    Ok(StreamMessage::Keepalive { server_end, sent_at, reply_requested })
}

/// What a receiver of WAL tells the server about itself. Every position is that of the first byte it does *not* have.
///
/// `flush` releases commits that wait for this receiver and becomes its slot's `restart_lsn`, downwards too: report what
/// is durable, never more. 0/0 in `flush` leaves a slot alone and keeps the receiver from counting as synchronous.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandbyStatusUpdate {
    /// Received and written, not necessarily durable.
    pub write: Lsn,
    /// Durable.
    pub flush: Lsn,
    /// Replayed; 0/0 for a receiver that replays nothing.
    pub apply: Lsn,
    /// The receiver's clock.
    pub at: PgTimestamp,
    /// Whether the server shall answer at once with a [`StreamMessage::Keepalive`].
    pub reply_requested: bool,
}

impl StandbyStatusUpdate {
    /// Bytes of the payload.
    pub const LENGTH: usize = 34;

    /// The payload of a `CopyData`:
    ///
    /// ```text
    /// 'r'  u64 write  u64 flush  u64 apply  i64 at  u8 reply requested
    /// ```
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = b'r';
        bytes[1..9].copy_from_slice(&self.write.as_u64().to_be_bytes());
        bytes[9..17].copy_from_slice(&self.flush.as_u64().to_be_bytes());
        bytes[17..25].copy_from_slice(&self.apply.as_u64().to_be_bytes());
        bytes[25..33].copy_from_slice(&self.at.as_micros().to_be_bytes());
        bytes[33] = u8::from(self.reply_requested);
        bytes
    }

    /// Appends the whole message to `buffer`: `CopyData` around [`Self::encode`].
    pub fn encode_message(&self, buffer: &mut BytesMut) {
        buffer.put_u8(b'd');
        // 38: the length counts itself.
        buffer.put_i32(Self::LENGTH as i32 + 4);
        buffer.put_slice(&self.encode());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn wal_and_keepalives_are_read() {
        let mut payload = b"w".to_vec();
        payload.put_u64(0x1_0000_0028);
        payload.put_u64(0x1_0000_1000);
        payload.put_i64(-5);
        payload.extend_from_slice(b"WAL");
        assert_eq!(
            StreamMessage::decode(Bytes::from(payload)),
            Ok(StreamMessage::WalData {
                start: Lsn::new(0x1_0000_0028),
                server_end: Lsn::new(0x1_0000_1000),
                sent_at: PgTimestamp::new(-5),
                data: Bytes::from_static(b"WAL"),
            })
        );
        let keepalive = |reply: u8| {
            let mut payload = b"k".to_vec();
            payload.put_u64(9);
            payload.put_i64(7);
            payload.put_u8(reply);
            StreamMessage::decode(Bytes::from(payload))
        };
        for reply_requested in [false, true] {
            let (server_end, sent_at) = (Lsn::new(9), PgTimestamp::new(7));
            assert_eq!(
                keepalive(u8::from(reply_requested)),
                Ok(StreamMessage::Keepalive { server_end, sent_at, reply_requested })
            );
        }
        assert!(keepalive(2).is_err());
    }

    #[test]
    fn payloads_that_are_none_are_refused() {
        let positioned = |start: u64, data: &[u8]| {
            let mut payload = b"w".to_vec();
            payload.put_u64(start);
            payload.put_bytes(0, 16);
            payload.extend_from_slice(data);
            Bytes::from(payload)
        };
        assert!(StreamMessage::decode(positioned(1, b"x")).is_ok());
        for payload in [
            Bytes::new(),
            Bytes::from_static(b"s"),
            Bytes::from_static(b"k12345678123456780x"),
            Bytes::from_static(b"k1234567812345678"),
            Bytes::from_static(b"w12345678123456781234567"),
            positioned(1, b""),
            positioned(0, b"x"),
            positioned(u64::MAX, b"x"),
        ] {
            assert!(StreamMessage::decode(payload.clone()).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn the_bytes_of_a_status_are_pinned() {
        let status = StandbyStatusUpdate {
            write: Lsn::new(0x0102_0304_0506_0708),
            flush: Lsn::new(0x1112_1314_1516_1718),
            apply: Lsn::INVALID,
            at: PgTimestamp::new(-2),
            reply_requested: true,
        };
        let mut buffer = BytesMut::new();
        status.encode_message(&mut buffer);
        let expected = b"d\0\0\0\x26r\x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18\
                         \0\0\0\0\0\0\0\0\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE\x01";
        assert_eq!(&buffer[..], &expected[..]);
    }

    proptest! {
        #[test]
        fn any_payload_is_a_message_or_an_error(kind in proptest::sample::select(b"wkx".to_vec()), rest: Vec<u8>) {
            let _ = StreamMessage::decode(Bytes::from([vec![kind], rest.clone()].concat()));
            let _ = StreamMessage::decode(Bytes::from(rest));
        }
    }
}
