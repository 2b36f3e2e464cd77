//! How far reading an object got, and which answers may go on from there.

use std::ops::Range;

use aws_sdk_s3::operation::get_object::GetObjectOutput;

use super::failure::Failure;
use super::put::{is_page, page};

/// Most memory that is set aside before the bytes arrive.
const RESERVED: u64 = 64 << 20;

/// What is to be read.
enum Wanted {
    /// These bytes; the object must have them.
    Range(Range<u64>),
    /// All of it, if it has no more bytes than that.
    Whole(u64),
}

/// Why reading ended without bytes.
pub(super) enum Refused {
    /// The object is not what the caller expects.
    Damaged(String),
    Failed(Failure),
}

/// How far reading got.
pub(super) struct Reading {
    wanted: Wanted,
    bytes: Vec<u8>,
    /// The object's version, once an answer came.
    etag: Option<String>,
    /// Bytes to be read in all, once that is known.
    length: Option<u64>,
}

impl Reading {
    /// Nothing read yet of these bytes.
    pub fn of_range(range: Range<u64>) -> Self {
        let length = Some(range.end - range.start);
        Self { wanted: Wanted::Range(range), bytes: Vec::new(), etag: None, length }
    }

    /// Nothing read yet of an object of at most `limit` bytes.
    pub fn of_whole(limit: u64) -> Self {
        Self { wanted: Wanted::Whole(limit), bytes: Vec::new(), etag: None, length: None }
    }

