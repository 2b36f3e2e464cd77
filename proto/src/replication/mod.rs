//! What a client of a PostgreSQL server sends and receives: the frontend/backend protocol, version 3.0, as far as simple
//! queries and physical replication need it.
//!
//! Nothing here reads or writes a socket: bytes come in as a buffer, messages go out into a buffer. Layouts are those of
//! the chapters "Message Formats" and "Streaming Replication Protocol" of PostgreSQL's documentation; all numbers are
//! big-endian. What a server sends cannot make these parsers panic, and every length is checked before it is believed.
//!
//! Reading order: [`message`] → [`authentication`] → [`scram`] → [`server_message`] → [`frontend`] → [`stream`] →
//! [`slot_name`] → [`command`] → [`answer`] → [`base_backup`]; [`error`] says what can be wrong with a server's bytes.

pub mod answer;
pub mod authentication;
pub mod base_backup;
pub mod command;
pub mod error;
mod fields;
pub mod frontend;
pub mod message;
pub mod scram;
pub mod server_message;
pub mod slot_name;
pub mod stream;

pub use answer::{NextTimeline, SystemIdentification, TimelineHistoryFile};
pub use authentication::AuthenticationRequest;
pub use error::WireError;
pub use frontend::FrontendMessage;
pub use message::{BackendMessage, TransactionStatus, decode};
pub use server_message::{ServerMessage, SqlState};
pub use slot_name::SlotName;
pub use stream::{StandbyStatusUpdate, StreamMessage};
