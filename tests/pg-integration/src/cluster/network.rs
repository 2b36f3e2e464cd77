//! A cluster on the network: where it listens, how it is encrypted, who is let in.

use std::net::TcpListener;

use super::Cluster;
use crate::tls::Certificate;
use crate::user::write_file;

impl Cluster {
    /// Lets the stopped cluster listen at 127.0.0.1 from its next start on, at a port that is free now.
    pub fn listen(&mut self) {
        assert!(self.process.is_none(), "where a server listens is decided when it starts");
        self.port = free_port();
        self.command_line("listen_addresses", "127.0.0.1");
    }

    /// The port: of TCP after [`Cluster::listen`], and always part of the socket's name.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Replaces `pg_hba.conf`. The harness itself still gets in, as `postgres` through the socket.
    #[track_caller]
    pub fn let_in(&self, lines: &[&str]) {
        let own = "local all,replication postgres trust";
        let text: String = [own].iter().chain(lines).map(|line| format!("{line}\n")).collect();
        write_file(&self.data().join("pg_hba.conf"), text);
        self.reload();
        let wrong = "select coalesce(string_agg(error, '; '), '') from pg_hba_file_rules";
        assert_eq!(self.query_one::<String>(wrong), "", "{lines:?}");
    }

    /// Encrypts where a client wants it, with this certificate from now on.
    #[track_caller]
    pub fn present(&self, certificate: &Certificate) {
        certificate.write(self.data(), "server");
        self.set("ssl", "on");
    }
}

/// A port at 127.0.0.1 where nobody listens now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
    listener.local_addr().expect("it is bound").port()
}
