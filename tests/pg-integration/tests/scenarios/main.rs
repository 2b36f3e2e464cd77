//! Every scenario, one module per subject.
#![expect(clippy::panic, reason = "a scenario that cannot go on has failed")]

mod archive_push;
mod backup_faults;
mod backup_restore;
mod crash;
mod documented;
mod drop_table;
mod faults;
mod harness;
mod layouts;
mod monitoring;
mod over_the_wire;
mod restore_faults;
mod rocksdb_deleted;
mod s3;
mod s3_servers;
mod stream;
mod targets;
