//! PostgreSQL's bytes: everything whose layout PostgreSQL defines, decoded without I/O.
//!
//! Every parser here is total: any input gives a value or a typed error, never a panic, and allocates no more than a
//! small multiple of the input. Callers read files and sockets; this crate only looks at bytes they hand over.
//!
//! Reading order: [`lsn`] → [`timeline`] → [`segment`] → [`version`] → [`identity`].

pub mod identity;
pub mod lsn;
pub mod segment;
pub mod timeline;
pub mod version;
