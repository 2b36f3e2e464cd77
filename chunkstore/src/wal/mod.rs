//! The WAL archive of a cluster: one object per file that PostgreSQL hands over, and tails of the segment that it is writing.

mod archive;
mod inventory;
mod object;
mod tail;

pub use archive::{Pushed, WalArchive};
pub use inventory::{Held, StoredSegment, WalInventory, segment_on};
pub use object::{MAXIMUM_WAL_FILE, PreparedFile};
pub use tail::{StoredTail, Tail};
pub(crate) use tail::{padded, scan_tail, superseded};
