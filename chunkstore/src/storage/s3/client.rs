//! The SDK's client for one bucket: region, endpoint, credentials, TLS, times. Building it makes no request.

use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, imds};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use super::counts::Counter;
use super::gate::Gate;
use super::settings::Settings;
use crate::error::{Error, Result};

/// Time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Tries of one request within seconds, against what passes at once; [`super::attempt`] is for what takes longer.
const QUICK_TRIES: u32 = 4;

/// How long no byte may move before a transfer counts as broken off.
const STALLED: Duration = Duration::from_secs(20);

/// A client and what it found out on the way.
pub(super) struct Built {
    pub client: Client,
    /// The service is not AWS.
    pub own_endpoint: bool,
    pub region: String,
}

/// Builds the client.
pub(super) async fn build(settings: &Settings, counter: Arc<Counter>, gate: Arc<Gate>) -> Result<Built> {
    let endpoint = settings.endpoint.clone().or_else(endpoint_of_environment);
    let http = http_client(settings, endpoint.as_deref())?;
    let sdk = sdk_config(settings, endpoint, &http).await;
    let own_endpoint = sdk.endpoint_url().is_some();
    // Services other than AWS refuse or store checksums that trail the body.
    let (request, response) = if own_endpoint {
        (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
    } else {
        (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
    };
    let region = sdk.region().map(ToString::to_string).unwrap_or_default();
    let partition = format!("{} {} {}", settings.url, sdk.endpoint_url().unwrap_or_default(), region);
    let config = aws_sdk_s3::config::Builder::from(&sdk)
        .force_path_style(settings.path_style(own_endpoint))
        .request_checksum_calculation(request)
        .response_checksum_validation(response)
        .retry_partition(RetryPartition::new(partition))
        .interceptor(Watch { counter, gate })
        .build();
    Ok(Built { client: Client::from_conf(config), own_endpoint, region })
}

/// The SDK reads this variable too, but does not say what it found.
fn endpoint_of_environment() -> Option<String> {
    let ignored = std::env::var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS").is_ok_and(|v| v.eq_ignore_ascii_case("true"));
    std::env::var("AWS_ENDPOINT_URL_S3").ok().filter(|url| !ignored && !url.is_empty())
}

async fn sdk_config(settings: &Settings, endpoint: Option<String>, http: &SharedHttpClient) -> SdkConfig {
    // Not the SDK's own chain: it would ask a machine outside AWS for the metadata of an instance.
    let region = RegionProviderChain::first_try(settings.region.clone().map(Region::new))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new("us-east-1"))
        .region()
        .await;
    let times = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(settings.request_timeout)
        .build();
    let provider = ProviderConfig::without_region().with_region(region.clone());
    let mut credentials = DefaultCredentialsChain::builder()
        .imds_client(instance_metadata(&provider))
        .configure(provider.with_http_client(http.clone()));
    credentials.set_region(region.clone());
    let mut loader = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http.clone())
        .region(region)
        .credentials_provider(credentials.build().await)
        .timeout_config(times)
        .retry_config(RetryConfig::standard().with_max_attempts(QUICK_TRIES))
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().grace_period(STALLED).build());
    #[cfg(test)]
    {
        loader =
            loader.credentials_provider(aws_credential_types::Credentials::new("key", "secret", None, None, "test"));
    }
    if let Some(endpoint) = endpoint {
        loader = loader.endpoint_url(endpoint);
    }
    if let Ok(name) = AppName::new("walkeep") {
        loader = loader.app_name(name);
    }
    loader.load().await
}

/// Elsewhere than in EC2 nobody answers: that must not take long, and no proxy must be asked.
fn instance_metadata(provider: &ProviderConfig) -> imds::Client {
    let direct = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let short = Duration::from_secs(1);
    imds::Client::builder()
        .configure(&provider.clone().with_http_client(direct))
        .connect_timeout(short)
        .read_timeout(short)
        .operation_attempt_timeout(short)
        .operation_timeout(Duration::from_secs(3))
        .max_attempts(2)
        .build()
}

fn http_client(settings: &Settings, endpoint: Option<&str>) -> Result<SharedHttpClient> {
    let mut trusted = TrustStore::default();
    if let Some((_, certificates)) = &settings.authorities {
        trusted.add_pem_certificate(certificates.clone());
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|e| Error::Invalid(format!("TLS cannot be set up: {e}")))?;
    let local = endpoint.is_some_and(is_local);
    Ok(Builder::new().build_with_connector_fn(move |times, _| {
        let proxy = if local { ProxyConfig::disabled() } else { ProxyConfig::from_env() };
        let mut builder = Connector::builder().proxy_config(proxy);
        builder.set_connector_settings(times.cloned());
        builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context.clone()).build()
    }))
}

/// Whether the endpoint is this machine, which no proxy can reach.
fn is_local(endpoint: &str) -> bool {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let host = authority.strip_prefix('[').and_then(|rest| rest.split(']').next());
    let host = host.unwrap_or_else(|| authority.split(':').next().unwrap_or_default());
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Sees each request that goes out and each answer that comes in.
#[derive(Debug)]
struct Watch {
    counter: Arc<Counter>,
    gate: Arc<Gate>,
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "walkeep"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.counter.add(bag.load::<Metadata>().map_or("unknown", Metadata::name));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.gate.answered(context.response().status().as_u16());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_for_this_machine() {
        for local in ["http://localhost:9000", "https://127.0.0.1", "http://[::1]:80/x"] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["https://s3.example.org", "https://localhost.example.org:1", "http://10.0.0.1:9000"] {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
