//! Every way in which a stream of WAL begins and ends.

use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::{NextTimeline, SqlState, StandbyStatusUpdate, StreamMessage};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::PgTimestamp;

use super::super::{
    ConnectionClosed, ReplicationReader, ReplicationStart, ReplicationWriter, StreamEnd, StreamEvent, server_error,
};
use super::*;

const COMMAND: &str = "START_REPLICATION PHYSICAL 0/1000000 TIMELINE 1";
const COPY_BOTH: (u8, &[u8]) = (b'W', b"\0\0\0");
const KEEPALIVE: (u8, &[u8]) = (b'd', b"k\0\0\0\0\x01\0\0\x05\0\0\0\0\0\0\0\x09\x01");
/// Five bytes at 0/1000000.
const WAL: (u8, &[u8]) = (b'd', b"w\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\x05\0\0\0\0\0\0\0\x09bytes");
const DONE: (u8, &[u8]) = (b'c', b"");
const READY: (u8, &[u8]) = (b'Z', b"I");
/// The row about timeline 9 from 0/1000005 on, and the end of the command.
const NEXT: [(u8, &[u8]); 5] = [
    (b'T', b"\0\0"),
    (b'D', b"\0\x02\0\0\0\x019\0\0\0\x090/1000005"),
    (b'C', b"START_STREAMING\0"),
    (b'C', b"START_REPLICATION\0"),
    READY,
];

fn next_timeline() -> NextTimeline {
    NextTimeline { timeline: TimelineId::new(9).unwrap(), start: Lsn::new(0x100_0005) }
}

/// What comes of START_REPLICATION when the server answers like this.
async fn start(answer: &[(u8, &[u8])]) -> (Result<ReplicationStart>, Peer) {
    let stage = Stage::new().await;
    let (connection, mut peer) = stage.session(Purpose::PhysicalReplication).await;
    let server = async {
        assert_eq!(peer.query().await, COMMAND);
        peer.send_all(answer).await;
    };
    let (started, ()) = tokio::join!(connection.start_replication(COMMAND), server);
    (started, peer)
}

/// A stream that has brought this.
async fn stream(messages: &[(u8, &[u8])]) -> (ReplicationReader, ReplicationWriter, Peer) {
    let (started, peer) = start(&[&[COPY_BOTH], messages].concat()).await;
    let Ok(ReplicationStart::Streaming(reader, writer)) = started else { panic!("no stream") };
    (reader, writer, peer)
}

