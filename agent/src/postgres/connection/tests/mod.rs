//! The client against servers that are played here: what real ones hardly ever do.

mod authentication;
mod base_backup;
mod query;
mod replication;

use std::collections::BTreeMap;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::messages::framed;
use super::{Connection, Purpose};
use crate::postgres::conninfo::{Conninfo, Environment};

/// Where a played server listens.
struct Stage {
    listener: TcpListener,
}

impl Stage {
    async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    fn conninfo(&self, more: &str) -> Conninfo {
        let text = format!("host=127.0.0.1 port={} user=u dbname=d password=geheim {more}", self.port());
        Conninfo::resolve_in(&text, &Environment::default()).unwrap()
    }

    async fn connect(&self, more: &str, purpose: Purpose) -> Result<Connection> {
        Connection::connect(&self.conninfo(more), purpose).await
    }

    async fn accept(&self) -> Peer {
        Peer { stream: self.listener.accept().await.unwrap().0 }
    }

    /// An open session without TLS, and the server's end of it.
    async fn session(&self, purpose: Purpose) -> (Connection, Peer) {
        let server = async {
            let mut peer = self.accept().await;
            peer.startup().await;
            peer.let_in().await;
            peer
        };
        let (connection, peer) = tokio::join!(self.connect("sslmode=disable", purpose), server);
        (connection.unwrap(), peer)
    }
}

/// The server's end of a connection.
pub(crate) struct Peer<S = TcpStream> {
    pub(crate) stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    async fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn length(&mut self) -> usize {
        self.stream.read_u32().await.unwrap() as usize - 4
    }

    /// The parameters of a startup message.
    pub(crate) async fn startup(&mut self) -> BTreeMap<String, String> {
        let length = self.length().await;
        let body = self.read(length).await;
        assert_eq!(&body[..4], &[0, 3, 0, 0], "protocol 3.0");
        let texts: Vec<&str> = body[4..].split(|byte| *byte == 0).map(|text| str::from_utf8(text).unwrap()).collect();
        let pairs = texts.chunks_exact(2).filter(|pair| !pair[0].is_empty());
        pairs.map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect()
    }

    async fn tls_request(&mut self) {
        assert_eq!(self.read(8).await, [0, 0, 0, 8, 4, 0xD2, 0x16, 0x2F]);
    }

    /// The client's next message.
    pub(crate) async fn message(&mut self) -> (u8, Vec<u8>) {
        let tag = self.stream.read_u8().await.unwrap();
        let length = self.length().await;
        (tag, self.read(length).await)
    }

    pub(crate) async fn query(&mut self) -> String {
        let (tag, body) = self.message().await;
        assert_eq!((tag, body.last()), (b'Q', Some(&0)));
        String::from_utf8(body[..body.len() - 1].to_vec()).unwrap()
    }

    pub(crate) async fn send(&mut self, tag: u8, body: &[u8]) {
        self.send_all(&[(tag, body)]).await;
    }

    /// Several messages in one write.
    pub(crate) async fn send_all(&mut self, messages: &[(u8, &[u8])]) {
        let bytes: Vec<u8> = messages.iter().flat_map(|(tag, body)| framed(*tag, body)).collect();
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn let_in(&mut self) {
        let messages: [(u8, &[u8]); 4] = [
            (b'R', b"\0\0\0\0"),
            (b'S', b"server_version\x0017.5 (Debian)\0"),
            (b'K', b"\0\0\0\x07\0\0\0\x01"),
            (b'Z', b"I"),
        ];
        self.send_all(&messages).await;
    }

    /// What the client sends until it closes the connection.
    async fn rest(mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end, too.
        let _ = self.stream.read_to_end(&mut bytes).await;
        bytes
    }
}
