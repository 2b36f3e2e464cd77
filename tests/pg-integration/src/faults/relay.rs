//! Somebody between a client and a cluster's TCP port, who passes on what is said or meddles with how a session begins.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, copy_bidirectional, sink};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::cluster::{Cluster, free_port};

/// SSLRequest: its length and the code that stands for a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const AUTHENTICATION: u8 = b'R';
const AUTHENTICATION_SASL: u32 = 10;

/// What the one in between does with connections that are opened from now on.
#[derive(Clone)]
pub enum Meddling {
    /// Passes everything on.
    Nothing,
    /// Passes on until the client says this; that waits until the meddling is another one.
    Holds(&'static str),
    /// Listens and never says a word.
    Silent,
    /// Answers whatever is said with these bytes, and hangs up.
    Says(&'static [u8]),
    /// Has the server agree to TLS, and puts these bytes behind its agreement.
    Injects(&'static [u8]),
    /// Does TLS with the client itself.
    EndsTls {
        /// With its own certificate.
        own: TlsAcceptor,
        /// Onward with TLS too, or in plain text.
        onward: Option<TlsConnector>,
        /// Whether the client is to believe that the server knows no channel binding.
        hides_binding: bool,
    },
}

/// One in between. Listens at 127.0.0.1 until dropped.
pub struct Relay {
    port: u16,
    state: Arc<State>,
    /// Everything happens in here, and ends with it.
    _runtime: Runtime,
}

struct State {
    server: u16,
    meddling: Mutex<Meddling>,
    connections: AtomicUsize,
    held: Mutex<Vec<String>>,
}

impl Relay {
    /// Stands before `cluster` and meddles with nothing yet.
    #[track_caller]
    pub fn before(cluster: &Cluster) -> Self {
        Self::at(free_port(), cluster)
    }

    /// The same at this port.
    #[track_caller]
    pub fn at(port: u16, cluster: &Cluster) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let listener = match runtime.block_on(TcpListener::bind(("127.0.0.1", port))) {
            Ok(listener) => listener,
            Err(e) => panic!("unable to listen at port {port}: {e}"),
        };
        let (meddling, connections, held) = (Mutex::new(Meddling::Nothing), AtomicUsize::new(0), Mutex::default());
        let state = Arc::new(State { server: cluster.port(), meddling, connections, held });
        runtime.spawn(accept(listener, Arc::clone(&state)));
        Self { port, state, _runtime: runtime }
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Changes its ways. Connections that are open stay as they are.
    pub fn meddle(&self, meddling: Meddling) {
        *self.state.meddling.lock() = meddling;
    }

    /// What clients said that was held back so far.
    pub fn held(&self) -> Vec<String> {
        self.state.held.lock().clone()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        state.connections.fetch_add(1, Ordering::SeqCst);
        let (meddling, state) = (state.meddling.lock().clone(), Arc::clone(&state));
        // A client or a server that goes away ends the conversation.
        tokio::spawn(async move { drop(serve(client, &state, meddling).await) });
    }
}

async fn serve(mut client: TcpStream, state: &State, meddling: Meddling) -> io::Result<()> {
    let server = state.server;
    match meddling {
        Meddling::Nothing => {
            let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Meddling::Holds(words) => hold(client, state, words).await?,
        Meddling::Silent => _ = copy(&mut client, &mut sink()).await?,
        Meddling::Says(bytes) => {
            client.read_u8().await?;
            client.write_all(bytes).await?;
            client.shutdown().await?;
            // Unread bytes would make the end of the connection an error at the other side.
            copy(&mut client, &mut sink()).await?;
        }
        Meddling::Injects(bytes) => {
            let mut server = agreed_to_tls(server).await?;
            client.read_exact(&mut [0; SSL_REQUEST.len()]).await?;
            client.write_all(&[b"S", bytes].concat()).await?;
            copy_bidirectional(&mut client, &mut server).await?;
        }
        Meddling::EndsTls { own, onward, hides_binding } => {
            client.read_exact(&mut [0; SSL_REQUEST.len()]).await?;
            client.write_all(b"S").await?;
            let client = own.accept(client).await?;
            match onward {
                Some(connector) => {
                    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                    let server = connector.connect(name, agreed_to_tls(server).await?).await?;
                    relay(client, server, hides_binding).await?;
                }
                None => relay(client, TcpStream::connect(("127.0.0.1", server)).await?, hides_binding).await?,
            }
        }
    }
    Ok(())
}

/// Passes on, but not what the client says with `words` in it, as long as that is to be held.
async fn hold(mut client: TcpStream, state: &State, words: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", state.server)).await?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.split(), server.split());
    let onward = async {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 {
                return to_server.shutdown().await;
            }
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if said.contains(words) {
                state.held.lock().push(said);
                while matches!(*state.meddling.lock(), Meddling::Holds(_)) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    let back = async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(onward, back).map(drop)
}

/// A connection to the server behind its agreement to TLS.
async fn agreed_to_tls(port: u16) -> io::Result<TcpStream> {
    let mut server = TcpStream::connect(("127.0.0.1", port)).await?;
    server.write_all(&SSL_REQUEST).await?;
    match server.read_u8().await? {
        b'S' => Ok(server),
        other => Err(io::Error::other(format!("the server answered byte {other} to the request for TLS"))),
    }
}

/// Passes on; changes at most the server's first message.
async fn relay<C, S>(mut client: C, mut server: S, hides_binding: bool) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    if hides_binding {
        let length = client.read_u32().await?;
        let mut startup = vec![0; (length as usize).saturating_sub(4)];
        client.read_exact(&mut startup).await?;
        server.write_all(&[&length.to_be_bytes()[..], &startup].concat()).await?;
        server.flush().await?;
        let (kind, length) = (server.read_u8().await?, server.read_u32().await?);
        let mut body = vec![0; (length as usize).saturating_sub(4)];
        server.read_exact(&mut body).await?;
        if kind == AUTHENTICATION && body.starts_with(&AUTHENTICATION_SASL.to_be_bytes()) {
            body = [&AUTHENTICATION_SASL.to_be_bytes()[..], b"SCRAM-SHA-256\0\0"].concat();
        }
        let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
        client.write_all(&[&[kind][..], &length.to_be_bytes(), &body].concat()).await?;
        client.flush().await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
