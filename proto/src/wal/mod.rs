//! The write-ahead log: page headers, records, what the records mean for recovery and for block maps.
//!
//! All numbers in WAL are little-endian here: the supported platforms write no others. Layouts are those of
//! PostgreSQL's `access/xlog_internal.h`, `access/xlogrecord.h` and of the resource managers' record structs; where
//! majors differ, the code says so.
//!
//! Reading order: [`page`] → [`block`] → [`record`] → [`transaction`] → [`special`] → [`decoder`] → [`records`] → [`changes`] → [`facts`] →
//! [`segment_scan`] → [`join`]; [`error`] says where and why reading stopped.

pub mod block;
mod bytes;
pub mod changes;
pub mod decoder;
mod decoder_pages;
pub mod error;
pub mod facts;
pub mod join;
pub mod page;
pub mod record;
pub mod records;
pub mod segment_scan;
pub mod special;
pub mod time;
pub mod transaction;

pub use decoder::WalDecoder;
pub use error::{EndOfWal, EndReason, WalError};
pub use page::SegmentHeader;
pub use record::DecodedRecord;
pub use records::Records;
pub use segment_scan::{ScanContext, SegmentScan, scan_segment};
pub use special::RecordMeaning;
pub use time::PgTimestamp;
