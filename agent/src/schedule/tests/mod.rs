//! The schedule under virtual time.

mod clock;
mod days;
mod properties;
mod trouble;
mod world;
