//! What a proxy does to requests, and to which.

use std::fmt;
use std::time::Duration;

use super::journal::Entry;
use super::operation::Operation;

/// An S3 error answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Error {
    /// The HTTP status.
    pub status: u16,
    /// The S3 code.
    pub code: &'static str,
    /// The text for people.
    pub message: &'static str,
}

/// What happens to a request or its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request's body is read, then this is the answer; the server hears nothing of it.
    Error(S3Error),
    /// A page for people, with this status.
    Html(u16),
    /// The connection is reset before the request's body is read.
    ResetBeforeBody,
    /// The connection is reset in the midst of the request's body, after so many bytes of it reached the server.
    ResetWithinBody(u64),
    /// The server has done what was asked; instead of its answer, the connection is reset.
    ResetAfterCommit,
    /// The server has done what was asked; its answer never comes.
    HangAfterCommit,
    /// The request's body is read; nothing else ever happens.
    Hang,
    /// The answer's body ends after so many bytes, whatever length was promised.
    Truncate(u64),
    /// The answer's body comes at so many bytes per second.
    SlowAnswer(u64),
    /// The request's body is taken at so many bytes per second.
    SlowRequest(u64),
    /// One bit of the answer's body, at this offset, is another.
    FlipBit(u64),
    /// The answer's ETag is that of something else.
    WrongETag,
    /// A LIST lacks the keys that were published through this proxy since the rule was planned.
    StaleList,
    /// A LIST is answered as the same LIST was before, if this proxy has seen it.
    RepeatedList,
    /// The request waits before it is passed on.
    Delay(Duration),
}

impl Fault {
    /// Something broke.
    pub const INTERNAL_ERROR: Self =
        Self::error(500, "InternalError", "We encountered an internal error. Please try again.");
    /// Too many requests.
    pub const SLOW_DOWN: Self = Self::error(503, "SlowDown", "Please reduce your request rate.");
    /// Temporary credentials whose time is over.
    pub const EXPIRED_TOKEN: Self = Self::error(403, "ExpiredToken", "The provided token has expired.");
    /// Clocks disagree.
    pub const CLOCK_SKEW: Self = Self::error(
        403,
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large.",
    );
    /// No right to do this.
    pub const ACCESS_DENIED: Self = Self::error(403, "AccessDenied", "Access Denied");
    /// The bucket is full.
    pub const QUOTA_EXCEEDED: Self = Self::error(403, "QuotaExceeded", "The quota of the bucket is exhausted.");
    /// The bucket is elsewhere.
    pub const WRONG_REGION: Self = Self::error(
        400,
        "AuthorizationHeaderMalformed",
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
    );

    /// Any S3 error.
    pub const fn error(status: u16, code: &'static str, message: &'static str) -> Self {
        Self::Error(S3Error { status, code, message })
    }
}

type Predicate = dyn Fn(&Entry) -> bool + Send;

/// A fault, and the requests that it happens to: by default all of them.
pub struct Rule {
    pub(super) fault: Fault,
    operations: Vec<Operation>,
    predicates: Vec<Box<Predicate>>,
    after: u64,
    times: u64,
    every: u64,
    seen: u64,
}

impl Rule {
    /// The fault happens to every request.
    pub fn new(fault: Fault) -> Self {
        Self { fault, operations: Vec::new(), predicates: Vec::new(), after: 0, times: u64::MAX, every: 1, seen: 0 }
    }

    /// Whoever would change anything is refused.
    pub fn read_only() -> Self {
        Self::new(Fault::ACCESS_DENIED).matching(|entry| matches!(entry.method.as_str(), "PUT" | "POST" | "DELETE"))
    }

    /// The bucket takes nothing any more.
    pub fn full() -> Self {
        Self::new(Fault::QUOTA_EXCEEDED).matching(|entry| entry.method == "PUT")
    }

    /// Only these operations.
    #[must_use]
    pub fn on(mut self, operations: &[Operation]) -> Self {
        self.operations.extend(operations);
        self
    }

    /// Only keys that contain `part`.
    #[must_use]
    pub fn key(self, part: &str) -> Self {
        let part = part.to_owned();
        self.matching(move |entry| entry.key.contains(&part))
    }

    /// Only where `predicate` holds; the entry has no answer yet.
    #[must_use]
    pub fn matching(mut self, predicate: impl Fn(&Entry) -> bool + Send + 'static) -> Self {
        self.predicates.push(Box::new(predicate));
        self
    }

    /// Spares the first `count` that match.
    #[must_use]
    pub const fn after(mut self, count: u64) -> Self {
        self.after = count;
        self
    }

    /// Happens `count` times, then never again.
    #[must_use]
    pub const fn times(mut self, count: u64) -> Self {
        self.times = count;
        self
    }

    /// Happens to each `nth` of those that match, beginning with the first after the spared ones.
    #[must_use]
    pub const fn every(mut self, nth: u64) -> Self {
        self.every = nth;
        self
    }

    /// Whether it happens to this request, given how often it did before.
    pub(super) fn takes(&mut self, entry: &Entry, hits: u64) -> bool {
        let listed = self.operations.is_empty() || self.operations.contains(&entry.operation);
        if !listed || !self.predicates.iter().all(|holds| holds(entry)) {
            return false;
        }
        self.seen += 1;
        self.seen > self.after && hits < self.times && (self.seen - self.after - 1).is_multiple_of(self.every)
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} on {:?}, after {}, {} times", self.fault, self.operations, self.after, self.times)
    }
}
