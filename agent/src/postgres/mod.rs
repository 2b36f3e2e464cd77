//! Talking SQL to the server, and finding it.

mod discover;
mod session;

pub use discover::{Postmaster, conninfo_for};
pub use session::{Session, SqlError};
