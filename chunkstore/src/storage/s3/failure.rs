//! What a request's failure means: whether to try again, which error it becomes, and what its reader should do.

use std::error::Error as StdError;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tokio_rustls::rustls;

use super::hints;
use crate::error::{Error, ErrorKind};

/// Longest piece of a service's words that is repeated.
const LONGEST_TEXT: usize = 300;

/// A request that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// HTTP status, when an answer came.
    pub status: Option<u16>,
    /// The service's code, else ours for what went wrong on the way; empty when there is none.
    pub code: String,
    /// The whole story.
    pub problem: String,
    /// Whether it may go by: worth another try, and a change that was asked for may have happened.
    pub passing: bool,
}

impl Failure {
    /// A failure that the service did not report.
    pub fn own(code: &str, problem: impl Into<String>, passing: bool) -> Self {
        Self { status: None, code: code.to_owned(), problem: problem.into(), passing }
    }

    /// Reads the SDK's error.
    pub fn new<E>(error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match &error {
            SdkError::ServiceError(_) | SdkError::ResponseError(_) => Self::of_answer(&error),
            SdkError::TimeoutError(_) => Self::own("Timeout", "no answer in time", true),
            _ => Self::of_way(&error),
        }
    }

    fn of_answer<E: ProvideErrorMetadata + StdError + 'static>(error: &SdkError<E, HttpResponse>) -> Self {
        let answer = error.raw_response();
        let status = answer.map(|answer| answer.status().as_u16());
        let text = answer.and_then(|answer| answer.body().bytes()).map(String::from_utf8_lossy).unwrap_or_default();
        let code = error.code().unwrap_or_default().to_owned();
        let server_failed = status.is_some_and(|status| status >= 500 && ![501, 507].contains(&status));
        let number = status.map_or_else(|| "?".to_owned(), |status| status.to_string());
        if code.is_empty() && !text.trim().is_empty() && !text.contains("<Error") {
            let problem = format!("answer {number} is none of S3: '{}'", shorten(text.trim(), 80));
            // What stands before a service that fails speaks for itself.
            let code = if server_failed { "" } else { "NotS3" };
            return Self { status, code: code.to_owned(), problem, passing: server_failed };
        }
        let cut_off = status.is_none_or(|status| status < 300) && matches!(error, SdkError::ResponseError(_));
        if cut_off {
            return Self { status, code, problem: format!("the answer was cut off ({})", chain(error)), passing: true };
        }
        let mut problem = format!("answer {number}");
        if code.is_empty() && matches!(error, SdkError::ResponseError(_)) {
            problem.push_str(&format!(" ({})", chain(error)));
        }
        for part in [code.as_str(), error.message().unwrap_or_default()] {
            if !part.is_empty() {
                problem.push_str(if part == code { " " } else { ": " });
                problem.push_str(&shorten(part, LONGEST_TEXT));
            }
        }
        let region = answer.and_then(|answer| answer.headers().get("x-amz-bucket-region"));
        problem.push_str(&details(&text, region));
        let crowded = status == Some(429) || (status == Some(409) && code.is_empty());
        let passing = server_failed || crowded || PASSING.contains(&code.as_str());
        let passing = passing && !is_full(status, &code);
        Self { status, code, problem, passing }
    }

    /// What went wrong before an answer came.
    fn of_way(error: &(dyn StdError + 'static)) -> Self {
        let text = chain(error);
        if find::<CredentialsError>(error).is_some() {
            return Self::own("NoCredentials", no_credentials(error), false);
        }
        let refused = find::<std::io::Error>(error).is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
        let code = if find::<rustls::Error>(error).is_some() {
            "Tls"
        } else if says(error, "dns error") {
            "Dns"
        } else if refused {
            "Refused"
        } else if says(error, "client error (Connect)") || says(error, "connect timeout") {
            "Connect"
        } else {
            return Self::own("", text, true);
        };
        Self::own(code, text, false)
    }

    /// There is no such object.
    pub fn is_missing(&self) -> bool {
        self.status == Some(404) && ["NoSuchKey", "NotFound", ""].contains(&self.code.as_str())
    }

    /// The service refused and gave no reason: answers to HEAD have no room for one.
    pub fn is_silent(&self) -> bool {
        self.code.is_empty() && self.status.is_some_and(|status| (300..500).contains(&status))
    }

    /// An object of that name is there already, or is another one than was asked for.
    pub fn is_precondition(&self) -> bool {
        self.status == Some(412)
    }

    /// The error to tell.
    pub fn into_error(self, operation: &'static str, object: String) -> Error {
        if self.is_missing() && operation != "list" {
            return Error::not_found(format_args!("'{object}'"));
        }
        let kind = if is_full(self.status, &self.code) { ErrorKind::Full } else { ErrorKind::Unreachable };
        let hint = hints::hint(self.status, &self.code, kind);
        Error::Bucket { operation, object, problem: self.problem, kind, hint }
    }
}

/// Codes of answers below 500 that go by.
const PASSING: [&str; 7] = [
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "OperationAborted",
    "ConditionalRequestConflict",
];

fn is_full(status: Option<u16>, code: &str) -> bool {
    status == Some(507) || ["QuotaExceeded", "StorageFull", "InsufficientStorage"].iter().any(|c| code.contains(c))
}

/// What the SDK does not hand over: the right region, and the two clocks that disagree.
fn details(text: &str, region: Option<&str>) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(value, _)| shorten(value, 80)).filter(|value| !value.is_empty())
    };
    let mut details = String::new();
    if let (Some(ours), Some(theirs)) = (element("RequestTime"), element("ServerTime")) {
        details.push_str(&format!(" (this machine's time {ours}, the service's {theirs})"));
    }
    if let Some(region) = element("Region").or_else(|| region.map(str::to_owned)) {
        details.push_str(&format!(" (the service says: region {region})"));
    } else if let Some(endpoint) = element("Endpoint") {
        details.push_str(&format!(" (the service says: endpoint {endpoint})"));
    }
    details
}

/// Nothing found is the usual case and needs none of the SDK's words; a source that failed does.
fn no_credentials(error: &(dyn StdError + 'static)) -> String {
    match find::<CredentialsError>(error) {
        Some(CredentialsError::CredentialsNotLoaded(_)) | None => "no credentials were found".to_owned(),
        Some(error) => format!("no credentials were found ({})", chain(error)),
    }
}

/// What the SDK says around an error's cause, and what nobody needs.
const EMPTY_WORDS: [&str; 6] = [
    "dispatch failure",
    "io error",
    "other",
    "unhandled error",
    "client error (Connect)",
    "client error (SendRequest)",
];

/// The error's words and those of its causes, each once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let words = error.to_string();
        if !EMPTY_WORDS.contains(&words.as_str()) && !text.contains(&words) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&words);
        }
        next = error.source();
    }
    shorten(&text, LONGEST_TEXT)
}

/// Whether the error or one of its causes has these words: the types that say the same are private.
fn says(error: &(dyn StdError + 'static), words: &str) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| error.to_string().contains(words))
}

/// The cause of this type. An I/O error hides its own from `source`.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

/// One line of printable characters.
fn shorten(text: &str, length: usize) -> String {
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = line.clone().take(length).collect();
    if line.count() > length {
        short.push('…');
    }
    short
}
