//! What went through a proxy: every request, and sums.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::http::request::Parts;

use super::fault::Fault;
use super::operation::{Operation, decode, split};

/// One request, and what became of it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// `GET`, `PUT` …
    pub method: String,
    /// What it asks for.
    pub operation: Operation,
    /// The bucket, or nothing.
    pub bucket: String,
    /// The key, decoded, or nothing.
    pub key: String,
    /// The path, as it was sent.
    pub path: String,
    /// The query, as it was sent.
    pub query: String,
    /// Its headers, without the signature, in the order in which they came.
    pub headers: Vec<(String, String)>,
    /// The status of the answer, once there is one; a connection that was cut has none.
    pub status: Option<u16>,
    /// What the proxy did to it.
    pub fault: Option<Fault>,
    pub(super) uploaded: Arc<AtomicU64>,
    pub(super) downloaded: Arc<AtomicU64>,
}

impl Entry {
    pub(super) fn of(request: &Parts) -> Self {
        let (bucket, key) = split(request.uri.path());
        let headers = request.headers.iter().filter(|(name, _)| *name != hyper::header::AUTHORIZATION);
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Self {
            method: request.method.to_string(),
            operation: Operation::of(request),
            bucket: decode(bucket),
            key: decode(key),
            path: request.uri.path().to_owned(),
            query: request.uri.query().unwrap_or_default().to_owned(),
            headers: headers.map(|(name, value)| (name.to_string(), text(value))).collect(),
            status: None,
            fault: None,
            uploaded: Arc::default(),
            downloaded: Arc::default(),
        }
    }

    /// The value of a header of the request, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// How many bytes of its body reached the server.
    pub fn uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }

    /// How many bytes of the answer's body went to the client.
    pub fn downloaded(&self) -> u64 {
        self.downloaded.load(Ordering::Relaxed)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.operation, self.path)?;
        match self.status {
            Some(status) => write!(f, " → {status}")?,
            None => write!(f, " → no answer")?,
        }
        self.fault.map_or(Ok(()), |fault| write!(f, " ({fault:?})"))
    }
}

/// Sums over requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    requests: BTreeMap<Operation, u64>,
    /// Bytes of bodies that reached the server.
    pub uploaded: u64,
    /// Bytes of bodies that went to the client.
    pub downloaded: u64,
}

impl Counts {
    /// Sums these.
    pub fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut counts = Self::default();
        for entry in entries {
            *counts.requests.entry(entry.operation).or_default() += 1;
            counts.uploaded += entry.uploaded();
            counts.downloaded += entry.downloaded();
        }
        counts
    }

    /// How many requests were for `operation`, answered or not.
    pub fn count(&self, operation: Operation) -> u64 {
        self.requests.get(&operation).copied().unwrap_or_default()
    }

    /// How many requests there were.
    pub fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (operation, count) in &self.requests {
            write!(f, "{count} {operation}, ")?;
        }
        write!(f, "{} bytes up, {} bytes down", self.uploaded, self.downloaded)
    }
}
