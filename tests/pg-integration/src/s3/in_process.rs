//! s3s-fs within the test's process: an S3 server whose rules a test can make.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::auth::{SecretKey, SimpleAuth};
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpStream;

use super::conditional::Conditional;
use super::gate::{Gate, Mode};
use super::locks::{Locks, Retention};
use super::rules::{AnyName, Attempt, Hosts, Judge, Rules};
use super::server::Credentials;
use super::store::Store;
use super::tls::Tls;

/// How an in-process server behaves. By default as AWS does, for one user who may do everything, over plain HTTP.
#[derive(Default)]
pub struct S3sOptions {
    conditional: Conditional,
    policy: Option<Arc<Judge>>,
    users: Vec<Credentials>,
    region: Option<&'static str>,
    https: bool,
}

impl S3sOptions {
    /// What it does with `If-None-Match` and `If-Match` of writes.
    #[must_use]
    pub const fn conditional(mut self, conditional: Conditional) -> Self {
        self.conditional = conditional;
        self
    }

    /// Who may do what: refused with `AccessDenied` where `policy` says no.
    #[must_use]
    pub fn policy(mut self, policy: impl Fn(&Attempt) -> bool + Send + Sync + 'static) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// One more user.
    #[must_use]
    pub fn user(mut self, credentials: Credentials) -> Self {
        self.users.push(credentials);
        self
    }

    /// The region for which requests must be signed; `us-east-1` unless said otherwise.
    #[must_use]
    pub const fn region(mut self, region: &'static str) -> Self {
        self.region = Some(region);
        self
    }

    /// HTTPS, with a certificate from an authority of its own: [`super::S3Server::ca`].
    #[must_use]
    pub const fn https(mut self) -> Self {
        self.https = true;
        self
    }

    pub(super) fn expected_region(&self) -> &'static str {
        self.region.unwrap_or("us-east-1")
    }
}

/// The server.
pub(super) struct InProcess {
    gate: Gate,
    ca: Option<PathBuf>,
    locks: Arc<Locks>,
}

impl InProcess {
    /// Serves the directories in `directory/buckets`.
    pub(super) fn start(directory: &Path, credentials: &Credentials, options: S3sOptions) -> Self {
        let root = directory.join("buckets");
        let locks = Arc::default();
        let service = service(Store::new(&root, options.conditional, &locks), &root, credentials, &options);
        let tls = options.https.then(|| Tls::create(directory));
        let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
        let gate = Gate::open(move |stream| {
            let (service, acceptor) = (service.clone(), acceptor.clone());
            // Clients that go away, or do not believe the certificate, are their own business.
            async move {
                match acceptor {
                    None => converse(service, stream).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            converse_tls(service, stream).await;
                        }
                    }
                }
            }
        });
        Self { gate, ca: tls.map(|tls| tls.ca), locks }
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.gate.address()
    }

    pub(super) fn retention(&self, bucket: &str, key: &str) -> Option<Retention> {
        self.locks.of(bucket, key)
    }

    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    pub(super) fn stop(&self) {
        self.gate.set(Mode::Shut);
    }

    pub(super) fn resume(&self) {
        self.gate.set(Mode::Open);
    }
}

async fn converse(service: S3Service, stream: TcpStream) {
    let _ = auto::Builder::new(TokioExecutor::new()).http1_only().serve_connection(TokioIo::new(stream), service).await;
}

async fn converse_tls(service: S3Service, stream: tokio_rustls::server::TlsStream<TcpStream>) {
    let _ = auto::Builder::new(TokioExecutor::new()).http1_only().serve_connection(TokioIo::new(stream), service).await;
}

fn service(store: Store, root: &Path, credentials: &Credentials, options: &S3sOptions) -> S3Service {
    let mut builder = S3ServiceBuilder::new(store);
    let mut users = SimpleAuth::new();
    for user in options.users.iter().chain([credentials]) {
        users.register(user.access_key.clone(), SecretKey::from(user.secret_key.as_str()));
    }
    builder.set_auth(users);
    builder.set_access(Rules {
        root: root.to_owned(),
        region: options.expected_region(),
        policy: options.policy.clone(),
    });
    builder.set_host(Hosts);
    builder.set_validation(AnyName);
    builder.build()
}

impl fmt::Debug for S3sOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (policy, https) = (self.policy.is_some(), self.https);
        f.debug_struct("S3sOptions")
            .field("conditional", &self.conditional)
            .field("policy", &policy)
            .field("https", &https)
            .finish()
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gate.fmt(f)
    }
}
