//! A plain S3 client to prepare and inspect buckets with: one attempt per call, no retries, no opinions.

use std::fmt;
use std::future::Future;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use tokio::runtime::Runtime;

use super::server::{Credentials, S3Server};

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The client; its calls block.
#[derive(Debug)]
pub struct Client {
    sdk: aws_sdk_s3::Client,
    runtime: Runtime,
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Refusal {
    /// The HTTP status, when there was an answer.
    pub status: Option<u16>,
    /// The S3 error code, `NoSuchKey` and the like, when the answer had one.
    pub code: Option<String>,
    /// Everything the SDK has to say.
    pub text: String,
}

/// What is known about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes.
    pub length: u64,
    /// Its ETag, with quotes.
    pub etag: String,
}

impl Client {
    /// A client of the server at `url`, which answers with plain HTTP, or HTTPS by `ca`.
    pub fn new(url: &str, region: &str, credentials: &Credentials, ca: Option<&Path>) -> Self {
        let builder = aws_smithy_http_client::Builder::new();
        let http = match ca {
            None => builder.build_http(),
            Some(ca) => {
                let pem = std::fs::read(ca).unwrap_or_else(|e| panic!("unable to read {}: {e}", ca.display()));
                let trusted = TrustStore::empty().with_pem_certificate(pem);
                let context = TlsContext::builder().with_trust_store(trusted).build().expect("a trust store is enough");
                builder
                    .tls_provider(Provider::Rustls(CryptoMode::Ring))
                    .tls_context(context)
                    .build_with_resolver(Loopback)
            }
        };
        let Credentials { access_key, secret_key } = credentials;
        let config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .http_client(http)
            .endpoint_url(url)
            .region(Region::new(region.to_owned()))
            .force_path_style(true)
            .credentials_provider(aws_sdk_s3::config::Credentials::new(access_key, secret_key, None, None, "test"))
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(LIMIT).build());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread for a client can be started");
        Self { sdk: aws_sdk_s3::Client::from_conf(config.build()), runtime }
    }

    /// The SDK's client, for calls that have no shorter form here; give the request's future to [`Client::wait`].
    pub const fn sdk(&self) -> &aws_sdk_s3::Client {
        &self.sdk
    }

    /// Waits for anything, on the threads of this client.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Gives up after `limit`, each call.
    #[must_use]
    pub fn patience(mut self, limit: Duration) -> Self {
        let timeouts = TimeoutConfig::builder().operation_timeout(limit).build();
        let config = self.sdk.config().to_builder().timeout_config(timeouts);
        self.sdk = aws_sdk_s3::Client::from_conf(config.build());
        self
    }

    /// Puts the bucket into the host's name, below `s3.localhost`; for servers with TLS, whatever the names resolve to.
    #[must_use]
    pub fn virtual_hosts(mut self, server: &S3Server) -> Self {
        let url = format!("https://s3.localhost:{}", server.address().port());
        let config = self.sdk.config().to_builder().force_path_style(false).endpoint_url(url);
        self.sdk = aws_sdk_s3::Client::from_conf(config.build());
        self
    }

    /// Waits for a request.
    pub fn wait<T, E>(&self, request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>) -> Result<T, Refusal>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.block_on(request).map_err(Refusal::from)
    }

    /// Creates a bucket.
    pub fn create_bucket(&self, bucket: &str) -> Result<(), Refusal> {
        self.wait(self.sdk.create_bucket().bucket(bucket).send()).map(drop)
    }

    /// Writes an object.
    pub fn put(&self, bucket: &str, key: &str, content: impl Into<Vec<u8>>) -> Result<(), Refusal> {
        let body = content.into().into();
        self.wait(self.sdk.put_object().bucket(bucket).key(key).body(body).send()).map(drop)
    }

    /// Writes an object with `If-None-Match: *`.
    pub fn put_if_absent(&self, bucket: &str, key: &str, content: impl Into<Vec<u8>>) -> Result<(), Refusal> {
        let body = content.into().into();
        self.wait(self.sdk.put_object().bucket(bucket).key(key).if_none_match("*").body(body).send()).map(drop)
    }

    /// Reads an object.
    pub fn get(&self, bucket: &str, key: &str) -> Result<Vec<u8>, Refusal> {
        self.read(self.sdk.get_object().bucket(bucket).key(key))
    }

    /// Reads `length` bytes from `offset` of an object.
    pub fn get_range(&self, bucket: &str, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, Refusal> {
        let range = format!("bytes={offset}-{}", offset + length - 1);
        self.read(self.sdk.get_object().bucket(bucket).key(key).range(range))
    }

    fn read(
        &self,
        request: aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder,
    ) -> Result<Vec<u8>, Refusal> {
        let answer = self.wait(request.send())?;
        let body = self.block_on(answer.body.collect());
        body.map(|body| body.to_vec()).map_err(|e| Refusal {
            status: None,
            code: None,
            text: DisplayErrorContext(e).to_string(),
        })
    }

    /// Asks about an object.
    pub fn head(&self, bucket: &str, key: &str) -> Result<Head, Refusal> {
        let answer = self.wait(self.sdk.head_object().bucket(bucket).key(key).send())?;
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default();
        Ok(Head { length, etag: answer.e_tag.unwrap_or_default() })
    }

    /// All keys that begin with `prefix`, sorted, in however many pages they come.
    pub fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<String>, Refusal> {
        let mut keys = Vec::new();
        let mut token = None;
        loop {
            let request = self.sdk.list_objects_v2().bucket(bucket).prefix(prefix).set_continuation_token(token);
            let page = self.wait(request.send())?;
            keys.extend(page.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
            token = page.next_continuation_token;
            if page.is_truncated != Some(true) || token.is_none() {
                keys.sort();
                return Ok(keys);
            }
        }
    }

    /// Removes an object.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), Refusal> {
        self.wait(self.sdk.delete_object().bucket(bucket).key(key).send()).map(drop)
    }
}

/// Every name is this machine's: `bucket.s3.localhost` is known to few resolvers.
#[derive(Debug, Clone)]
struct Loopback;

impl ResolveDns for Loopback {
    fn resolve_dns<'a>(&'a self, _name: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(Ok(vec![Ipv4Addr::LOCALHOST.into()]))
    }
}

impl Refusal {
    /// Whether it is this S3 error.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }
}

impl<E: ProvideErrorMetadata + std::error::Error + 'static> From<SdkError<E, HttpResponse>> for Refusal {
    fn from(error: SdkError<E, HttpResponse>) -> Self {
        Self {
            status: error.raw_response().map(|response| response.status().as_u16()),
            code: error.code().map(str::to_owned),
            text: DisplayErrorContext(error).to_string(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:?}, code {:?}: {}", self.status, self.code, self.text)
    }
}
