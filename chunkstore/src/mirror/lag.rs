//! How far a mirror is behind.

use std::time::SystemTime;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::watch::named_at;
use super::{Class, missing};
use crate::storage::{LocalStorage, Storage};

/// How far the mirror is behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Objects that are not there yet.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since the oldest of them was written; 0 when there is none.
    pub seconds: u64,
    /// What was written here before this moment is there. `None` until both places have been compared.
    pub complete_before: Option<Timestamp>,
    /// Objects sent since the agent started.
    pub sent_objects: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Whether both places have been compared since the agent started: before, the numbers are too small.
    pub compared: bool,
    /// Failures since the last success.
    pub failures: u64,
    /// What failed last, while it fails.
    pub error: Option<String>,
}

impl Lag {
    /// How far `remote` is behind, by comparing it with `local`: what can be said when no agent runs.
    pub fn by_comparison(local: &LocalStorage, remote: &dyn Storage) -> Self {
        let looked = SystemTime::now();
        match missing(local, remote, &Class::ALL) {
            Ok(missing) => {
                let oldest = missing.objects.iter().filter_map(|(_, info)| named_at(local, &info.key)).min();
                let (objects, bytes) = (missing.objects.len() as u64, missing.bytes());
                let complete_before = timestamp(oldest.unwrap_or(looked));
                Self { objects, bytes, seconds: age(oldest), complete_before, compared: true, ..Self::default() }
            }
            Err(error) => Self { error: Some(crate::console::chain(&error)), failures: 1, ..Self::default() },
        }
    }
}

/// Seconds since a file got its name; 0 for none, and for one of a clock ahead of ours.
pub(super) fn age(named: Option<SystemTime>) -> u64 {
    let age = named.and_then(|named| SystemTime::now().duration_since(named).ok());
    age.unwrap_or_default().as_secs()
}

/// `None` for a time that no calendar knows.
pub(super) fn timestamp(time: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(time).ok()
}
