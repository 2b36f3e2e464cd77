//! Statements, and what becomes of a session when one goes wrong.

use bytes::Bytes;
use walkeep_proto::replication::SqlState;

use super::super::{ConnectionClosed, server_error};
use super::*;

const COLUMN: &[u8] = b"\0\x01name\0tttt22oooo22mmmmff";

#[tokio::test]
async fn every_statement_has_its_result() {
    let stage = Stage::new().await;
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    let server = async {
        assert_eq!(peer.query().await, "SELECT 1; DELETE FROM t;");
        let messages: [(u8, &[u8]); 7] = [
            (b'N', b"SNOTICE\0C00000\0Mx\0\0"),
            (b'T', COLUMN),
            (b'D', b"\0\x01\0\0\0\x011"),
            (b'D', b"\0\x01\xFF\xFF\xFF\xFF"),
            (b'C', b"SELECT 2\0"),
            (b'C', b"DELETE 0\0"),
            (b'Z', b"I"),
        ];
        peer.send_all(&messages).await;
    };
    let (results, ()) = tokio::join!(connection.query("SELECT 1; DELETE FROM t;"), server);
    let results = results.unwrap();
    assert_eq!(results.len(), 2);
    assert_eq!((results[0].columns.as_slice(), results[0].tag.as_str()), (&["name".to_owned()][..], "SELECT 2"));
    assert_eq!(results[0].rows, [vec![Some(Bytes::from("1"))], vec![None]]);
    assert_eq!((results[0].text(0, 0), results[0].text(1, 0), results[0].text(0, 1)), (Some("1"), None, None));
    assert_eq!((results[1].rows.len(), results[1].tag.as_str()), (0, "DELETE 0"));
}

#[tokio::test]
async fn an_error_leaves_the_session_usable() {
    let stage = Stage::new().await;
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    let server = async {
        peer.query().await;
        peer.send_all(&[(b'E', b"SERROR\0C42601\0Msyntax error\0\0"), (b'Z', b"I")]).await;
        peer.query().await;
        peer.send_all(&[(b'I', b""), (b'Z', b"I")]).await;
    };
    let client = async {
        let error = connection.query("SELEKT").await.unwrap_err();
        assert_eq!(server_error(&error).unwrap().code(), SqlState::SYNTAX_ERROR);
        assert_eq!(connection.query("").await.unwrap().len(), 1);
        assert!(!connection.is_lost().await);
    };
    tokio::join!(client, server);
}

#[tokio::test]
async fn the_reason_of_an_ended_session_is_told() {
    let stage = Stage::new().await;
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    let server = async {
        peer.query().await;
        peer.send(b'E', b"SFATAL\0C57P01\0Mterminating connection\0\0").await;
        drop(peer);
    };
    let (error, ()) = tokio::join!(connection.query("SELECT 1"), server);
    assert_eq!(server_error(&error.unwrap_err()).unwrap().code(), SqlState::ADMIN_SHUTDOWN);
    assert!(connection.query("SELECT 1").await.is_err());
    assert!(connection.is_lost().await);
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    let server = async {
        peer.query().await;
        drop(peer);
    };
    let (error, ()) = tokio::join!(connection.query("SELECT 1"), server);
    assert!(error.unwrap_err().is::<ConnectionClosed>());
}

#[tokio::test]
async fn a_session_that_ends_between_statements_is_noticed() {
    let stage = Stage::new().await;
    let (mut connection, peer) = stage.session(Purpose::Sql).await;
    assert!(!connection.is_lost().await);
    drop(peer);
    while !connection.is_lost().await {}
    assert!(connection.query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn a_statement_that_was_given_up_poisons_the_session() {
    let stage = Stage::new().await;
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    tokio::select! {
        biased;
        _ = connection.query("SELECT pg_sleep(1)") => panic!("the server says nothing"),
        _ = peer.query() => {}
    }
    peer.send_all(&[(b'C', b"SELECT 1\0"), (b'Z', b"I")]).await;
    let error = connection.query("SELECT 2").await.unwrap_err();
    assert!(error.to_string().contains("given up in the middle of a statement"), "{error:#}");
}

#[tokio::test]
async fn a_result_has_an_end() {
    let stage = Stage::new().await;
    let (mut connection, mut peer) = stage.session(Purpose::Sql).await;
    let row = [&b"\0\x01\0\x80\0\0"[..], &vec![b'x'; 8 << 20]].concat();
    let server = async {
        peer.query().await;
        // The client is gone before this is all sent.
        loop {
            if peer.stream.write_all(&framed(b'D', &row)).await.is_err() {
                break;
            }
        }
    };
    let client = async {
        let error = connection.query("SELECT everything").await.unwrap_err();
        drop(connection);
        error
    };
    let (error, ()) = tokio::join!(client, server);
    assert!(error.to_string().contains("larger than 67108864 bytes"), "{error:#}");
}

#[tokio::test]
async fn taking_leave_is_said() {
    let stage = Stage::new().await;
    let (connection, peer) = stage.session(Purpose::Sql).await;
    let ((), rest) = tokio::join!(connection.close(), peer.rest());
    assert_eq!(rest, b"X\0\0\0\x04");
}
