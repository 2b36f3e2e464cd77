//! What each fuzz target does with its input. `scripts/fuzz` runs them.
//!
//! A decoder must give a value or an error for every input: no panic, no endless work, no memory beyond a small multiple
//! of the input. Where bytes arrive in pieces, the pieces must not change what comes out; that is checked here too.

pub mod pieces;
pub mod wal;
pub mod wire;
