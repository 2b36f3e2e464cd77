//! The WAL archive of a cluster: one object per file that PostgreSQL hands over.

mod archive;
mod inventory;
mod object;

pub use archive::{Pushed, WalArchive};
pub use inventory::{StoredSegment, WalInventory, segment_on};
pub use object::{MAXIMUM_WAL_FILE, PreparedFile};
