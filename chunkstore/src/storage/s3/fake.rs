//! A service for tests: each request gets the next answer of a script, and is remembered.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

use super::S3Storage;
use crate::storage::{BucketUrl, S3Options};

/// One answer.
#[derive(Clone)]
pub(super) enum Answer {
    /// Status, headers, body.
    Says(u16, String, Vec<u8>),
    /// Announces this many bytes, sends these, and hangs up.
    BreaksOff(u16, String, u64, Vec<u8>),
    /// Takes the request and hangs up.
    HangsUp,
    /// Takes the request's head and says nothing more, ever.
    Stalls,
    /// Says that the object that was sent last is there, with this size.
    Marked(u64),
    /// Takes objects and hangs up; shows them, with this size.
    LosesAnswers(u64),
}

impl Answer {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self::Says(status, String::new(), Vec::new())
    }

    /// An answer with an ETag.
    pub fn stored() -> Self {
        Self::Says(200, "ETag: \"e\"\r\n".to_owned(), Vec::new())
    }

    /// A service's error.
    pub fn error(status: u16, code: &str) -> Self {
        let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
        Self::Says(status, "Content-Type: application/xml\r\n".to_owned(), text.into_bytes())
    }

    /// A page of a listing.
    pub fn page(keys: &[&str], next: Option<&str>) -> Self {
        let rows: String =
            keys.iter().map(|key| format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")).collect();
        let token =
            next.map(|next| format!("<NextContinuationToken>{next}</NextContinuationToken>")).unwrap_or_default();
        let text = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{}</IsTruncated>{rows}{token}</ListBucketResult>",
            next.is_some()
        );
        Self::Says(200, String::new(), text.into_bytes())
    }

    /// Bytes of an object, whole or a range `bytes …`.
    pub fn bytes(etag: &str, range: Option<&str>, bytes: &[u8]) -> Self {
        Self::Says(if range.is_some() { 206 } else { 200 }, headers(etag, range), bytes.to_vec())
    }

    /// The beginning of `announced` bytes of an object.
    pub fn some_bytes(etag: &str, range: Option<&str>, announced: u64, bytes: &[u8]) -> Self {
        Self::BreaksOff(if range.is_some() { 206 } else { 200 }, headers(etag, range), announced, bytes.to_vec())
    }
}

fn headers(etag: &str, range: Option<&str>) -> String {
    let range = range.map(|range| format!("Content-Range: {range}\r\n")).unwrap_or_default();
    format!("ETag: \"{etag}\"\r\n{range}")
}

/// The service.
pub(super) struct Fake {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Answers in this order; the last answer is repeated.
    pub fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, mut script) = (requests.clone(), VecDeque::from_iter(script));
        std::thread::spawn(move || {
            let mut stalled = Vec::new();
            for connection in listener.incoming() {
                let connection = connection.unwrap();
                let answer = if script.len() > 1 { script.pop_front() } else { script.front().cloned() };
                stalled.extend(serve(connection, answer.unwrap(), &seen));
            }
        });
        Self { address, requests }
    }

    /// A storage that talks to it, with prefix `p`.
    pub fn storage(&self) -> S3Storage {
        self.storage_with(|_| ())
    }

    /// The same, but it gives up soon.
    pub fn impatient_storage(&self) -> S3Storage {
        self.storage_with(|options| (options.request_timeout, options.total_timeout) = (Some(1), Some(3)))
    }

    /// The same with other options.
    pub fn storage_with(&self, change: impl FnOnce(&mut S3Options)) -> S3Storage {
        let url = BucketUrl { bucket: "bucket".to_owned(), prefix: "p".to_owned() };
        let mut options = S3Options {
            endpoint: Some(self.address.clone()),
            request_timeout: Some(5),
            total_timeout: Some(60),
            ..S3Options::default()
        };
        change(&mut options);
        S3Storage::open(&url, &options).unwrap()
    }

    /// The heads of all requests so far: the first line and the headers, lower-case names.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    /// The methods of all requests so far.
    pub fn methods(&self) -> Vec<String> {
        self.requests().iter().map(|head| head.split(' ').next().unwrap_or_default().to_owned()).collect()
    }
}

/// Serves one request on one connection; gives the connection back if it is to stay open.
fn serve(connection: TcpStream, answer: Answer, seen: &Mutex<Vec<String>>) -> Option<TcpStream> {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        let start = head.len();
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
        if let Some(value) = head[start..].strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
    }
    let mark = seen.lock().iter().rev().find_map(|head: &String| mark_of(head)).or_else(|| mark_of(&head));
    seen.lock().push(head);
    if matches!(answer, Answer::Stalls) {
        return Some(connection);
    }
    std::io::copy(&mut reader.take(length), &mut std::io::sink()).unwrap();
    let shows = seen.lock().last().is_some_and(|head| head.starts_with("HEAD "));
    let (status, headers, announced, body) = match answer {
        Answer::Says(status, headers, body) => (status, headers, body.len() as u64, body),
        Answer::BreaksOff(status, headers, announced, body) => (status, headers, announced, body),
        Answer::LosesAnswers(_) if !shows => {
            connection.shutdown(Shutdown::Both).unwrap();
            return None;
        }
        Answer::Marked(size) | Answer::LosesAnswers(size) => {
            let mark = mark.unwrap_or_default();
            (200, format!("ETag: \"e\"\r\n{mark}"), size, Vec::new())
        }
        Answer::HangsUp | Answer::Stalls => {
            connection.shutdown(Shutdown::Both).unwrap();
            return None;
        }
    };
    let head = format!("HTTP/1.1 {status} x\r\n{headers}Content-Length: {announced}\r\nConnection: close\r\n\r\n");
    // The client may have hung up.
    let _ = (&connection).write_all(&[head.as_bytes(), &body].concat());
    let _ = connection.shutdown(Shutdown::Write);
    None
}

/// The metadata of an object that was sent.
fn mark_of(head: &str) -> Option<String> {
    let metadata: String =
        head.lines().filter(|line| line.starts_with("x-amz-meta-")).map(|l| format!("{l}\r\n")).collect();
    Some(metadata).filter(|metadata| !metadata.is_empty())
}
