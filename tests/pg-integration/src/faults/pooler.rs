//! A connection pooler in statement mode, reduced to what it does to a client: every statement may meet another session.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use crate::cluster::Cluster;
use crate::user::Scratch;

const READY_FOR_QUERY: u8 = b'Z';
const SIMPLE_QUERY: u8 = b'Q';

/// Listens on a unix socket of its own and hands each statement of a client to the next of two sessions.
#[derive(Debug)]
pub struct Pooler {
    scratch: Scratch,
}

impl Pooler {
    /// Stands before `cluster` until the test's process ends.
    #[track_caller]
    pub fn before(cluster: &Cluster) -> Self {
        let scratch = Scratch::new("pool");
        let path = scratch.path().join(".s.PGSQL.6432");
        let listener = UnixListener::bind(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).expect("own sockets can be opened");
        let server = cluster.socket();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server: PathBuf = server.clone();
                // A client or a server that goes away ends the conversation.
                thread::spawn(move || drop(serve(client, &server)));
            }
        });
        Self { scratch }
    }

    /// How libpq finds it.
    pub fn conninfo(&self) -> String {
        format!("host={} port=6432 user=postgres dbname=postgres", self.scratch.path().display())
    }
}

/// Protocol 3.0: a startup message without a type, then messages of type, length and body.
fn serve(mut client: UnixStream, server: &Path) -> io::Result<()> {
    let startup = read_body(&mut client)?;
    let mut sessions = [UnixStream::connect(server)?, UnixStream::connect(server)?];
    for session in &mut sessions {
        session.write_all(&startup)?;
    }
    let [first, second] = &mut sessions;
    relay_answer(first, &mut client)?;
    relay_answer(second, &mut io::sink())?;
    for statement in 0.. {
        let mut kind = [0];
        client.read_exact(&mut kind)?;
        let body = read_body(&mut client)?;
        let session = &mut sessions[statement % 2];
        session.write_all(&kind)?;
        session.write_all(&body)?;
        if kind[0] != SIMPLE_QUERY {
            return Ok(());
        }
        relay_answer(session, &mut client)?;
    }
    Ok(())
}

/// The length word and what it counts.
fn read_body(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut message = length.to_vec();
    message.resize((u32::from_be_bytes(length) as usize).max(4), 0);
    from.read_exact(&mut message[4..])?;
    Ok(message)
}

/// Passes on messages until the server is ready for the next statement.
fn relay_answer(session: &mut UnixStream, client: &mut impl Write) -> io::Result<()> {
    loop {
        let mut kind = [0];
        session.read_exact(&mut kind)?;
        let body = read_body(session)?;
        client.write_all(&kind)?;
        client.write_all(&body)?;
        if kind[0] == READY_FOR_QUERY {
            return Ok(());
        }
    }
}
