//! Opening a session with servers that cheat, refuse, or want something else.

use walkeep_proto::replication::SqlState;

use super::super::{ConnectError, server_error};
use super::*;

const REFUSED: &[u8] = b"SFATAL\0C28000\0Mno pg_hba.conf entry\0\0";
const WRONG_PASSWORD: &[u8] = b"SFATAL\0C28P01\0Mpassword authentication failed\0\0";

/// What the client says to a server that plays `part`, and what the client sends after that.
macro_rules! refused {
    ($more:expr, |$peer:ident| $part:block) => {{
        let stage = Stage::new().await;
        let server = async {
            let mut $peer = stage.accept().await;
            $part
            $peer.rest().await
        };
        let (connection, rest) = tokio::join!(stage.connect($more, Purpose::Sql), server);
        (format!("{:#}", connection.err().expect("the client has to refuse")), rest)
    }};
}

#[tokio::test]
async fn the_purpose_decides_the_parameters() {
    let stage = Stage::new().await;
    for (purpose, replication) in [(Purpose::PhysicalReplication, Some("true")), (Purpose::Sql, None)] {
        let server = async {
            let mut peer = stage.accept().await;
            let parameters = peer.startup().await;
            peer.let_in().await;
            parameters
        };
        let more = "sslmode=disable options='-c geqo=off'";
        let (connection, parameters) = tokio::join!(stage.connect(more, purpose), server);
        let connection = connection.unwrap();
        assert_eq!(connection.parameter("server_version"), Some("17.5 (Debian)"));
        assert_eq!((connection.server_process(), connection.is_encrypted()), (7, false));
        let expected = [("user", "u"), ("database", "d"), ("options", "-c geqo=off"), ("application_name", "walkeep")];
        for (name, value) in expected {
            assert_eq!(parameters[name], value);
        }
        assert_eq!(parameters.get("replication").map(String::as_str), replication);
    }
}

/// Plays SCRAM up to the client's proof.
async fn scram_until_proof(peer: &mut Peer) {
    peer.startup().await;
    peer.send(b'R', b"\0\0\0\x0ASCRAM-SHA-256\0\0").await;
    let (_, first) = peer.message().await;
    let first = String::from_utf8_lossy(&first).into_owned();
    let nonce = first.split_once("r=").unwrap().1;
    peer.send(b'R', [&b"\0\0\0\x0B"[..], format!("r={nonce}x,s=c2FsdA==,i=1").as_bytes()].concat().as_slice()).await;
    let (_, proof) = peer.message().await;
    assert!(String::from_utf8_lossy(&proof).contains(",p="));
}

#[tokio::test]
async fn a_server_must_prove_that_it_knows_the_password() {
    let (error, _) = refused!("sslmode=disable", |peer| {
        scram_until_proof(&mut peer).await;
        peer.let_in().await;
    });
    assert!(error.contains("left the SCRAM exchange before it was finished"), "{error}");
    let (error, _) = refused!("sslmode=disable", |peer| {
        scram_until_proof(&mut peer).await;
        // 32 bytes, as a signature has.
        peer.send(b'R', b"\0\0\0\x0Cv=BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").await;
    });
    assert!(error.contains("does not know the password"), "{error}");
    assert!(!error.contains("geheim"), "{error}");
}

#[tokio::test]
async fn a_password_is_not_given_to_who_may_not_have_it() {
    for (more, request) in [
        ("sslmode=disable channel_binding=require", &b"\0\0\0\x03"[..]),
        ("sslmode=disable channel_binding=require", b"\0\0\0\x05salt"),
        ("sslmode=disable require_auth=scram-sha-256", b"\0\0\0\x03"),
        ("sslmode=disable require_auth=!md5", b"\0\0\0\x05salt"),
        // Offered over what the server believes to be TLS.
        ("sslmode=disable", b"\0\0\0\x0ASCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"),
        // GSSAPI, and something that may come some day.
        ("sslmode=disable", b"\0\0\0\x07"),
        ("sslmode=disable", b"\0\0\0\x63"),
    ] {
        let (error, rest) = refused!(more, |peer| {
            peer.startup().await;
            peer.send(b'R', request).await;
        });
        assert_eq!(rest, b"", "{more}: {error}");
    }
}

