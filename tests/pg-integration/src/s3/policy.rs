//! IAM policy documents, evaluated as AWS does it: whether somebody with these documents could do that.
//!
//! Knows what `deploy/` uses. What it does not know it refuses to evaluate, so that no condition is overlooked.

use serde_json::Value;

use super::rules::Attempt;

/// Policies that apply together.
#[derive(Debug, Clone)]
pub struct Policy {
    statements: Vec<Value>,
    listing_tells_all: bool,
}

impl Policy {
    /// Parses documents, with `BUCKET` and `PREFIX` in them replaced; panics at what is no policy.
    #[track_caller]
    pub fn parse(documents: &[&str], bucket: &str, prefix: &str) -> Self {
        let mut statements = Vec::new();
        for text in documents {
            let text = text.replace("BUCKET", bucket).replace("PREFIX", prefix);
            let mut document: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("no policy: {e}\n{text}"));
            statements.extend(list(document["Statement"].take()));
        }
        assert!(!statements.is_empty(), "policies without a statement");
        Self { statements, listing_tells_all: false }
    }

    /// A missing object is reported as missing to whoever may list anything in its bucket.
    ///
    /// Without this, only who may list the bucket without naming a prefix learns it, and others get `AccessDenied`:
    /// AWS says that `s3:ListBucket` decides, and a request for an object has no prefix for a condition to match.
    #[must_use]
    pub const fn listing_tells_all(mut self) -> Self {
        self.listing_tells_all = true;
        self
    }

    /// Whether this may be done.
    pub fn allows(&self, attempt: &Attempt) -> bool {
        let bucket = attempt.bucket.as_deref().unwrap_or_default();
        let object = format!("arn:aws:s3:::{bucket}/{}", attempt.key.as_deref().unwrap_or_default());
        let bucket = format!("arn:aws:s3:::{bucket}");
        let allowed = needs(&attempt.operation).iter().all(|(action, on)| match on {
            On::Bucket => self.decide(action, &bucket, attempt),
            On::Object => self.decide(action, &object, attempt),
        });
        let reads = matches!(attempt.operation.as_str(), "GetObject" | "HeadObject");
        allowed && (!reads || attempt.exists || self.tells_missing(&bucket, attempt))
    }

    fn tells_missing(&self, bucket: &str, attempt: &Attempt) -> bool {
        let prefix = self.listing_tells_all.then(|| attempt.key.clone()).flatten();
        self.decide("s3:ListBucket", bucket, &Attempt { prefix, ..attempt.clone() })
    }

    /// Allowed by one statement, denied by none.
    fn decide(&self, action: &str, resource: &str, attempt: &Attempt) -> bool {
        let effects: Vec<&str> = self
            .statements
            .iter()
            .filter(|statement| applies(statement, action, resource, attempt))
            .map(|statement| statement["Effect"].as_str().unwrap_or_else(|| panic!("no effect in {statement}")))
            .collect();
        effects.contains(&"Allow") && !effects.contains(&"Deny")
    }
}

#[derive(Debug, Clone, Copy)]
enum On {
    Bucket,
    Object,
}

/// The actions that an operation needs.
fn needs(operation: &str) -> Vec<(String, On)> {
    let (actions, on): (&[&str], On) = match operation {
        "GetObject" | "HeadObject" => (&["GetObject"], On::Object),
        "PutObject" | "CreateMultipartUpload" | "UploadPart" | "CompleteMultipartUpload" => {
            (&["PutObject"], On::Object)
        }
        // Its source is not known here; rights to write and to read are checked on the destination.
        "CopyObject" | "UploadPartCopy" => (&["PutObject", "GetObject"], On::Object),
        "DeleteObject" => (&["DeleteObject"], On::Object),
        "AbortMultipartUpload" => (&["AbortMultipartUpload"], On::Object),
        "ListParts" => (&["ListMultipartUploadParts"], On::Object),
        "GetObjectRetention" | "PutObjectRetention" | "GetObjectLegalHold" | "PutObjectLegalHold" => {
            return vec![(format!("s3:{operation}"), On::Object)];
        }
        "ListObjects" | "ListObjectsV2" | "HeadBucket" => (&["ListBucket"], On::Bucket),
        "ListMultipartUploads" => (&["ListBucketMultipartUploads"], On::Bucket),
        "ListBuckets" => (&["ListAllMyBuckets"], On::Bucket),
        "GetObjectLockConfiguration" => (&["GetBucketObjectLockConfiguration"], On::Bucket),
        _ => return vec![(format!("s3:{operation}"), On::Bucket)],
    };
    actions.iter().map(|action| (format!("s3:{action}"), on)).collect()
}

