//! Reading a manifest whole.

use std::borrow::Cow;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{FIRST_WITH_SYSTEM_IDENTIFIER, TIME_FORMAT, WalRange, hex, unhex};
use crate::identity::SystemIdentifier;
use crate::timeline::TimelineId;

/// What a file's content sums up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileChecksum {
    /// CRC-32C, the default.
    Crc32c(u32),
    /// A member of the SHA-2 family: 28, 32, 48 or 64 bytes.
    Sha2(Vec<u8>),
}

impl FileChecksum {
    /// `None` if the algorithm is unknown or the digits are not a sum of its length.
    fn new(algorithm: &str, digits: &str) -> Option<Self> {
        let bytes = unhex(digits)?;
        let length = match algorithm {
            "CRC32C" => return Some(Self::Crc32c(u32::from_le_bytes(bytes.try_into().ok()?))),
            "SHA224" => 28,
            "SHA256" => 32,
            "SHA384" => 48,
            "SHA512" => 64,
            _ => return None,
        };
        (bytes.len() == length).then_some(Self::Sha2(bytes))
    }
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestFile {
    /// Path inside the data directory, in the server's bytes. Not checked: it may be absolute or lead elsewhere.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds since 1970.
    pub modified: i64,
    /// Checksum of the content, if the backup was made with one.
    pub checksum: Option<FileChecksum>,
}

/// A manifest that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupManifest {
    /// The cluster, in version 2.
    pub system_identifier: Option<SystemIdentifier>,
    /// Files in the order of the manifest.
    pub files: Vec<ManifestFile>,
    /// WAL that the backup needs, newest timeline first.
    pub wal_ranges: Vec<WalRange>,
}

/// Why the bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The text is no JSON of the manifest's form.
    #[error("backup_manifest is malformed: {0}")]
    Json(#[from] serde_json::Error),
    /// A version that this crate does not know, or version 2 without a system identifier.
    #[error(
        "backup_manifest has version {version} (with a system identifier: {has_system_identifier}): \
         expected 1 without one or 2 with one"
    )]
    Version {
        /// What the manifest says.
        version: u64,
        /// Whether a system identifier is there.
        has_system_identifier: bool,
    },
    /// The manifest was changed or is incomplete.
    #[error("backup_manifest stores the checksum {stored}, but its bytes have {computed}")]
    ChecksumMismatch {
        /// What the manifest says, cut at 140 characters.
        stored: String,
        /// What its bytes say.
        computed: String,
    },
    /// A field has an impossible value.
    #[error("backup_manifest has '{value}' for {field} of {object}")]
    Field {
        /// The file's path, or the range's number.
        object: String,
        /// The field in the manifest's words.
        field: &'static str,
        /// What it says, cut at 140 characters.
        value: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawManifest<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u64,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(borrow)]
    files: Vec<RawFile<'a>>,
    #[serde(rename = "WAL-Ranges", borrow)]
    wal_ranges: Vec<RawRange<'a>>,
    #[serde(rename = "Manifest-Checksum", borrow)]
    checksum: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawFile<'a> {
    #[serde(borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    size: u64,
    #[serde(rename = "Last-Modified", borrow)]
    last_modified: Cow<'a, str>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    checksum_algorithm: Option<Cow<'a, str>>,
    #[serde(borrow)]
    checksum: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange<'a> {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN", borrow)]
    start: Cow<'a, str>,
    #[serde(rename = "End-LSN", borrow)]
    end: Cow<'a, str>,
}

impl BackupManifest {
    /// Reads a manifest and checks its checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let raw: RawManifest<'_> = serde_json::from_slice(bytes)?;
        let computed = hex(&Sha256::digest(before_last_line(bytes)));
        if raw.checksum != computed {
            return Err(ManifestError::ChecksumMismatch { stored: cut(&raw.checksum), computed });
        }
        let has_system_identifier = raw.system_identifier.is_some();
        if !matches!((raw.version, has_system_identifier), (1, false) | (FIRST_WITH_SYSTEM_IDENTIFIER, true)) {
            return Err(ManifestError::Version { version: raw.version, has_system_identifier });
        }
        Ok(Self {
            system_identifier: raw.system_identifier.map(SystemIdentifier::new),
            files: raw.files.into_iter().map(RawFile::check).collect::<Result<_, _>>()?,
            wal_ranges: raw.wal_ranges.iter().enumerate().map(RawRange::check).collect::<Result<_, _>>()?,
        })
    }
}

/// What the checksum covers: everything up to the line feed before the last line.
fn before_last_line(bytes: &[u8]) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let end = body.iter().rposition(|&byte| byte == b'\n').map_or(0, |line_feed| line_feed + 1);
    &body[..end]
}

