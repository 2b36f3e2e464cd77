//! Talking to servers: finding them, connecting, SQL, and the stream of WAL.

pub mod connection;
pub mod conninfo;
mod discover;
mod session;
pub mod tls;

use std::collections::BTreeSet;

use parking_lot::Mutex;

pub use discover::{Postmaster, conninfo_for};
pub use session::{Session, SqlError};

/// Warnings that are remembered: what is said beyond them may be said twice.
const REMEMBERED: usize = 256;

/// Warns of what every new connection would meet again: once in a process's life.
fn warn_once(warning: String) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock();
    if told.contains(&warning) {
        return;
    }
    tracing::warn!("{warning}");
    if told.len() < REMEMBERED {
        told.insert(warning);
    }
}
