//! The store as its users see it. One binary for all of it: linking RocksDB is the slow part.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;
mod conformance;
mod format;
mod ingest;
mod merge;
mod mirror;
mod race;
mod sync;
