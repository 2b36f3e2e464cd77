//! The project's own pages, done as they say: [`Page`] knows the blocks of a page, a [`Host`] is a machine of its own to run
//! them on, a [`Walk`] runs those of one section in order.
//!
//! Commands are run literally, as root in the directory of the sources, by `bash -euo pipefail`. What a machine would have
//! and the tests' machine must not get is played by the host: its files, processes, network, `sudo` and `systemctl`.

mod host;
mod page;
mod walk;

pub use host::Host;
pub use page::{Block, Page, repository_root};
pub use walk::Walk;
