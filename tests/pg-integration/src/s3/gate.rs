//! A listening port that can be shut and opened again, and stays ours meanwhile.

use std::fmt;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::{SOON, wait_until};

/// What happens to who connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Served.
    Open,
    /// Refused.
    Shut,
    /// Accepted, and never answered.
    Silent,
}

/// A port of the loopback interface that nobody else gets while this lives.
///
/// The socket is bound and never listens: connecting to it is refused, and with SO_REUSEADDR a server can listen there.
#[derive(Debug)]
pub(crate) struct Port {
    _held: TcpSocket,
    address: SocketAddr,
}

impl Port {
    pub(crate) fn reserve() -> Self {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port of the loopback interface");
        let address = socket.local_addr().expect("a bound socket has an address");
        Self { _held: socket, address }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

type Conversation = Pin<Box<dyn Future<Output = ()> + Send>>;
type Serve = dyn Fn(TcpStream) -> Conversation + Send + Sync;

/// Serves connections on a port, in threads of its own.
pub(super) struct Gate {
    port: Port,
    serve: Arc<Serve>,
    accepting: Mutex<Option<Accepting>>,
    runtime: Option<Runtime>,
}

struct Accepting {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Gate {
    /// Opens a port where `serve` talks to each client.
    pub(super) fn open<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads for a server can be started");
        let serve = Arc::new(move |stream| -> Conversation { Box::pin(serve(stream)) });
        let gate = Self { port: Port::reserve(), serve, accepting: Mutex::new(None), runtime: Some(runtime) };
        gate.set(Mode::Open);
        gate
    }

    /// Where it is.
    pub(crate) const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Ends every conversation, then treats clients as `mode` says. Holds when this returns.
    pub(super) fn set(&self, mode: Mode) {
        let runtime = self.runtime.as_ref().expect("present until dropped");
        let mut accepting = self.accepting.lock();
        if let Some(before) = accepting.take() {
            drop(before.stop);
            // A panic of the accept loop would have been printed; its connections are gone either way.
            let _ = runtime.block_on(before.ended);
        }
        if mode == Mode::Shut {
            return;
        }
        let _context = runtime.enter();
        let mut bound = None;
        // While it was shut, a client of somebody else may have been given the port for a moment.
        wait_until(&format!("{} to be free", self.address()), SOON, || {
            bound = bind(self.address()).and_then(|socket| socket.listen(1024)).ok();
            bound.is_some()
        });
        let listener = bound.expect("waited for");
        let (stop, stopped) = oneshot::channel();
        let serve = (mode == Mode::Open).then(|| Arc::clone(&self.serve));
        let ended = runtime.spawn(accept(listener, serve, stopped));
        *accepting = Some(Accepting { stop, ended });
    }
}

/// Takes clients until told to stop; nothing of them is left when it returns.
async fn accept(listener: TcpListener, serve: Option<Arc<Serve>>, mut stopped: oneshot::Receiver<()>) {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = conversations.join_next(), if !conversations.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _ = stream.set_nodelay(true);
                match &serve {
                    Some(serve) => conversations.spawn(serve(stream)),
                    None => conversations.spawn(async move {
                        std::future::pending::<()>().await;
                        drop(stream);
                    }),
                };
            }
        }
    }
    drop(listener);
    conversations.shutdown().await;
}

impl Drop for Gate {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.address()).finish()
    }
}
