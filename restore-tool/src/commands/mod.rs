//! One file per command.

mod list;
mod restore;
mod windows;

pub use list::list;
pub use restore::restore;
pub use windows::windows;
