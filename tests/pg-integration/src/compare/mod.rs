//! Judges: whether a cluster is the same as another, and whether it is sound.
//!
//! [`Digest`] compares what SQL sees. [`amcheck`] looks for damage in tables and indexes of a running cluster,
//! [`checksums`] for damaged pages in a stopped one, [`verify_backup`] compares files with PostgreSQL's own manifest.

mod digest;
mod manifest;
mod pages;
mod sound;

pub use digest::{Digest, Sequence};
pub use manifest::verify_backup;
pub(crate) use pages::files_below;
pub use pages::{PageReport, page_checksum, scan_pages};
pub use sound::{amcheck, checksums, try_amcheck, try_checksums};
