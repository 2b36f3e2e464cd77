//! One S3 server, of whatever kind: an address, credentials, buckets, a life that can be interrupted.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::client::Client;
use super::garage::Garage;
use super::gate::Port;
use super::in_process::{InProcess, S3sOptions};
use super::locks::Retention;
use super::process::Process;
use super::programs;
use crate::user::{Scratch, TestUser};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `rclone serve s3`: a bucket is a directory, an object is a file.
    Rclone,
    /// s3s-fs, in this process: likewise, and conditional writes are honoured.
    S3s,
    /// Garage, a distributed store, as one node.
    Garage,
}

impl Kind {
    /// Every server that this run tests against: Garage takes part with `WALKEEP_FULL=1`, and must be there then.
    pub fn all() -> Vec<Self> {
        let mut kinds = vec![Self::Rclone, Self::S3s];
        if crate::is_full_run() {
            kinds.push(Self::Garage);
        }
        kinds
    }
}

/// Who a client claims to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's id.
    pub access_key: String,
    /// The secret.
    pub secret_key: String,
}

impl Credentials {
    /// Any that a server may accept: at least 14 characters, which rclone wants.
    pub fn named(name: &str) -> Self {
        Self { access_key: format!("{name}-access-key"), secret_key: format!("{name}-secret-of-this-test") }
    }

    /// The variables by which the programs under test learn them, and nothing else of this machine.
    pub fn env(&self, region: &str) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
            ("AWS_REGION", region.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_CONFIG_FILE", "/dev/null".to_owned()),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null".to_owned()),
        ]
    }
}

/// A running server; ends when dropped.
#[derive(Debug)]
pub struct S3Server {
    kind: Kind,
    region: &'static str,
    credentials: Credentials,
    backend: Backend,
    /// The last field: files go when nobody uses them any more.
    scratch: Scratch,
}

#[derive(Debug)]
enum Backend {
    Rclone(Process),
    InProcess(InProcess),
    Garage(Garage),
}

impl S3Server {
    /// Starts one with ordinary options.
    #[track_caller]
    pub fn start(kind: Kind) -> Self {
        match kind {
            Kind::Rclone => Self::rclone(),
            Kind::S3s => Self::s3s(S3sOptions::default()),
            Kind::Garage => Self::garage(),
        }
    }

    #[track_caller]
    fn rclone() -> Self {
        let scratch = Scratch::new("rclone");
        scratch.subdirectory("buckets");
        let process = Process::new(Port::reserve(), scratch.path().join("rclone.log"));
        let credentials = Credentials::named("rclone");
        let backend = Backend::Rclone(process);
        let mut server = Self { kind: Kind::Rclone, region: "us-east-1", credentials, backend, scratch };
        server.resume();
        server
    }

    /// Starts the server within this process with options of its own.
    #[track_caller]
    pub fn s3s(options: S3sOptions) -> Self {
        let scratch = Scratch::new("s3s");
        scratch.subdirectory("buckets");
        let credentials = Credentials::named("s3s-fs");
        let region = options.expected_region();
        let backend = Backend::InProcess(InProcess::start(scratch.path(), &credentials, options));
        Self { kind: Kind::S3s, region, credentials, backend, scratch }
    }

    /// Starts Garage. Loud when it was not built: ask [`Kind::all`] whether this run has it.
    #[track_caller]
    pub fn garage() -> Self {
        let scratch = Scratch::new("garage");
        let (garage, credentials) = Garage::start(&scratch);
        Self { kind: Kind::Garage, region: "garage", credentials, backend: Backend::Garage(garage), scratch }
    }

    /// Which kind it is.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Its URL, without a bucket; path style.
    pub fn url(&self) -> String {
        let scheme = if self.ca().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address())
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        match &self.backend {
            Backend::Rclone(process) => process.address(),
            Backend::InProcess(server) => server.address(),
            Backend::Garage(garage) => garage.address(),
        }
    }

    /// The region that requests must be signed for.
    pub const fn region(&self) -> &'static str {
        self.region
    }

    /// Who may do everything.
    pub const fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    /// The variables of a program that is to use this server.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        self.credentials.env(self.region)
    }

    /// The certificate of the authority that signed its own, when it speaks TLS: a PEM file.
    pub fn ca(&self) -> Option<&Path> {
        if let Backend::InProcess(server) = &self.backend { server.ca() } else { None }
    }

    /// A client of this server with all rights.
    pub fn client(&self) -> Client {
        self.client_as(&self.url(), &self.credentials)
    }

    /// A client as somebody else, or through a proxy.
    pub fn client_as(&self, url: &str, credentials: &Credentials) -> Client {
        Client::new(url, self.region, credentials, self.ca())
    }

    /// Creates a bucket, whatever that takes.
    #[track_caller]
    pub fn create_bucket(&self, name: &str) {
        match &self.backend {
            Backend::Garage(garage) => garage.create_bucket(name, &self.credentials),
            _ => self.client().create_bucket(name).unwrap_or_else(|e| panic!("unable to create bucket {name}: {e}")),
        }
    }

    /// The directory whose files are the objects of `bucket`, where there is one.
    pub fn directory(&self, bucket: &str) -> Option<PathBuf> {
        (self.kind != Kind::Garage).then(|| self.scratch.path().join("buckets").join(bucket))
    }

    /// Until when an object is locked, where the in-process server was told so.
    pub fn retention(&self, bucket: &str, key: &str) -> Option<Retention> {
        if let Backend::InProcess(server) = &self.backend { server.retention(bucket, key) } else { None }
    }

    /// Ends it: connections are refused from now on. What was stored stays.
    pub fn stop(&mut self) {
        match &mut self.backend {
            Backend::Rclone(process) => process.kill(),
            Backend::InProcess(server) => server.stop(),
            Backend::Garage(garage) => garage.stop(),
        }
    }

    /// Starts it again after [`S3Server::stop`], on the same port with the same content.
    #[track_caller]
    pub fn resume(&mut self) {
        match &mut self.backend {
            Backend::Rclone(process) => {
                let buckets = self.scratch.path().join("buckets");
                process.start(rclone_command(process.address(), &self.credentials, &buckets));
            }
            Backend::InProcess(server) => server.resume(),
            Backend::Garage(garage) => garage.resume(),
        }
    }

    /// Garage itself, for what only it can do; panics when this is another server.
    pub fn as_garage(&self) -> &Garage {
        if let Backend::Garage(garage) = &self.backend { garage } else { panic!("this is {:?}", self.kind) }
    }
}

fn rclone_command(address: SocketAddr, credentials: &Credentials, buckets: &Path) -> std::process::Command {
    let mut command = TestUser::get().command(programs::rclone());
    let key = format!("{},{}", credentials.access_key, credentials.secret_key);
    // No configuration but this line. Files changed behind its back are seen after a moment; with no cache at all,
    // it reads directories again and again until one PUT takes minutes.
    command.args(["serve", "s3", "--config", "", "--dir-cache-time", "200ms", "--auth-key", &key]);
    command.args(["--addr", &address.to_string(), "--log-level", "INFO"]).arg(buckets);
    command
}
