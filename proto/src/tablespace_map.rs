//! `tablespace_map`: where the links in `pg_tblspc` pointed when a base backup was taken.
//!
//! One line per tablespace, `<oid> <path>`. Servers create the links anew from it at the start of recovery. Line feeds
//! and carriage returns in a path stand behind a backslash; from 14 on so does the backslash itself, while in 13 it
//! stands for itself anywhere else. The two cannot be told apart by looking (checked against servers of 13 to 18).

use crate::identity::Oid;
use crate::version::MajorVersion;

/// The content of a `tablespace_map` file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TablespaceMap {
    /// Tablespaces and the directories they are in, in the order of the file. Paths have the server's bytes.
    pub entries: Vec<(Oid, Vec<u8>)>,
}

/// The bytes are no tablespace map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tablespace_map is malformed at entry {entry}: {problem}")]
pub struct TablespaceMapError {
    entry: usize,
    problem: &'static str,
}

impl TablespaceMap {
    /// Reads the file that a server of this version wrote.
    pub fn parse(bytes: &[u8], version: MajorVersion) -> Result<Self, TablespaceMapError> {
        let mut map = Self::default();
        let mut line = Vec::new();
        let mut rest = bytes.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            match byte {
                b'\\' => match rest.next_if(|&next| is_escaped(next, version)) {
                    Some(escaped) => line.push(escaped),
                    // From 14 on a server never writes this; it would read it as if the backslash were not there.
                    None if escapes_backslash(version) => {}
                    None => line.push(b'\\'),
                },
                // An empty line is what `\r\n` looks like.
                b'\n' | b'\r' if line.is_empty() => {}
                b'\n' | b'\r' => {
                    let entry = entry_of(&line).map_err(|problem| map.refuse(problem))?;
                    map.entries.push(entry);
                    line.clear();
                }
                _ => line.push(byte),
            }
        }
        if line.is_empty() { Ok(map) } else { Err(map.refuse("the last line does not end")) }
    }

    /// The file as a server of this version writes and reads it.
    ///
    /// 13 has no way to write a path with a backslash at its end or before a line feed: it reads such a path wrongly.
    pub fn to_bytes(&self, version: MajorVersion) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (oid, path) in &self.entries {
            bytes.extend_from_slice(format!("{oid} ").as_bytes());
            for &byte in path {
                if is_escaped(byte, version) {
                    bytes.push(b'\\');
                }
                bytes.push(byte);
            }
            bytes.push(b'\n');
        }
        bytes
    }

    /// The directory of a tablespace.
    pub fn path(&self, tablespace: Oid) -> Option<&[u8]> {
        self.entries.iter().find(|(oid, _)| *oid == tablespace).map(|(_, path)| path.as_slice())
    }

    /// Moves a tablespace to another directory; `false` if there is no such tablespace.
    pub fn relocate(&mut self, tablespace: Oid, directory: &[u8]) -> bool {
        let entry = self.entries.iter_mut().find(|(oid, _)| *oid == tablespace);
        entry.is_some_and(|(_, path)| {
            *path = directory.to_vec();
            true
        })
    }

    fn refuse(&self, problem: &'static str) -> TablespaceMapError {
        TablespaceMapError { entry: self.entries.len() + 1, problem }
    }
}

/// Whether the byte stands behind a backslash in files of this version.
fn is_escaped(byte: u8, version: MajorVersion) -> bool {
    matches!(byte, b'\n' | b'\r') || (byte == b'\\' && escapes_backslash(version))
}

fn escapes_backslash(version: MajorVersion) -> bool {
    version >= MajorVersion::V14
}

fn entry_of(line: &[u8]) -> Result<(Oid, Vec<u8>), &'static str> {
    let end = line.iter().position(|&byte| byte == b' ').ok_or("no blank behind the tablespace")?;
    let (digits, path) = (&line[..end], &line[end + 1..]);
    let oid = str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let oid = oid.and_then(|digits| digits.parse().ok()).filter(|&oid| oid != 0).ok_or("no tablespace number")?;
    if path.is_empty() { Err("no path behind the tablespace") } else { Ok((oid, path.to_vec())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The path that tablespaces of real servers had when they wrote the lines below.
    const PATH: &[u8] = b"/srv/weird\\x\\\\y\nz\rw \xc3\xa9";

    #[test]
    fn the_same_path_is_written_as_each_server_does() {
        let map = TablespaceMap { entries: vec![(16422, PATH.to_vec())] };
        let of_13 = b"16422 /srv/weird\\x\\\\y\\\nz\\\rw \xc3\xa9\n";
        let since_14 = b"16422 /srv/weird\\\\x\\\\\\\\y\\\nz\\\rw \xc3\xa9\n";
        for version in MajorVersion::ALL {
            let expected: &[u8] = if version == MajorVersion::V13 { of_13 } else { since_14 };
            assert_eq!(map.to_bytes(version), expected);
            assert_eq!(TablespaceMap::parse(expected, version).as_ref(), Ok(&map));
        }
    }

    #[test]
    fn tablespaces_can_be_moved() {
        let mut map = TablespaceMap::parse(b"16402 /a\r\n\n16403 /b c\n", MajorVersion::V18).unwrap();
        assert_eq!(map.path(16403), Some(&b"/b c"[..]));
        assert!(map.relocate(16402, b"/new"));
        assert!(!map.relocate(1, b"/new"));
        assert_eq!(map.to_bytes(MajorVersion::V18), b"16402 /new\n16403 /b c\n");
    }

    #[test]
    fn half_lines_are_refused() {
        for text in ["1 /a", "/a\n", "1\n", "1 \n", "x /a\n", " /a\n", "0 /a\n", "-1 /a\n", "4294967296 /a\n"] {
            assert!(TablespaceMap::parse(text.as_bytes(), MajorVersion::V18).is_err(), "{text:?}");
        }
    }

    fn entries(path: &'static str) -> impl Strategy<Value = Vec<(Oid, Vec<u8>)>> {
        prop::collection::vec((1u32.., path.prop_map(String::into_bytes)), 0..5)
    }

    proptest! {
        #[test]
        fn any_path_survives_from_14_on(entries in entries("(?s).{1,20}")) {
            let map = TablespaceMap { entries };
            prop_assert_eq!(TablespaceMap::parse(&map.to_bytes(MajorVersion::V14), MajorVersion::V14), Ok(map));
        }
        #[test]
        fn any_sane_path_survives_13(entries in entries(r"([^\\]|\\[^\n\r\\]){1,20}")) {
            let map = TablespaceMap { entries };
            prop_assert_eq!(TablespaceMap::parse(&map.to_bytes(MajorVersion::V13), MajorVersion::V13), Ok(map));
        }
        #[test]
        fn any_bytes_are_a_map_or_an_error(bytes: Vec<u8>, near in "[0-9 \\\\\n\r/a]{0,30}") {
            for version in [MajorVersion::V13, MajorVersion::V18] {
                let _ = TablespaceMap::parse(&bytes, version);
                let _ = TablespaceMap::parse(near.as_bytes(), version);
            }
        }
    }
}