fn applies(statement: &Value, action: &str, resource: &str, attempt: &Attempt) -> bool {
    for unknown in ["NotAction", "NotResource", "NotPrincipal"] {
        assert!(statement.get(unknown).is_none(), "{unknown} is not understood here: {statement}");
    }
    let any = |name: &str, text: &str| strings(&statement[name]).iter().any(|pattern| matches(pattern, text));
    let conditions = statement.get("Condition").and_then(Value::as_object);
    any("Action", action)
        && any("Resource", resource)
        && conditions.is_none_or(|tests| tests.iter().all(|(test, keys)| holds(test, keys, attempt)))
}

/// Whether one test, over all its keys, holds.
fn holds(test: &str, keys: &Value, attempt: &Attempt) -> bool {
    let keys = keys.as_object().unwrap_or_else(|| panic!("{test} tests nothing: {keys}"));
    keys.iter().all(|(key, expected)| {
        let expected = strings(expected);
        let actual = value(key, attempt);
        let is = |pattern: &String| actual.as_deref().is_some_and(|text| matches(pattern, text));
        match test {
            "StringLike" => expected.iter().any(is),
            "StringEquals" | "Bool" => actual.is_some_and(|text| expected.contains(&text)),
            "Null" => expected.contains(&actual.is_none().to_string()),
            _ => panic!("the condition {test} is not understood here"),
        }
    })
}

/// What a condition key is in this request, if it is there.
fn value(key: &str, attempt: &Attempt) -> Option<String> {
    match key {
        "s3:prefix" => attempt.prefix.clone(),
        "s3:if-none-match" => attempt.if_none_match.clone(),
        // What makes an object appear, as opposed to a part of one.
        "s3:ObjectCreationOperation" => {
            let creates = ["PutObject", "CopyObject", "CompleteMultipartUpload"].contains(&attempt.operation.as_str());
            Some(creates.to_string())
        }
        "aws:SecureTransport" => Some("true".to_owned()),
        _ => panic!("the condition key {key} is not understood here"),
    }
}

/// `*` is any text, `?` any character.
fn matches(pattern: &str, text: &str) -> bool {
    fn from(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| from(rest, &text[at..])),
            Some(('?', rest)) => text.split_first().is_some_and(|(_, others)| from(rest, others)),
            Some((letter, rest)) => {
                text.split_first().is_some_and(|(first, others)| first == letter && from(rest, others))
            }
        }
    }
    from(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        Value::Null => Vec::new(),
        one => vec![one],
    }
}

fn strings(value: &Value) -> Vec<String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    list(value.clone()).into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"Statement": [
        {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "arn:aws:s3:::BUCKET",
         "Condition": {"StringLike": {"s3:prefix": ["PREFIX/*"]}}},
        {"Effect": "Allow", "Action": ["s3:*Object"], "Resource": ["arn:aws:s3:::BUCKET/PREFIX/*"]},
        {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::BUCKET/*",
         "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}}]}"#;

    fn attempt(operation: &str, key: Option<&str>, prefix: Option<&str>) -> Attempt {
        let own = |text: &str| text.to_owned();
        Attempt {
            access_key: String::new(),
            operation: own(operation),
            bucket: Some("b".to_owned()),
            key: key.map(own),
            prefix: prefix.map(own),
            if_none_match: None,
            exists: true,
        }
    }

    #[test]
    fn only_what_is_granted_is_allowed() {
        let policy = Policy::parse(&[DOCUMENT], "b", "p");
        let may =
            |operation: &str, key: Option<&str>, prefix: Option<&str>| policy.allows(&attempt(operation, key, prefix));
        assert!(may("GetObject", Some("p/x"), None) && may("DeleteObject", Some("p/x/y"), None));
        assert!(!may("GetObject", Some("q/x"), None) && !may("GetObject", Some("p"), None));
        assert!(may("ListObjectsV2", None, Some("p/x/")));
        assert!(!may("ListObjectsV2", None, Some("q/")) && !may("ListObjectsV2", None, None));
        assert!(!may("HeadBucket", None, None) && !may("CreateBucket", None, None));
    }

    #[test]
    fn a_denial_wins() {
        let policy = Policy::parse(&[DOCUMENT], "b", "p");
        let mut put = attempt("PutObject", Some("p/x"), None);
        assert!(!policy.allows(&put));
        put.if_none_match = Some("*".to_owned());
        assert!(policy.allows(&put));
        assert!(policy.allows(&attempt("UploadPart", Some("p/x"), None)));
    }

    #[test]
    fn who_may_not_list_does_not_learn_what_is_missing() {
        let policy = Policy::parse(&[DOCUMENT], "b", "p");
        let missing = Attempt { exists: false, ..attempt("HeadObject", Some("p/x"), None) };
        assert!(!policy.allows(&missing));
        assert!(policy.listing_tells_all().allows(&missing));
    }

    #[test]
    #[should_panic(expected = "NotIpAddress is not understood")]
    fn what_is_not_understood_is_not_skipped() {
        let document = r#"{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*",
            "Condition": {"NotIpAddress": {"s3:prefix": "x"}}}}"#;
        Policy::parse(&[document], "b", "p").allows(&attempt("GetObject", Some("x"), None));
    }
}