#[tokio::test]
async fn without_tls_nothing_is_said_where_it_is_required() {
    for answer in [b"N", b"E", b"H"] {
        let (_, rest) = refused!("sslmode=require", |peer| {
            peer.tls_request().await;
            peer.stream.write_all(answer).await.unwrap();
        });
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn bytes_behind_the_answer_about_tls_are_no_message() {
    let stuffed = [b"S".to_vec(), framed(b'E', REFUSED)].concat();
    let (error, rest) = refused!("sslmode=require", |peer| {
        peer.tls_request().await;
        peer.stream.write_all(&stuffed).await.unwrap();
    });
    assert!(!error.contains("pg_hba"), "{error}");
    assert!(!rest.windows(4).any(|bytes| bytes == b"user"), "only TLS may follow");
}

#[tokio::test]
async fn prefer_goes_on_without_tls() {
    let stage = Stage::new().await;
    let server = async {
        let mut peer = stage.accept().await;
        peer.tls_request().await;
        peer.stream.write_all(b"N").await.unwrap();
        peer.startup().await;
        peer.let_in().await;
        peer
    };
    let (connection, _peer) = tokio::join!(stage.connect("sslmode=prefer", Purpose::Sql), server);
    assert!(!connection.unwrap().is_encrypted());
}

#[tokio::test]
async fn allow_tries_tls_when_it_is_refused_without() {
    let stage = Stage::new().await;
    let server = async {
        let mut first = stage.accept().await;
        first.startup().await;
        first.send(b'E', REFUSED).await;
        let mut second = stage.accept().await;
        second.tls_request().await;
        second.stream.write_all(b"N").await.unwrap();
        first.rest().await;
    };
    let (connection, ()) = tokio::join!(stage.connect("sslmode=allow", Purpose::Sql), server);
    let error = connection.err().unwrap();
    assert_eq!(server_error(&error).unwrap().code(), SqlState::INVALID_AUTHORIZATION);
    let attempts = &error.downcast_ref::<ConnectError>().unwrap().attempts;
    assert_eq!(attempts.len(), 2, "{error:#}");
    assert!(attempts[1].error.to_string().contains("does not support TLS"), "{error:#}");
}

#[tokio::test]
async fn a_wrong_password_is_shown_once() {
    let stage = Stage::new().await;
    let server = async {
        let mut peer = stage.accept().await;
        peer.startup().await;
        peer.send(b'R', b"\0\0\0\x05salt").await;
        let (tag, hash) = peer.message().await;
        // md5(md5('geheim' || 'u') || 'salt')
        assert_eq!((tag, &hash[..3], hash.len()), (b'p', &b"md5"[..], 36));
        peer.send(b'E', WRONG_PASSWORD).await;
        peer.rest().await
    };
    let (connection, rest) = tokio::join!(stage.connect("sslmode=allow", Purpose::Sql), server);
    let error = connection.err().unwrap();
    assert_eq!(error.downcast_ref::<ConnectError>().unwrap().attempts.len(), 1, "{error:#}");
    assert_eq!(server_error(&error).unwrap().code(), SqlState::INVALID_PASSWORD);
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn hosts_are_tried_in_order_and_every_failure_is_told() {
    // A port that was free a moment ago.
    let nobody = Stage::new().await.port();
    let stage = Stage::new().await;
    let text = |last| format!("host=127.0.0.1,127.0.0.1 port={nobody},{last} user=u sslmode=disable");
    let resolve = |last| Conninfo::resolve_in(&text(last), &Environment::default()).unwrap();
    let server = async {
        let mut peer = stage.accept().await;
        peer.startup().await;
        peer.let_in().await;
        peer
    };
    let reachable = resolve(stage.port());
    let (connection, _peer) = tokio::join!(Connection::connect(&reachable, Purpose::Sql), server);
    assert!(connection.unwrap().target().contains(&stage.port().to_string()));
    let error = Connection::connect(&resolve(nobody), Purpose::Sql).await.err().unwrap();
    assert_eq!(error.downcast_ref::<ConnectError>().unwrap().attempts.len(), 2, "{error:#}");
}