impl RawFile<'_> {
    fn check(self) -> Result<ManifestFile, ManifestError> {
        let refuse = |field, value: &str| {
            let object = self.path.as_deref().or(self.encoded_path.as_deref()).unwrap_or("a file without a path");
            ManifestError::Field { object: cut(object), field, value: cut(value) }
        };
        let path = match (&self.path, &self.encoded_path) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(encoded)) => unhex(encoded).ok_or_else(|| refuse("Encoded-Path", encoded))?,
            (None, None) => return Err(refuse("Path", "")),
            (Some(_), Some(encoded)) => return Err(refuse("Encoded-Path", encoded)),
        };
        let modified = seconds(&self.last_modified).ok_or_else(|| refuse("Last-Modified", &self.last_modified))?;
        let checksum = match (self.checksum_algorithm.as_deref(), self.checksum.as_deref()) {
            (None, None) => None,
            (None, Some(_)) => return Err(refuse("Checksum-Algorithm", "")),
            (Some(algorithm), None) => return Err(refuse("Checksum-Algorithm", algorithm)),
            (Some(algorithm), Some(digits)) => {
                let sum = FileChecksum::new(algorithm, digits);
                Some(sum.ok_or_else(|| refuse("Checksum", &format!("{algorithm} {digits}")))?)
            }
        };
        Ok(ManifestFile { path, size: self.size, modified, checksum })
    }
}

impl RawRange<'_> {
    fn check((index, raw): (usize, &Self)) -> Result<WalRange, ManifestError> {
        let refuse = |field, value: &str| {
            let object = format!("WAL range {}", index + 1);
            ManifestError::Field { object, field, value: cut(value) }
        };
        Ok(WalRange {
            timeline: TimelineId::new(raw.timeline).ok_or_else(|| refuse("Timeline", "0"))?,
            start: raw.start.parse().map_err(|_| refuse("Start-LSN", &raw.start))?,
            end: raw.end.parse().map_err(|_| refuse("End-LSN", &raw.end))?,
        })
    }
}

/// Seconds since 1970 of a time as the server prints it.
fn seconds(text: &str) -> Option<i64> {
    let time = DateTime::strptime(TIME_FORMAT, text).ok()?;
    TimeZone::UTC.to_timestamp(time).ok().map(|timestamp| timestamp.as_second())
}

/// Keeps what is quoted from a manifest printable in one message.
fn cut(text: &str) -> String {
    text.chars().take(140).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sealed(body: &str) -> Vec<u8> {
        let sum = hex(&Sha256::digest(body));
        format!("{body}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
    }

    fn with_file(fields: &str) -> Vec<u8> {
        let version = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n";
        sealed(&format!("{version}\"Files\": [\n{{ {fields} }}\n],\n\"WAL-Ranges\": [\n],\n"))
    }

    const PLAIN: &str = r#""Path": "a", "Size": 1, "Last-Modified": "2026-11-21 01:10:29 GMT""#;

    #[test]
    fn a_file_needs_no_checksum_but_not_half_of_one() {
        let manifest = BackupManifest::parse(&with_file(PLAIN)).unwrap();
        assert_eq!((manifest.files[0].modified, &manifest.files[0].checksum), (1_795_223_429, &None));
        for more in [
            r#", "Checksum": "00000000""#,
            r#", "Checksum-Algorithm": "CRC32C""#,
            r#", "Checksum-Algorithm": "CRC32C", "Checksum": "0000000""#,
            r#", "Checksum-Algorithm": "SHA256", "Checksum": "00000000""#,
            r#", "Checksum-Algorithm": "MD5", "Checksum": "00000000""#,
            r#", "Encoded-Path": "61""#,
            r#", "Mode": 384"#,
        ] {
            assert!(BackupManifest::parse(&with_file(&format!("{PLAIN}{more}"))).is_err(), "{more}");
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        let text = String::from_utf8(with_file(PLAIN)).unwrap().replace("\"Size\": 1", "\"Size\": 2");
        let error = BackupManifest::parse(text.as_bytes()).unwrap_err();
        assert!(matches!(error, ManifestError::ChecksumMismatch { .. }), "{error}");
    }

    #[test]
    fn versions_and_system_identifiers_belong_together() {
        for head in ["1,\n\"System-Identifier\": 7", "2", "3,\n\"System-Identifier\": 7", "3"] {
            let body = format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": {head},\n\"Files\": [\n],\n\"WAL-Ranges\": [\n],\n"
            );
            let error = BackupManifest::parse(&sealed(&body)).unwrap_err();
            assert!(matches!(error, ManifestError::Version { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_manifest_or_an_error(bytes: Vec<u8>, fields: String, time: String) {
            let _ = BackupManifest::parse(&bytes);
            let _ = BackupManifest::parse(&with_file(&fields));
            let _ = seconds(&time);
        }
    }
}