    /// Bytes to be read in all, if that is known already.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Bytes read so far.
    pub fn read(&self) -> usize {
        self.bytes.len()
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The version that a further answer must be of.
    pub fn version(&self) -> Option<String> {
        self.etag.clone().filter(|_| !self.bytes.is_empty())
    }

    /// The `Range` header for what is missing.
    pub fn range(&self) -> Option<String> {
        let read = self.bytes.len() as u64;
        match &self.wanted {
            Wanted::Range(range) => Some(format!("bytes={}-{}", range.start + read, range.end - 1)),
            Wanted::Whole(_) if read == 0 => None,
            Wanted::Whole(_) => Some(format!("bytes={read}-")),
        }
    }

    pub fn is_complete(&self) -> bool {
        self.length.is_none_or(|length| self.bytes.len() as u64 == length)
    }

    pub fn start_again(&mut self) {
        self.bytes.clear();
        self.etag = None;
    }

    /// Whoever reads all of a lease, which may be rewritten meanwhile, gets the new one; nothing else ever changes.
    pub fn changed(&mut self) -> Refused {
        let whole = matches!(self.wanted, Wanted::Whole(_));
        self.start_again();
        if whole {
            self.length = None;
            return Refused::Failed(Failure::own("Changed", "the object changed while it was read", true));
        }
        Refused::Damaged("it changed while it was read".to_owned())
    }

    pub fn too_short(&self, size: Option<u64>) -> String {
        match &self.wanted {
            Wanted::Range(range) => beyond(range, size),
            Wanted::Whole(_) => "it became shorter while it was read".to_owned(),
        }
    }

    /// Checks that the answer goes on where the last one stopped, in the same object.
    pub fn accept(&mut self, answer: &GetObjectOutput) -> Result<(), Refused> {
        if is_page(answer.e_tag(), answer.content_type()) {
            return Err(Refused::Failed(page()));
        }
        let (read, etag) = (self.bytes.len() as u64, answer.e_tag().map(str::to_owned));
        if read > 0 && etag != self.etag {
            return Err(self.changed());
        }
        self.etag = etag;
        let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
        match (&self.wanted, answer.content_range().map(content_range)) {
            (Wanted::Whole(limit), None) if read == 0 => {
                if let Some(length) = length.filter(|length| length > limit) {
                    return Err(Refused::Damaged(format!("{length} bytes long, expected at most {limit}")));
                }
                self.length = length;
            }
            (Wanted::Range(range), Some(Some((start, size)))) if start == range.start + read => {
                if size.is_some_and(|size| size < range.end) {
                    return Err(Refused::Damaged(beyond(range, size)));
                }
            }
            (Wanted::Whole(_), Some(Some((start, _)))) if start == read => {}
            // A service may answer with the whole object where that is what the range comes to.
            (Wanted::Range(range), None) if range.start + read == 0 && length <= Some(range.end) => {
                if length < Some(range.end) {
                    return Err(Refused::Damaged(beyond(range, length)));
                }
            }
            _ => {
                let problem = "the answer has other bytes than were asked for: the service does not know ranges";
                return Err(Refused::Failed(Failure::own("NotS3", problem, false)));
            }
        }
        let reserved = self.length.unwrap_or_default().min(RESERVED).saturating_sub(read);
        self.bytes.reserve_exact(usize::try_from(reserved).unwrap_or_default());
        Ok(())
    }

    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let length = (self.bytes.len() + bytes.len()) as u64;
        if let Wanted::Whole(limit) = self.wanted
            && length > limit
        {
            return Err(Refused::Damaged(format!("longer than {limit} bytes")));
        }
        if self.length.is_some_and(|expected| length > expected) {
            return Err(Refused::Failed(Failure::own("NotS3", "the answer has more bytes than it says", false)));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

pub(super) fn beyond(range: &Range<u64>, size: Option<u64>) -> String {
    let size = size.map_or_else(|| "shorter".to_owned(), |size| format!("{size} bytes long"));
    format!("bytes {}..{} wanted, but it is {size}", range.start, range.end)
}

/// First byte and whole size of `bytes 5-9/20`; the size may be `*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.parse().ok()?, if size == "*" { None } else { Some(size.parse().ok()?) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(wanted: Wanted, read: usize) -> Reading {
        let length = match &wanted {
            Wanted::Range(range) => Some(range.end - range.start),
            Wanted::Whole(_) => None,
        };
        Reading { wanted, bytes: vec![0; read], etag: Some("a".to_owned()), length }
    }

    fn answer(length: i64, range: Option<&str>, etag: &str) -> GetObjectOutput {
        let answer = GetObjectOutput::builder().content_length(length).e_tag(etag);
        answer.set_content_range(range.map(str::to_owned)).build()
    }

    #[test]
    fn ranges_ask_for_what_is_missing() {
        assert_eq!(reading(Wanted::Range(5..10), 0).range().as_deref(), Some("bytes=5-9"));
        assert_eq!(reading(Wanted::Range(5..10), 3).range().as_deref(), Some("bytes=8-9"));
        assert_eq!(reading(Wanted::Whole(9), 0).range(), None);
        assert_eq!(reading(Wanted::Whole(9), 3).range().as_deref(), Some("bytes=3-"));
        assert_eq!(content_range("bytes 5-9/20"), Some((5, Some(20))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        assert_eq!((content_range("bytes */20"), content_range("5-9/20")), (None, None));
    }

    #[test]
    fn only_the_rest_of_the_same_object_is_accepted() {
        let accepted = |wanted, read, answer: &GetObjectOutput| reading(wanted, read).accept(answer);
        let range = || Wanted::Range(5..10);
        assert!(accepted(range(), 0, &answer(5, Some("bytes 5-9/20"), "b")).is_ok());
        assert!(accepted(range(), 2, &answer(3, Some("bytes 7-9/20"), "a")).is_ok());
        assert!(matches!(accepted(range(), 2, &answer(3, Some("bytes 7-9/20"), "b")), Err(Refused::Damaged(_))));
        assert!(matches!(accepted(range(), 0, &answer(3, Some("bytes 5-7/8"), "a")), Err(Refused::Damaged(_))));
        assert!(matches!(accepted(range(), 2, &answer(5, Some("bytes 5-9/20"), "a")), Err(Refused::Failed(_))));
        assert!(matches!(accepted(range(), 0, &answer(20, None, "a")), Err(Refused::Failed(_))));
        assert!(accepted(Wanted::Range(0..10), 0, &answer(10, None, "a")).is_ok());
        assert!(matches!(accepted(Wanted::Range(0..10), 0, &answer(9, None, "a")), Err(Refused::Damaged(_))));
        assert!(accepted(Wanted::Whole(10), 0, &answer(10, None, "b")).is_ok());
        assert!(matches!(accepted(Wanted::Whole(9), 0, &answer(10, None, "a")), Err(Refused::Damaged(_))));
        let changed = accepted(Wanted::Whole(9), 3, &answer(2, Some("bytes 3-4/5"), "b"));
        assert!(matches!(changed, Err(Refused::Failed(Failure { passing: true, .. }))));
    }

    #[test]
    fn no_more_bytes_are_taken_than_allowed() {
        assert!(matches!(reading(Wanted::Whole(5), 3).append(&[0; 3]), Err(Refused::Damaged(_))));
        assert!(matches!(reading(Wanted::Range(0..5), 3).append(&[0; 3]), Err(Refused::Failed(_))));
        assert!(reading(Wanted::Range(0..5), 3).append(&[0; 2]).is_ok());
    }
}
