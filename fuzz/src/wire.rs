//! Target `wire`: a server's messages, whole and in pieces, and everything that is read out of them.
//!
//! The first byte of the input says how the rest is cut.

use bytes::{Bytes, BytesMut};
use walkeep_proto::replication::base_backup::{BackupMessage, BackupPosition, BackupTablespace, parse_archive_name};
use walkeep_proto::replication::scram::{ChannelBinding, NONCE_LENGTH, ScramClient};
use walkeep_proto::replication::{
    AuthenticationRequest, BackendMessage, NextTimeline, StreamMessage, SystemIdentification, TimelineHistoryFile,
    WireError, decode, message,
};

use crate::pieces::cut;

/// More would only cost time: the work is real, and bounded elsewhere.
const MOST_ITERATIONS: u32 = 8;

/// Runs the target.
pub fn check(input: &[u8]) {
    let Some((seed, stream)) = input.split_first() else { return };
    let whole = read(&[stream]);
    assert_eq!(read(&cut(stream, *seed)), whole, "pieces must not matter");
    for message in &whole.0 {
        look_inside(message);
    }
}

/// The messages of a stream, and the error that ended it.
fn read(pieces: &[&[u8]]) -> (Vec<BackendMessage>, Option<WireError>) {
    let mut buffer = BytesMut::new();
    let mut messages = Vec::new();
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            let missing = message::missing(&buffer);
            match decode(&mut buffer) {
                Ok(Some(message)) => {
                    assert_eq!(missing, Ok(0));
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(missing.is_ok_and(|bytes| bytes > 0));
                    break;
                }
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

fn look_inside(message: &BackendMessage) {
    match message {
        BackendMessage::CopyData(payload) => {
            let _ = StreamMessage::decode(payload.clone());
            if let Ok(BackupMessage::Archive { name, .. }) = BackupMessage::decode(payload.clone()) {
                assert!(parse_archive_name(&name).is_none() || !name.contains('/'), "no name is a path");
            }
        }
        BackendMessage::DataRow(row) => read_answers(row),
        BackendMessage::ErrorResponse(said) | BackendMessage::NoticeResponse(said) => {
            assert!(!said.to_string().contains(char::is_control), "a log's lines must not be forged");
        }
        BackendMessage::Authentication(request) => authenticate(request),
        _ => {}
    }
}

fn read_answers(row: &[Option<Bytes>]) {
    let _ = SystemIdentification::parse(row);
    let _ = TimelineHistoryFile::parse(row);
    let _ = NextTimeline::parse(row);
    let _ = BackupPosition::parse(row);
    let _ = BackupTablespace::parse(row);
}

/// Answers a server's SCRAM message; the client's nonce is that of zeroes, so that inputs can continue it.
fn authenticate(request: &AuthenticationRequest) {
    let (AuthenticationRequest::SaslContinue(data) | AuthenticationRequest::SaslFinal(data)) = request else { return };
    let client = || ScramClient::new(ChannelBinding::NotOffered, [0; NONCE_LENGTH]);
    if let Ok(challenge) = client().challenge(data)
        && challenge.iterations() <= MOST_ITERATIONS
    {
        let (response, proof) = challenge.respond(b"password");
        assert!(response.starts_with("c=eSws,r="), "the binding is 'y,,'");
        assert!(proof.check(&Bytes::from("v=AAAA")).is_err());
    }
    let first = Bytes::from_static(b"r=AAAAAAAAAAAAAAAAAAAAAAAAx,s=AAAA,i=1");
    let (_, proof) = client().challenge(&first).expect("it continues the client's nonce").respond(b"password");
    assert!(proof.check(data).is_err(), "the signature cannot be guessed");
}
