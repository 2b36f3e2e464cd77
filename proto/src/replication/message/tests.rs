//! Every kind of message from its bytes, and a stream of them in arbitrary pieces.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;

/// The bytes of one message.
fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&i32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// All messages in `bytes`, which arrive in the given pieces; and the error at which reading ended.
fn read(pieces: &[&[u8]]) -> (Vec<BackendMessage>, Option<WireError>) {
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decode(&mut buffer) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn one(tag: u8, body: &[u8]) -> Result<BackendMessage, WireError> {
    let (mut messages, error) = read(&[&framed(tag, body)]);
    match error {
        Some(error) => Err(error),
        None => Ok(messages.remove(0)),
    }
}

#[test]
fn every_kind_is_read() {
    let text = str::to_owned;
    let copy = CopyFormat { binary: false, columns: 0 };
    let cases: Vec<(u8, &[u8], BackendMessage)> = vec![
        (b'R', b"\0\0\0\0", BackendMessage::Authentication(AuthenticationRequest::Ok)),
        (b'K', b"\0\0\0\x07\xFF\xFF\xFF\xFF", BackendMessage::BackendKeyData { process: 7, secret: CancelSecret(-1) }),
        (b'S', b"a\0b\0", BackendMessage::ParameterStatus { name: text("a"), value: text("b") }),
        (b'Z', b"I", BackendMessage::ReadyForQuery(TransactionStatus::Idle)),
        (b'Z', b"T", BackendMessage::ReadyForQuery(TransactionStatus::InTransaction)),
        (b'Z', b"E", BackendMessage::ReadyForQuery(TransactionStatus::Failed)),
        (b'T', b"\0\x01name\0tttt22oooo22mmmmff", BackendMessage::RowDescription(vec![text("name")])),
        (b'D', b"\0\x02\xFF\xFF\xFF\xFF\0\0\0\x01x", BackendMessage::DataRow(vec![None, Some(Bytes::from("x"))])),
        (b'C', b"COPY 0\0", BackendMessage::CommandComplete(text("COPY 0"))),
        (b'I', b"", BackendMessage::EmptyQueryResponse),
        (b'H', b"\0\0\0", BackendMessage::CopyOutResponse(copy)),
        (b'G', b"\x01\0\x01\0\x01", BackendMessage::CopyInResponse(CopyFormat { binary: true, columns: 1 })),
        (b'W', b"\0\0\0", BackendMessage::CopyBothResponse(copy)),
        (b'd', b"anything", BackendMessage::CopyData(Bytes::from("anything"))),
        (b'c', b"", BackendMessage::CopyDone),
        (
            b'A',
            b"\0\0\0\x01c\0p\0",
            BackendMessage::NotificationResponse { process: 1, channel: text("c"), payload: text("p") },
        ),
        (
            b'v',
            b"\0\0\0\x02\0\0\0\x01_pq_.x\0",
            BackendMessage::NegotiateProtocolVersion { newest_minor: 2, unrecognized: vec![text("_pq_.x")] },
        ),
    ];
    for (tag, body, expected) in cases {
        assert_eq!(one(tag, body), Ok(expected), "{}", Tag(tag));
    }
    assert!(matches!(one(b'N', b"SNOTICE\0C00000\0Mx\0\0"), Ok(BackendMessage::NoticeResponse(_))));
    assert!(matches!(one(b'E', b"SERROR\0C00000\0Mx\0\0"), Ok(BackendMessage::ErrorResponse(_))));
}

#[test]
fn a_malformed_message_is_refused() {
    let cases: [(u8, &[u8]); 20] = [
        (b'K', b"\0\0\0\x01\0\0\0"),
        (b'K', b"\0\0\0\x01\0\0\0\0\0"),
        (b'S', b"a\0b"),
        (b'S', b"a\0b\0c"),
        (b'Z', b""),
        (b'Z', b"X"),
        (b'T', b"\0\x01name"),
        (b'T', b"\0\x01name\0"),
        (b'T', b"\xFF\xFF"),
        (b'D', b"\0\x01\0\0\0\x02x"),
        (b'D', b"\0\x01\xFF\xFF\xFF\xFE"),
        (b'D', b"\0\0x"),
        (b'C', b"COPY 0"),
        (b'C', b"COPY 0\0x"),
        (b'I', b"x"),
        (b'W', b"\x02\0\0"),
        (b'W', b"\0\0\x01\0\x02"),
        (b'c', b"x"),
        (b'v', b"\0\0\0\0\xFF\xFF\xFF\xFF"),
        (b'v', b"\0\0\0\0\x7F\xFF\xFF\xFF"),
    ];
    for (tag, body) in cases {
        assert!(matches!(one(tag, body), Err(WireError::Malformed { .. })), "{} {body:?}", Tag(tag));
    }
}

#[test]
fn kind_and_length_are_judged_before_the_content_is_there() {
    assert_eq!(read(&[b"!"]).1, Some(WireError::UnknownTag(Tag(b'!'))));
    for length in [3, 0, -1, i32::MIN] {
        let mut bytes = vec![b'd'];
        bytes.put_i32(length);
        assert_eq!(read(&[&bytes]).1, Some(WireError::ImpossibleLength { tag: Tag(b'd'), length }));
    }
    for (tag, limit) in [(b'd', LONGEST_DATA), (b'D', LONGEST_DATA), (b'E', LONGEST_OTHER), (b'R', LONGEST_OPENING)] {
        let mut bytes = vec![tag];
        bytes.put_u32(limit + 4);
        assert_eq!(read(&[&bytes]), (vec![], None), "the longest {} is waited for", Tag(tag));
        let mut bytes = vec![tag];
        bytes.put_u32(limit + 5);
        assert_eq!(read(&[&bytes]).1, Some(WireError::TooLong { tag: Tag(tag), length: limit + 1, limit }));
    }
}

#[test]
fn what_is_missing_is_told() {
    let bytes = framed(b'C', b"SELECT 1\0");
    for end in 0..HEADER_LENGTH {
        assert_eq!(missing(&bytes[..end]), Ok(HEADER_LENGTH - end));
    }
    for end in HEADER_LENGTH..=bytes.len() {
        assert_eq!(missing(&bytes[..end]), Ok(bytes.len() - end));
    }
    assert_eq!(missing(&[bytes, vec![b'Z']].concat()), Ok(0));
}

#[test]
fn data_is_not_copied() {
    let mut buffer = BytesMut::from(&framed(b'd', b"some WAL")[..]);
    let place = buffer[HEADER_LENGTH..].as_ptr();
    let Ok(Some(BackendMessage::CopyData(data))) = decode(&mut buffer) else { panic!("no data") };
    assert_eq!(data.as_ptr(), place);
}

#[test]
fn the_secret_is_not_shown() {
    let message = one(b'K', b"\0\0\0\x07\x12\x34\x56\x78").unwrap();
    assert!(!format!("{message:?}").contains(&0x1234_5678.to_string()), "{message:?}");
}

/// Some message, well formed or not.
fn any_message() -> impl Strategy<Value = Vec<u8>> {
    let tags = b"RKSNEZTDCIHGWdcAv".to_vec();
    let bodies = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(b"\0\0\0\0".to_vec()),
        Just(b"SERROR\0C58P01\0Mx\0\0".to_vec()),
        Just(b"\0\x01\0\0\0\x01x".to_vec()),
        Just(b"a\0b\0".to_vec()),
        Just(b"I".to_vec()),
    ];
    let likely = proptest::collection::vec(any::<u8>(), 0..200).prop_map(|data| framed(b'd', &data));
    prop_oneof![2 => likely, 1 => (proptest::sample::select(tags), bodies).prop_map(|(tag, body)| framed(tag, &body))]
}

proptest! {
    #[test]
    fn pieces_do_not_matter(
        messages in proptest::collection::vec(any_message(), 0..12),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
    ) {
        let stream = messages.concat();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        ends.extend([0, stream.len()]);
        ends.sort_unstable();
        let pieces: Vec<&[u8]> = ends.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
        prop_assert_eq!(read(&pieces), read(&[&stream]));
    }

    #[test]
    fn any_bytes_are_messages_or_an_error(bytes: Vec<u8>) {
        let _ = read(&[&bytes]);
        let _ = missing(&bytes);
    }

    #[test]
    fn any_content_is_a_message_or_an_error(tag in proptest::sample::select(b"RKSNEZTDCIHGWdcAv".to_vec()), body: Vec<u8>) {
        let _ = one(tag, &body);
    }
}
