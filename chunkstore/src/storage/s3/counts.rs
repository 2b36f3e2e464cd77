//! How many requests were sent, by operation: what a bucket costs besides its bytes.

use std::collections::BTreeMap;
use std::fmt;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Requests sent since the storage was opened, repetitions included, by operation (`PutObject`, `GetObject`, …).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestCounts(BTreeMap<String, u64>);

impl RequestCounts {
    /// Requests of one operation.
    pub fn of(&self, operation: &str) -> u64 {
        self.0.get(operation).copied().unwrap_or_default()
    }

    /// Requests of all operations.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Operations and their numbers, in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(operation, count)| (operation.as_str(), *count))
    }
}

impl fmt::Display for RequestCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.total())?;
        let mut before = " (";
        for (operation, count) in self.iter() {
            write!(f, "{before}{operation} {count}")?;
            before = ", ";
        }
        f.write_str(if self.0.is_empty() { "" } else { ")" })
    }
}

/// Where requests are counted.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<RequestCounts>);

impl Counter {
    pub fn add(&self, operation: &str) {
        let mut counts = self.0.lock();
        match counts.0.get_mut(operation) {
            Some(count) => *count += 1,
            None => {
                counts.0.insert(operation.to_owned(), 1);
            }
        }
    }

    pub fn counts(&self) -> RequestCounts {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shown_by_operation() {
        let counter = Counter::default();
        assert_eq!(counter.counts().to_string(), "0");
        ["PutObject", "GetObject", "PutObject"].iter().for_each(|operation| counter.add(operation));
        let counts = counter.counts();
        assert_eq!(counts.to_string(), "3 (GetObject 1, PutObject 2)");
        assert_eq!((counts.of("PutObject"), counts.of("ListObjectsV2")), (2, 0));
        assert_eq!(serde_json::to_string(&counts).unwrap(), r#"{"GetObject":1,"PutObject":2}"#);
    }
}
