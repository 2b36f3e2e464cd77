//! The same repository in a second place: what has to go there, in which order, and a storage that sees to it.
//!
//! The truth about what is missing is always the same comparison: objects that one place lists and the other does not. No
//! queue on disk can lie about it. Order keeps every intermediate state usable: a base backup's root follows everything it
//! refers to, WAL does not wait behind the packs of a large backup.

mod check;
mod copy;
mod lag;
mod link;
mod needs;
mod order;
mod queue;
mod storage;
mod sync;
mod uploads;
mod watch;
mod window;

/// Objects under way at once to one mirror.
const UNDER_WAY: usize = 4;

pub use copy::{CopyReport, Copying, Missing, copy_object, missing};
use copy::{is_tail, unless_dropped};
pub use lag::Lag;
pub use link::{LinkState, join};
pub use order::Class;
pub use queue::MirrorQueue;
pub use storage::{Durability, Keep, MirroredStorage, Remote};
pub use sync::{SyncReport, Syncing};
