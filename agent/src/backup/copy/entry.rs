//! The entries of an archive as a server writes it: names, kinds, and bytes as they come (`backup/basebackup.c`).

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, Bytes};
use walkeep_chunkstore::node::is_below;
use walkeep_proto::identity::Oid;

use crate::backup::incoming::{Event, Incoming};

/// Most memory that a decoder may take for what it refers back to, as a power of two: a server's zstd takes 8 MiB at its
/// ordinary levels.
pub(super) const WINDOW: u32 = 23;

/// The bytes of one archive: reads until the server begins something else.
pub(super) struct PartReader<'a, 'k> {
    incoming: &'a mut Incoming<'k>,
    current: Bytes,
    behind: std::vec::IntoIter<Bytes>,
    ended: bool,
    failure: Option<anyhow::Error>,
}

impl<'a, 'k> PartReader<'a, 'k> {
    pub(super) fn new(incoming: &'a mut Incoming<'k>) -> Self {
        Self { incoming, current: Bytes::new(), behind: Vec::new().into_iter(), ended: false, failure: None }
    }

    /// Reads what is behind the last entry, and gives the connection's error in place of what became of it.
    pub(super) fn settle(mut self, outcome: Result<()>) -> Result<()> {
        if let (Err(error), None) = (&outcome, &self.failure) {
            tracing::debug!("the archive is given up: {error:#}");
            return outcome;
        }
        while self.failure.is_none() && self.fill() {
            self.current.clear();
        }
        self.failure.map_or(outcome, Err)
    }

    /// Whether there are bytes to be read.
    fn fill(&mut self) -> bool {
        while self.current.is_empty() && !self.ended {
            if let Some(next) = self.behind.next() {
                self.current = next;
                continue;
            }
            match self.incoming.next() {
                Ok(Event::Data(data)) => self.behind = data.into_iter(),
                Ok(other) => {
                    self.incoming.put_back(other);
                    self.ended = true;
                }
                Err(error) => {
                    self.failure = Some(error);
                    self.ended = true;
                }
            }
        }
        !self.current.is_empty()
    }
}

impl Read for PartReader<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.fill() {
            return if self.failure.is_some() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(0) };
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Directory,
    File,
    /// Links to tablespaces, which `tablespace_map` names as well.
    Link,
}

/// An entry's name and attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryHead {
    /// Path below the data directory.
    pub(super) path: Vec<u8>,
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    pub(super) modified: i64,
    pub(super) size: u64,
}

impl EntryHead {
    /// Reads the head of an entry in the archive of a tablespace, or of the data directory.
    pub(super) fn of<R: Read>(entry: &tar::Entry<'_, R>, tablespace: Option<Oid>) -> Result<Self> {
        let name = entry.path_bytes();
        let shown = || String::from_utf8_lossy(&name).escape_debug().to_string();
        let kind = match entry.header().entry_type() {
            tar::EntryType::Directory => EntryKind::Directory,
            tar::EntryType::Regular => EntryKind::File,
            tar::EntryType::Symlink => EntryKind::Link,
            other => bail!("the server sends '{}' as an entry of kind {other:?}", shown()),
        };
        // Directories end with a slash; what stands below pg_wal begins with a dot.
        let plain = name.strip_suffix(b"/").unwrap_or(&name);
        let plain = plain.strip_prefix(b"./").unwrap_or(plain);
        ensure!(is_below(plain), "the server sends '{}', which leaves the data directory", shown());
        let path = match tablespace {
            Some(oid) => [format!("pg_tblspc/{oid}/").as_bytes(), plain].concat(),
            None => plain.to_vec(),
        };
        let header = entry.header();
        let attribute = || format!("unable to understand the attributes of '{}'", shown());
        Ok(Self {
            path,
            kind,
            mode: header.mode().with_context(attribute)? & 0o7777,
            modified: header.mtime().ok().and_then(|time| i64::try_from(time).ok()).with_context(attribute)?,
            size: entry.size(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(name: &[u8], kind: tar::EntryType) -> Result<EntryHead> {
        let mut header = tar::Header::new_ustar();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header.set_mtime(7);
        header.set_size(0);
        header.set_cksum();
        let mut archive = tar::Archive::new(&header.as_bytes()[..]);
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        EntryHead::of(&entry, Some(16_385))
    }

    proptest! {
        #[test]
        fn any_bytes_are_entries_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), sealed: bool) {
            if let Some(header) = bytes.first_chunk_mut::<512>().filter(|_| sealed) {
                let mut valid = tar::Header::from_byte_slice(header).clone();
                valid.set_cksum();
                *header = *valid.as_bytes();
            }
            let mut archive = tar::Archive::new(&bytes[..]);
            for entry in archive.entries().unwrap() {
                let Ok(entry) = entry else { break };
                if let Ok(head) = EntryHead::of(&entry, None) {
                    prop_assert!(is_below(&head.path), "{head:?}");
                }
            }
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        let good = head(b"PG_16_202307071/5/1259", tar::EntryType::Regular).unwrap();
        assert_eq!(good.path, b"pg_tblspc/16385/PG_16_202307071/5/1259");
        assert_eq!((good.kind, good.mode, good.modified), (EntryKind::File, 0o600, 7));
        assert_eq!(head(b"base/", tar::EntryType::Directory).unwrap().path, b"pg_tblspc/16385/base");
        assert_eq!(head(b"./pg_wal/archive_status/", tar::EntryType::Directory).unwrap().kind, EntryKind::Directory);
        assert_eq!(head(b"base/\xFF", tar::EntryType::Regular).unwrap().path, b"pg_tblspc/16385/base/\xFF");
        for name in [
            &b"../etc/passwd"[..],
            b"/etc/passwd",
            b"base/../../x",
            b"base//x",
            b"././base",
            b"./../x",
            b"",
            b"/",
            b"./",
            b"a/..",
        ] {
            let error = head(name, tar::EntryType::Regular).unwrap_err().to_string();
            assert!(error.contains("leaves the data directory"), "{name:?}: {error}");
        }
        assert!(head(b"base/x", tar::EntryType::Link).is_err() && head(b"base/x", tar::EntryType::Char).is_err());
    }
}
