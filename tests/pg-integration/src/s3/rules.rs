//! Whom an in-process server lets do what, and which names it knows.

use std::path::PathBuf;
use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::HeaderName;
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::DeleteObjectsInput;
use s3s::host::{S3Host, VirtualHost};
use s3s::path::S3Path;
use s3s::validation::NameValidation;
use s3s::{S3Request, S3Result, s3_error};

/// What somebody wants to do; the subject of a policy.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who: the access key's id.
    pub access_key: String,
    /// What: `PutObject`, `ListObjectsV2` …, as AWS names its operations.
    pub operation: String,
    /// The bucket, if the request names one.
    pub bucket: Option<String>,
    /// The object, if the request names one. A `DeleteObjects` is judged as a `DeleteObject` of each.
    pub key: Option<String>,
    /// The `prefix` of a listing, decoded.
    pub prefix: Option<String>,
    /// The value of `If-None-Match`.
    pub if_none_match: Option<String>,
    /// Whether the object exists.
    pub exists: bool,
}

pub(super) type Judge = dyn Fn(&Attempt) -> bool + Send + Sync;

/// What is checked of every request, after its signature.
pub(super) struct Rules {
    pub(super) root: PathBuf,
    pub(super) region: &'static str,
    pub(super) policy: Option<Arc<Judge>>,
}

#[async_trait::async_trait]
impl S3Access for Rules {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(credentials) = cx.credentials() else { return Err(s3_error!(AccessDenied, "Signature is required")) };
        let access_key = credentials.access_key.clone();
        let region = self.region;
        let signed = header(cx.headers(), &hyper::header::AUTHORIZATION);
        if signed.is_some_and(|value| !value.contains(&format!("/{region}/s3/"))) {
            return Err(s3_error!(AuthorizationHeaderMalformed, "the region is wrong; expecting '{region}'"));
        }
        // Judged key by key, below.
        let whole = cx.s3_op().name() == "DeleteObjects";
        let Some(policy) = self.policy.as_ref().filter(|_| !whole) else { return Ok(()) };
        let (bucket, key) = match cx.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(bucket.to_string()), None),
            S3Path::Object { bucket, key } => (Some(bucket.to_string()), Some(key.to_string())),
        };
        let path = self.root.join(bucket.as_deref().unwrap_or_default()).join(key.as_deref().unwrap_or_default());
        let attempt = Attempt {
            access_key,
            operation: cx.s3_op().name().to_owned(),
            prefix: cx.uri().query().and_then(prefix),
            if_none_match: header(cx.headers(), &hyper::header::IF_NONE_MATCH),
            exists: key.is_some() && path.is_file(),
            bucket,
            key,
        };
        if policy(&attempt) { Ok(()) } else { Err(s3_error!(AccessDenied, "Access Denied")) }
    }

    async fn delete_objects(&self, req: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        let Some(policy) = &self.policy else { return Ok(()) };
        for object in &req.input.delete.objects {
            let attempt = Attempt {
                access_key: req.credentials.as_ref().map(|c| c.access_key.clone()).unwrap_or_default(),
                operation: "DeleteObject".to_owned(),
                exists: self.root.join(&req.input.bucket).join(&object.key).is_file(),
                bucket: Some(req.input.bucket.clone()),
                key: Some(object.key.clone()),
                prefix: None,
                if_none_match: None,
            };
            // AWS would remove the others; a client that asks for one too many is wrong either way.
            if !policy(&attempt) {
                return Err(s3_error!(AccessDenied, "Access Denied"));
            }
        }
        Ok(())
    }
}

fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn prefix(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("prefix="))?;
    Some(super::proxy::decode(value))
}

/// Path style, and virtual hosts below `s3.localhost`.
pub(super) struct Hosts;

impl S3Host for Hosts {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        let virtual_host = VirtualHost::new(host);
        Ok(match name.strip_suffix(".s3.localhost") {
            Some(bucket) => virtual_host.with_bucket(bucket),
            None => virtual_host,
        })
    }
}

/// Buckets with underscores too: several stores have them.
pub(super) struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        name.len() >= 3 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    }
}
