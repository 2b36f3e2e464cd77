//! Garage as one node: metadata in SQLite, one copy, keys and buckets made by its own command.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::gate::Port;
use super::process::Process;
use super::programs;
use super::server::Credentials;
use crate::output::Output;
use crate::user::{Scratch, TestUser, write_file};
use crate::wait::{SOON, poll};

/// What a key may do with a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read and list.
    Read,
    /// Write and delete, without reading.
    Write,
    /// Both.
    ReadWrite,
}

/// A running node.
#[derive(Debug)]
pub struct Garage {
    process: Process,
    config: PathBuf,
    keys: AtomicU32,
    /// Where its command reaches it.
    _rpc: Port,
}

impl Garage {
    /// Starts a node in `scratch`; the credentials may create buckets.
    pub(super) fn start(scratch: &Scratch) -> (Self, Credentials) {
        let (api, rpc) = (Port::reserve(), Port::reserve());
        let config = scratch.path().join("garage.toml");
        write_file(&config, configuration(scratch.path(), api.address(), rpc.address()));
        let process = Process::new(api, scratch.path().join("garage.log"));
        let mut garage = Self { process, config, keys: AtomicU32::new(0), _rpc: rpc };
        garage.resume();
        // A node without a place in the layout stores nothing.
        let id = poll("Garage to answer its command", SOON, || {
            let said = garage.run(&["node", "id", "--quiet"]);
            let id = said.stdout.split('@').next().unwrap_or_default().trim().to_owned();
            (said.succeeded() && garage.run(&["status"]).succeeded()).then_some(id)
        });
        garage.run(&["layout", "assign", "--zone", "here", "--capacity", "100G", &id]).ok();
        garage.run(&["layout", "apply", "--version", "1"]).ok();
        let credentials = garage.key();
        garage.run(&["key", "allow", "--create-bucket", &credentials.access_key]).ok();
        (garage, credentials)
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.process.address()
    }

    pub(super) fn stop(&mut self) {
        self.process.kill();
    }

    pub(super) fn resume(&mut self) {
        let mut command = self.command();
        command.arg("server").env("RUST_LOG", "garage=info");
        self.process.start(command);
    }

    #[track_caller]
    pub(super) fn create_bucket(&self, name: &str, owner: &Credentials) {
        // The layout takes a moment to arrive everywhere in the node.
        poll("Garage to create a bucket", SOON, || self.run(&["bucket", "create", name]).succeeded().then_some(()));
        self.run(&["bucket", "allow", "--read", "--write", "--owner", name, "--key", &owner.access_key]).ok();
    }

    /// A new key, which may do nothing yet.
    #[track_caller]
    pub fn key(&self) -> Credentials {
        let number = self.keys.fetch_add(1, Ordering::Relaxed);
        // Garage's form of keys: GK and 24 hexadecimal digits, and 64 of them.
        let credentials = Credentials {
            access_key: format!("GK{:024x}", 0xacce_5500 + number),
            secret_key: format!("{number:064x}"),
        };
        let name = format!("key-{number}");
        self.run(&["key", "import", "--yes", "-n", &name, &credentials.access_key, &credentials.secret_key]).ok();
        credentials
    }

    /// A new key with these rights on `bucket` and no others.
    #[track_caller]
    pub fn key_for(&self, bucket: &str, rights: Rights) -> Credentials {
        let credentials = self.key();
        let flags: &[&str] = match rights {
            Rights::Read => &["--read"],
            Rights::Write => &["--write"],
            Rights::ReadWrite => &["--read", "--write"],
        };
        self.run(&[&["bucket", "allow", bucket, "--key", &credentials.access_key], flags].concat()).ok();
        credentials
    }

    /// Lets `bucket` hold at most `bytes`.
    #[track_caller]
    pub fn quota(&self, bucket: &str, bytes: u64) {
        self.run(&["bucket", "set-quotas", bucket, "--max-size", &format!("{bytes}B")]).ok();
    }

    /// Runs its command to the end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        Output::of(self.command().args(args))
    }

    fn command(&self) -> Command {
        let mut command = TestUser::get().command(programs::garage());
        command.arg("-c").arg(&self.config);
        command
    }
}

fn configuration(directory: &Path, api: SocketAddr, rpc: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "metadata_dir = \"{directory}/meta\"\n\
         data_dir = \"{directory}/data\"\n\
         db_engine = \"sqlite\"\n\
         replication_factor = 1\n\
         rpc_bind_addr = \"{rpc}\"\n\
         rpc_public_addr = \"{rpc}\"\n\
         rpc_secret = \"{:064x}\"\n\
         [s3_api]\n\
         s3_region = \"garage\"\n\
         api_bind_addr = \"{api}\"\n\
         root_domain = \".garage.localhost\"\n",
        0x5ec2e7
    )
}
