//! A server that is a process of its own: started, waited for, killed.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use super::gate::Port;
use crate::cluster::kill_tree;
use crate::wait::{SOON, try_poll};

/// A server process on a reserved port; killed on drop.
#[derive(Debug)]
pub(crate) struct Process {
    port: Port,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Nothing runs yet; the server's output will go to `log`.
    pub(crate) fn new(port: Port, log: PathBuf) -> Self {
        Self { port, log, child: None }
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Starts `command`, and returns when it answers HTTP on the port.
    #[track_caller]
    pub(crate) fn start(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{command:?} is running already");
        let log = || {
            let file = File::options().create(true).append(true).open(&self.log);
            file.unwrap_or_else(|e| panic!("unable to open {}: {e}", self.log.display()))
        };
        command.stdout(log()).stderr(log());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("unable to run {command:?}: {e}"));
        let address = self.address();
        let outcome = try_poll(SOON, || {
            if answers(address) {
                return Some(Ok(()));
            }
            child.try_wait().ok().flatten().map(Err)
        });
        self.child = Some(child);
        match outcome {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("{command:?} ended with {status}:\n{}", self.log_text()),
            None => panic!("{command:?} does not answer on {address}:\n{}", self.log_text()),
        }
    }

    /// Kills it; its clients are cut off.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_tree(&mut child);
        }
    }

    /// What it has printed.
    pub(super) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Whether somebody speaks HTTP there, be it to refuse an unsigned request.
fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<[u8; 5]> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    matches!(ask(), Ok(answer) if &answer == b"HTTP/")
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            eprintln!("-- log of the server on {}\n{}\n--", self.address(), self.log_text());
        }
        self.kill();
    }
}
