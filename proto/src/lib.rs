//! PostgreSQL's bytes: everything whose layout PostgreSQL defines, decoded without I/O.
//!
//! Every parser here is total: any input gives a value or a typed error, never a panic, and allocates no more than a
//! small multiple of the input. Callers read files and sockets; this crate only looks at bytes they hand over.
//!
//! Reading order: [`lsn`] → [`timeline`] → [`segment`] → [`version`] → [`identity`] → [`page`] →
//! [`control_file`] → [`relation_file`] → [`data_directory`] → [`backup_label`] →
//! [`tablespace_map`] → [`backup_manifest`] → [`incremental_file`] → [`wal`] → [`replication`].

pub mod backup_label;
pub mod backup_manifest;
pub mod control_file;
pub mod data_directory;
pub mod identity;
pub mod incremental_file;
pub mod lsn;
pub mod page;
pub mod relation_file;
pub mod replication;
pub mod segment;
pub mod tablespace_map;
pub mod timeline;
pub mod version;
pub mod wal;
