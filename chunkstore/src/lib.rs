//! Walkeep's repository: a deduplicating store for base backups and WAL of PostgreSQL clusters.
//!
//! - [`chunker`] cuts data, [`id`] names the chunks, [`container`] gives every object one shape.
//! - [`node`] describes files by chunks: page maps, byte maps, file lists.
//! - [`storage`] is where objects live; [`repository`] is what they mean; [`index`] finds chunks fast.
//! - [`ingest`] turns files into chunks, packs and nodes; [`extract`] turns them back.
//! - [`wal`] is the WAL archive; [`mirror`] brings everything to a second place.
//!
//! The commit point of a base backup is its root, published last and create-if-absent. Everything it refers to is durable
//! before. So a crash at any moment leaves either a complete backup or objects that no root refers to, and nothing needs
//! repair: the next backup adopts what is there.

pub mod catalogue;
pub mod chunker;
pub mod codec;
pub mod console;
pub mod container;
pub mod error;
pub mod extract;
pub mod id;
pub mod index;
pub mod ingest;
pub mod mirror;
pub mod node;
pub mod parallel;
pub mod repository;
pub mod storage;
pub mod verify;
pub mod wal;

pub use error::{Error, ErrorKind, Result};
