//! What a request asks an S3 server for, from its method, path and query (path style).

use std::fmt;

use hyper::http::request::Parts;

/// An S3 operation, as AWS names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are AWS's")]
pub enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    ListObjects,
    ListMultipartUploads,
    GetObject,
    HeadObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    CreateMultipartUpload,
    UploadPart,
    ListParts,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    /// Anything else: retention, tags, versioning, policies …
    Other,
}

/// Sub-resources that make a request something else than it looks like.
const OTHERS: [&str; 14] = [
    "acl",
    "attributes",
    "cors",
    "encryption",
    "legal-hold",
    "lifecycle",
    "object-lock",
    "policy",
    "retention",
    "tagging",
    "torrent",
    "versioning",
    "versions",
    "website",
];

impl Operation {
    pub(super) fn of(request: &Parts) -> Self {
        let query = request.uri.query().unwrap_or_default();
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        if OTHERS.iter().any(|name| has(name)) {
            return Self::Other;
        }
        let (bucket, key) = split(request.uri.path());
        match (request.method.as_str(), bucket.is_empty(), key.is_empty()) {
            ("GET", true, _) => Self::ListBuckets,
            (method, false, true) => match method {
                "GET" if has("location") => Self::GetBucketLocation,
                "GET" if has("uploads") => Self::ListMultipartUploads,
                "GET" => Self::ListObjects,
                "HEAD" => Self::HeadBucket,
                "PUT" => Self::CreateBucket,
                "DELETE" => Self::DeleteBucket,
                "POST" if has("delete") => Self::DeleteObjects,
                _ => Self::Other,
            },
            (method, false, false) => match method {
                "GET" if has("uploadId") => Self::ListParts,
                "GET" => Self::GetObject,
                "HEAD" => Self::HeadObject,
                "PUT" if has("partNumber") => Self::UploadPart,
                "PUT" if request.headers.contains_key("x-amz-copy-source") => Self::CopyObject,
                "PUT" => Self::PutObject,
                "POST" if has("uploads") => Self::CreateMultipartUpload,
                "POST" if has("uploadId") => Self::CompleteMultipartUpload,
                "DELETE" if has("uploadId") => Self::AbortMultipartUpload,
                "DELETE" => Self::DeleteObject,
                _ => Self::Other,
            },
            _ => Self::Other,
        }
    }

    /// Whether it makes a key visible or changes what is behind it.
    pub const fn publishes(self) -> bool {
        matches!(self, Self::PutObject | Self::CopyObject | Self::CompleteMultipartUpload)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Bucket and key of a path, as they are encoded there.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""))
}

/// A piece of a URL without its percent-encoding.
pub(in crate::s3) fn decode(text: &str) -> String {
    let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = if *byte == b'%' { bytes.get(at + 1..at + 3).and_then(hex) } else { None };
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