#[tokio::test]
async fn wal_comes_and_statuses_go() {
    let reported: (u8, &[u8]) = (b'S', b"in_hot_standby\0on\0");
    let (mut reader, mut writer, mut peer) = stream(&[WAL, reported, KEEPALIVE]).await;
    let StreamEvent::Message(StreamMessage::WalData { start, server_end, data, .. }) = reader.next().await.unwrap()
    else {
        panic!("no WAL")
    };
    assert_eq!((start, server_end, &data[..]), (Lsn::new(0x100_0000), Lsn::new(0x100_0005), &b"bytes"[..]));
    assert!(matches!(
        reader.next().await.unwrap(),
        StreamEvent::Message(StreamMessage::Keepalive { reply_requested: true, .. })
    ));
    assert_eq!(reader.parameter("in_hot_standby"), Some("on"));
    let status = StandbyStatusUpdate {
        write: server_end,
        flush: start,
        apply: Lsn::INVALID,
        at: PgTimestamp::new(1),
        reply_requested: false,
    };
    writer.send_status(&status).await.unwrap();
    assert_eq!(peer.message().await, (b'd', status.encode().to_vec()));
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so_without_ending_the_copy() {
    let (mut reader, _writer, peer) = stream(&[WAL, (b'C', b"COPY 0\0")]).await;
    drop(peer);
    assert!(matches!(reader.next().await.unwrap(), StreamEvent::Message(_)));
    assert_eq!(reader.next().await.unwrap(), StreamEvent::Shutdown);
}

#[tokio::test]
async fn the_end_of_a_timeline_tells_the_next_and_leaves_a_session() {
    let (mut reader, writer, mut peer) = stream(&[WAL, DONE]).await;
    assert!(matches!(reader.next().await.unwrap(), StreamEvent::Message(_)));
    assert_eq!(reader.next().await.unwrap(), StreamEvent::EndOfTimeline);
    let server = async {
        assert_eq!(peer.message().await, (b'c', vec![]));
        peer.send_all(&NEXT).await;
        assert_eq!(peer.query().await, "SHOW x");
        peer.send_all(&[(b'I', b""), READY]).await;
    };
    let client = async {
        let StreamEnd::Finished { next, mut connection } = reader.finish(writer).await.unwrap() else {
            panic!("no shutdown")
        };
        assert_eq!(next, Some(next_timeline()));
        connection.query("SHOW x").await.unwrap();
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn a_stream_can_be_ended_by_the_client() {
    let (reader, writer, mut peer) = stream(&[WAL]).await;
    let server = async {
        assert_eq!(peer.message().await, (b'c', vec![]));
        let messages = [WAL, KEEPALIVE, DONE, (b'C', b"COPY 0\0"), (b'C', b"START_REPLICATION\0"), READY];
        peer.send_all(&messages).await;
    };
    let (end, ()) = tokio::join!(reader.finish(writer), server);
    assert!(matches!(end.unwrap(), StreamEnd::Finished { next: None, .. }));
    // While the server shuts down.
    let (reader, mut writer, mut peer) = stream(&[WAL]).await;
    writer.send_copy_done().await.unwrap();
    assert!(
        writer
            .send_status(&StandbyStatusUpdate {
                write: Lsn::INVALID,
                flush: Lsn::INVALID,
                apply: Lsn::INVALID,
                at: PgTimestamp::new(0),
                reply_requested: false,
            })
            .await
            .is_err()
    );
    peer.send(b'C', b"COPY 0\0").await;
    let (end, rest) = tokio::join!(reader.finish(writer), peer.rest());
    assert!(matches!(end.unwrap(), StreamEnd::Shutdown));
    assert_eq!(rest, b"c\0\0\0\x04", "once");
}

#[tokio::test]
async fn at_the_very_end_of_a_timeline_there_is_no_stream() {
    let (started, _peer) = start(&NEXT).await;
    let Ok(ReplicationStart::EndOfTimeline { next, .. }) = started else { panic!("no end") };
    assert_eq!(next, next_timeline());
}

#[tokio::test]
async fn a_refusal_comes_before_or_inside_the_stream() {
    let refusal: (u8, &[u8]) = (b'E', b"SERROR\0CXX000\0Mrequested starting point is ahead\0\0");
    let (started, _peer) = start(&[refusal, READY]).await;
    assert_eq!(server_error(&started.err().unwrap()).unwrap().code().as_str(), "XX000");
    let (mut reader, writer, _peer) = stream(&[refusal]).await;
    assert_eq!(server_error(&reader.next().await.unwrap_err()).unwrap().code().as_str(), "XX000");
    drop(writer);
    let (mut reader, _writer, _peer) = stream(&[(b'E', b"SFATAL\0C57P01\0Mterminating\0\0")]).await;
    assert_eq!(server_error(&reader.next().await.unwrap_err()).unwrap().code(), SqlState::ADMIN_SHUTDOWN);
}

#[tokio::test]
async fn a_server_that_vanishes_is_told_from_one_that_ends() {
    let (mut reader, _writer, peer) = stream(&[]).await;
    drop(peer);
    assert!(reader.next().await.unwrap_err().is::<ConnectionClosed>());
}

#[tokio::test]
async fn what_does_not_belong_into_a_stream_is_refused() {
    for message in [READY, (b'D', b"\0\0"), COPY_BOTH, (b'd', b"x"), (b'd', b""), (b'R', b"\0\0\0\0")] {
        let (mut reader, _writer, _peer) = stream(&[message]).await;
        assert!(reader.next().await.is_err(), "{message:?}");
    }
}
