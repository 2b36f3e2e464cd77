//! Writing a manifest file by file.

use std::io::{self, Write};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{FIRST_WITH_SYSTEM_IDENTIFIER, TIME_FORMAT, WalRange, hex, manifest_version};
use crate::identity::SystemIdentifier;
use crate::version::MajorVersion;

/// Writes a manifest while the backup goes on; nothing of it is kept in memory.
///
/// Each line is one call of the writer below, which is not flushed.
pub struct ManifestWriter<W: Write> {
    out: W,
    digest: Sha256,
    line: Vec<u8>,
    has_files: bool,
}

impl<W: Write> ManifestWriter<W> {
    /// Begins the manifest of a backup of this cluster.
    pub fn new(out: W, version: MajorVersion, system_identifier: SystemIdentifier) -> io::Result<Self> {
        let mut manifest = Self { out, digest: Sha256::new(), line: Vec::new(), has_files: false };
        let number = manifest_version(version);
        writeln!(manifest.line, "{{ \"PostgreSQL-Backup-Manifest-Version\": {number},")?;
        if number >= FIRST_WITH_SYSTEM_IDENTIFIER {
            writeln!(manifest.line, "\"System-Identifier\": {system_identifier},")?;
        }
        manifest.line.extend_from_slice(b"\"Files\": [");
        manifest.put_line()?;
        Ok(manifest)
    }

    /// Adds a file: its path inside the data directory (tablespaces as `pg_tblspc/<oid>/…`), size in bytes, modification
    /// time in seconds since 1970 and CRC-32C, if known.
    pub fn file(&mut self, path: &[u8], size: u64, modified: i64, crc32c: Option<u32>) -> io::Result<()> {
        self.line.extend_from_slice(if self.has_files { b",\n" } else { b"\n" });
        self.has_files = true;
        match str::from_utf8(path) {
            Ok(text) => {
                self.line.extend_from_slice(b"{ \"Path\": ");
                escape_json(text, &mut self.line)?;
            }
            Err(_) => write!(self.line, "{{ \"Encoded-Path\": \"{}\"", hex(path))?,
        }
        let clamped = modified.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
        let modified = Timestamp::from_second(clamped).unwrap_or(Timestamp::UNIX_EPOCH).strftime(TIME_FORMAT);
        write!(self.line, ", \"Size\": {size}, \"Last-Modified\": \"{modified}\"")?;
        if let Some(crc) = crc32c {
            write!(self.line, ", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{}\"", hex(&crc.to_le_bytes()))?;
        }
        self.line.extend_from_slice(b" }");
        self.put_line()
    }

    /// Ends the manifest with the WAL that the backup needs, newest timeline first, and gives the writer back.
    pub fn finish(mut self, wal_ranges: &[WalRange]) -> io::Result<W> {
        self.line.extend_from_slice(b"\n],\n\"WAL-Ranges\": [\n");
        for (index, WalRange { timeline, start, end }) in wal_ranges.iter().enumerate() {
            let separator = if index == 0 { "" } else { ",\n" };
            write!(self.line, "{separator}{{ \"Timeline\": {timeline}, ")?;
            write!(self.line, "\"Start-LSN\": \"{start}\", \"End-LSN\": \"{end}\" }}")?;
        }
        self.line.extend_from_slice(b"\n],\n");
        self.put_line()?;
        writeln!(self.out, "\"Manifest-Checksum\": \"{}\"}}", hex(&self.digest.finalize()))?;
        Ok(self.out)
    }

    fn put_line(&mut self) -> io::Result<()> {
        self.digest.update(&self.line);
        self.out.write_all(&self.line)?;
        self.line.clear();
        Ok(())
    }
}

/// Writes a JSON string as the server's `escape_json` does.
fn escape_json(text: &str, out: &mut Vec<u8>) -> io::Result<()> {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'\x08' => out.extend_from_slice(b"\\b"),
            b'\x0C' => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..b' ' => write!(out, "\\u{byte:04x}")?,
            _ => out.push(byte),
        }
    }
    out.push(b'"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup_manifest::{BackupManifest, FileChecksum};
    use crate::lsn::Lsn;
    use crate::timeline::TimelineId;
    use proptest::prelude::*;

    fn written(version: MajorVersion, files: &[(Vec<u8>, u64, i64, Option<u32>)], ranges: &[WalRange]) -> Vec<u8> {
        let mut writer = ManifestWriter::new(Vec::new(), version, SystemIdentifier::new(u64::MAX)).unwrap();
        for (path, size, modified, crc) in files {
            writer.file(path, *size, *modified, *crc).unwrap();
        }
        writer.finish(ranges).unwrap()
    }

    #[test]
    fn a_checksum_is_printed_as_it_lies_in_memory() {
        let text = written(MajorVersion::V16, &[(b"abc".to_vec(), 3, 0, Some(crc32c::crc32c(b"abc")))], &[]);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("\"Last-Modified\": \"1970-01-01 00:00:00 GMT\""), "{text}");
        assert!(text.contains("\"Checksum\": \"b73f4b36\" }\n],"), "{text}");
        assert!(!text.contains("System-Identifier"), "{text}");
    }

    fn any_file() -> impl Strategy<Value = (Vec<u8>, u64, i64, Option<u32>)> {
        let path = prop_oneof![any::<Vec<u8>>(), "(?s).{0,20}".prop_map(String::into_bytes)];
        (path, any::<u64>(), -62_135_596_800i64..253_402_207_000, any::<Option<u32>>())
    }

    fn any_range() -> impl Strategy<Value = WalRange> {
        (1u32.., any::<u64>(), any::<u64>()).prop_map(|(timeline, start, end)| WalRange {
            timeline: TimelineId::new(timeline).unwrap(),
            start: Lsn::new(start),
            end: Lsn::new(end),
        })
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            files in prop::collection::vec(any_file(), 0..5),
            ranges in prop::collection::vec(any_range(), 0..3),
            version in prop::sample::select(&MajorVersion::ALL[..]),
        ) {
            let manifest = BackupManifest::parse(&written(version, &files, &ranges)).unwrap();
            let expected = (version >= MajorVersion::V17).then_some(SystemIdentifier::new(u64::MAX));
            prop_assert_eq!(manifest.system_identifier, expected);
            prop_assert_eq!(manifest.wal_ranges, ranges);
            prop_assert_eq!(manifest.files.len(), files.len());
            for (read, (path, size, modified, crc)) in manifest.files.iter().zip(&files) {
                prop_assert_eq!((&read.path, read.size, read.modified), (path, *size, *modified));
                prop_assert_eq!(&read.checksum, &crc.map(FileChecksum::Crc32c));
            }
        }
        #[test]
        fn any_time_can_be_written(modified: i64) {
            written(MajorVersion::V18, &[(Vec::new(), 0, modified, None)], &[]);
        }
    }
}
