//! Talking to servers: finding them, connecting, SQL, and the stream of WAL.

pub mod connection;
pub mod conninfo;
mod discover;
mod session;
pub mod tls;

pub use discover::{Postmaster, conninfo_for};
pub use session::{Session, SqlError};
