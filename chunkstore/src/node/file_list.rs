//! File lists: the names, attributes and maps of a data directory's files, sorted by path.

use serde::{Deserialize, Serialize};

use super::reference::{NodeRef, PackDictionary, PackedRef};

/// What a file's maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// Relation data: page maps.
    Pages,
    /// Anything else: byte maps.
    Bytes,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileContent {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Its target, as it was.
        target: Vec<u8>,
    },
    /// A regular file.
    File {
        /// Length in bytes.
        length: u64,
        /// CRC-32C of the content, as `backup_manifest` wants it.
        crc32c: u32,
        /// What its maps are.
        body: Body,
        /// One map per 16 MiB, in order.
        regions: Vec<NodeRef>,
    },
}

/// One name in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Path below the data directory; a tablespace's files are below `pg_tblspc/<oid>/`.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Last modification, seconds since 1970.
    pub modified: i64,
    /// What stands there.
    pub content: FileContent,
}

impl FileEntry {
    /// The path for people.
    pub fn display_path(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// A part of a backup's file list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileList {
    /// Entries in ascending order of path.
    pub entries: Vec<FileEntry>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum EncodedContent {
    Directory,
    Symlink(#[serde(with = "serde_bytes")] Vec<u8>),
    File { length: u64, crc32c: u32, body: Body, regions: Vec<PackedRef> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct EncodedEntry {
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    mode: u32,
    modified: i64,
    content: EncodedContent,
}

/// As stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EncodedFileList {
    packs: PackDictionary,
    entries: Vec<EncodedEntry>,
}

impl FileList {
    pub(crate) fn to_encoded(&self) -> EncodedFileList {
        let mut packs = PackDictionary::default();
        let mut encode = |entry: &FileEntry| {
            let content = match &entry.content {
                FileContent::Directory => EncodedContent::Directory,
                FileContent::Symlink { target } => EncodedContent::Symlink(target.clone()),
                FileContent::File { length, crc32c, body, regions } => EncodedContent::File {
                    length: *length,
                    crc32c: *crc32c,
                    body: *body,
                    regions: regions.iter().map(|node| packs.pack(node.id, &node.location)).collect(),
                },
            };
            EncodedEntry { path: entry.path.clone(), mode: entry.mode, modified: entry.modified, content }
        };
        let entries = self.entries.iter().map(&mut encode).collect();
        EncodedFileList { packs, entries }
    }

    pub(crate) fn from_encoded(encoded: EncodedFileList) -> Result<Self, String> {
        let packs = encoded.packs;
        let decode = |entry: EncodedEntry| {
            check_path(&entry.path)?;
            let content = match entry.content {
                EncodedContent::Directory => FileContent::Directory,
                EncodedContent::Symlink(target) => FileContent::Symlink { target },
                EncodedContent::File { length, crc32c, body, regions } => {
                    if regions.len() as u64 != length.div_ceil(super::REGION) {
                        return Err(format!("{} maps for a file of {length} bytes", regions.len()));
                    }
                    let regions: Option<Vec<NodeRef>> =
                        regions.iter().map(|packed| packs.unpack_node(packed)).collect();
                    let regions = regions.ok_or("refers to a pack it does not name")?;
                    FileContent::File { length, crc32c, body, regions }
                }
            };
            Ok(FileEntry { path: entry.path, mode: entry.mode, modified: entry.modified, content })
        };
        let entries: Result<Vec<FileEntry>, String> = encoded.entries.into_iter().map(decode).collect();
        entries.map(|entries| Self { entries })
    }
}

/// Whether a path leads to a place below the directory that it is taken from: relative, without `.`, `..` or empty parts.
pub fn is_below(path: &[u8]) -> bool {
    let plain = |part: &[u8]| !part.is_empty() && part != b"." && part != b"..";
    path.split(|b| *b == b'/').all(plain) && !path.contains(&0)
}

/// A stored path stays inside the directory it is restored to.
fn check_path(path: &[u8]) -> Result<(), String> {
    if is_below(path) {
        Ok(())
    } else {
        Err(format!("path '{}' leaves the data directory", String::from_utf8_lossy(path)))
    }
}

/// Splits a stream of entries into lists whose borders depend on paths only, so that a backup in which few files changed
/// shares most lists with its parent.
#[derive(Default)]
pub struct FileListBuilder {
    entries: Vec<FileEntry>,
    references: usize,
}

impl FileListBuilder {
    /// Takes the next entry in order of path; gives a list whenever one is complete.
    pub fn push(&mut self, entry: FileEntry) -> Option<FileList> {
        if let FileContent::File { regions, .. } = &entry.content {
            self.references += regions.len();
        }
        let border = blake3::hash(&entry.path).as_bytes()[0] == 0;
        self.entries.push(entry);
        let full = self.entries.len() >= 1024 || self.references >= 16_384;
        if border || full { self.finish() } else { None }
    }

    /// The entries that are left.
    pub fn finish(&mut self) -> Option<FileList> {
        self.references = 0;
        let entries = std::mem::take(&mut self.entries);
        (!entries.is_empty()).then_some(FileList { entries })
    }
}
