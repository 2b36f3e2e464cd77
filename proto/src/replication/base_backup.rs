//! `BASE_BACKUP`: the command, and what comes back (`backup/basebackup.c`, `backup/basebackup_copy.c`).
//!
//! Version 15 changed both: before, the command is a list of keywords and each archive is a copy of its own; since, the
//! options stand in parentheses and one copy holds everything, each message with its kind in the first byte.

use bytes::Bytes;

use super::answer::{Columns, Row};
use super::error::{AnswerError, Tag, WireError};
use super::fields::Fields;
use crate::identity::Oid;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::version::MajorVersion;

/// How the server begins: it waits for a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checkpoint {
    /// At once, at the cost of a burst of writes.
    #[default]
    Fast,
    /// Spread over time like any other: the backup may begin minutes later.
    Spread,
}

/// What is asked of the server. Always included: the tablespace map, sizes, verified page checksums, and a manifest with
/// CRC-32C. Always left out: WAL, and waiting for its archiving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// What `backup_label` says in LABEL.
    pub label: String,
    /// How it begins.
    pub checkpoint: Checkpoint,
    /// Most kilobytes per second that the server sends; none: as fast as it can.
    pub max_rate: Option<u32>,
    /// zstd level of compression by the server. Since 15, where it was built with zstd.
    pub compression: Option<u8>,
    /// Only what has changed since the backup whose manifest was uploaded in the same session ([`UPLOAD_MANIFEST`]). Since
    /// 17, where the server summarises WAL.
    pub incremental: bool,
}

/// The command that takes the manifest of an earlier backup; since 17. What follows is a copy of its bytes.
pub const UPLOAD_MANIFEST: &str = "UPLOAD_MANIFEST";

/// The limits of MAX_RATE, in kilobytes per second (`MAX_RATE_LOWER`, `MAX_RATE_UPPER`).
const MAX_RATES: std::ops::RangeInclusive<u32> = 32..=1_048_576;

impl BaseBackupOptions {
    /// The command in the words of a server's version.
    pub fn command(&self, version: MajorVersion) -> String {
        let label = self.label.replace('\'', "''");
        let max_rate = self.max_rate.map(|rate| rate.clamp(*MAX_RATES.start(), *MAX_RATES.end()));
        if has_one_copy(version) {
            let checkpoint = match self.checkpoint {
                Checkpoint::Fast => "fast",
                Checkpoint::Spread => "spread",
            };
            let rate = max_rate.map(|rate| format!(", MAX_RATE {rate}")).unwrap_or_default();
            let compression =
                self.compression.map(|level| format!(", COMPRESSION 'zstd', COMPRESSION_DETAIL 'level={level}'"));
            let incremental = if self.incremental { ", INCREMENTAL" } else { "" };
            format!(
                "BASE_BACKUP (LABEL '{label}', PROGRESS, CHECKPOINT '{checkpoint}', WAIT false, TABLESPACE_MAP, \
                 MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C'{rate}{}{incremental})",
                compression.unwrap_or_default()
            )
        } else {
            // These versions fail on a name that is no UTF-8, unless all names are encoded.
            let fast = if self.checkpoint == Checkpoint::Fast { " FAST" } else { "" };
            let rate = max_rate.map(|rate| format!(" MAX_RATE {rate}")).unwrap_or_default();
            format!(
                "BASE_BACKUP LABEL '{label}' PROGRESS{fast} NOWAIT{rate} TABLESPACE_MAP MANIFEST 'force-encode' \
                 MANIFEST_CHECKSUMS 'CRC32C'"
            )
        }
    }
}

/// Whether everything comes in one copy whose messages say what they are.
pub const fn has_one_copy(version: MajorVersion) -> bool {
    !matches!(version, MajorVersion::V13 | MajorVersion::V14)
}

/// The first and the last row of the answer: where the backup begins, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupPosition {
    /// The position. At the beginning that of the checkpoint's redo.
    pub lsn: Lsn,
    /// The timeline it is on.
    pub timeline: TimelineId,
}

impl BackupPosition {
    /// Reads the row.
    pub fn parse(row: Row<'_>) -> Result<Self, AnswerError> {
        let columns = Columns::new("BASE_BACKUP", row, 2)?;
        Ok(Self { lsn: columns.value(0, "the position")?, timeline: columns.value(1, "the timeline")? })
    }
}

/// A tablespace that the backup holds: one archive each, in the order of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupTablespace {
    /// Its OID and place; none for the data directory itself, which comes last.
    pub place: Option<(Oid, String)>,
    /// Its size before the copy, in kilobytes.
    pub kilobytes: u64,
}

impl BackupTablespace {
    /// Reads the row.
    pub fn parse(row: Row<'_>) -> Result<Self, AnswerError> {
        let columns = Columns::new("BASE_BACKUP", row, 3)?;
        let place = match columns.optional(0)? {
            Some(oid) => {
                Some((columns.parse(oid, "the tablespace")?, columns.text(1, "the tablespace's location")?.to_owned()))
            }
            None => None,
        };
        let kilobytes = columns.optional(2)?.map(|size| columns.parse(size, "the size")).transpose()?;
        Ok(Self { place, kilobytes: kilobytes.unwrap_or(0) })
    }
}

/// A message of the one copy since 15.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupMessage {
    /// An archive begins.
    Archive {
        /// Its name, such as `base.tar` or `16385.tar.zst`. It is the server's word and no path to write to.
        name: String,
        /// The tablespace's place; empty for the data directory.
        location: String,
    },
    /// The manifest begins.
    Manifest,
    /// The next bytes of what has begun.
    Data(Bytes),
    /// Bytes read by the server so far.
    Progress(u64),
}

impl BackupMessage {
    /// Reads the payload of a `CopyData`.
    pub fn decode(payload: Bytes) -> Result<Self, WireError> {
        let mut fields = Fields::new("message of a base backup", payload);
        match fields.u8()? {
            b'n' => {
                let (name, location) = (fields.text()?, fields.text()?);
                fields.finish()?;
                Ok(Self::Archive { name, location })
            }
            b'm' => {
                fields.finish()?;
                Ok(Self::Manifest)
            }
            b'd' => Ok(Self::Data(fields.rest())),
            b'p' => {
                let bytes = fields.u64()?;
                fields.finish()?;
                Ok(Self::Progress(bytes))
            }
            tag => Err(WireError::UnknownPayload(Tag(tag))),
        }
    }
}

/// How an archive's bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveCompression {
    /// Plain tar.
    None,
    /// One zstd stream.
    Zstd,
}

/// Which tablespace an archive's name stands for (none: the data directory), and how it is packed; `None` for a name
/// that no server gives.
pub fn parse_archive_name(name: &str) -> Option<(Option<Oid>, ArchiveCompression)> {
    let (stem, compression) = match name.strip_suffix(".zst") {
        Some(stem) => (stem, ArchiveCompression::Zstd),
        None => (name, ArchiveCompression::None),
    };
    let stem = stem.strip_suffix(".tar")?;
    if stem == "base" {
        return Some((None, compression));
    }
    let is_number = !stem.is_empty() && !stem.starts_with('0') && stem.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| stem.parse().ok()).flatten().map(|oid| (Some(oid), compression))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn options() -> BaseBackupOptions {
        BaseBackupOptions {
            label: "it's".to_owned(),
            checkpoint: Checkpoint::Fast,
            max_rate: None,
            compression: None,
            incremental: false,
        }
    }

    #[test]
    fn the_command_is_spelled_as_each_version_reads_it() {
        assert_eq!(
            options().command(MajorVersion::V14),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT TABLESPACE_MAP MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        let slow = BaseBackupOptions { checkpoint: Checkpoint::Spread, max_rate: Some(1), ..options() };
        assert_eq!(
            slow.command(MajorVersion::V13),
            "BASE_BACKUP LABEL 'it''s' PROGRESS NOWAIT MAX_RATE 32 TABLESPACE_MAP MANIFEST 'force-encode' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        let packed = BaseBackupOptions { max_rate: Some(u32::MAX), compression: Some(1), ..options() };
        assert_eq!(
            packed.command(MajorVersion::V15),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C', MAX_RATE 1048576, COMPRESSION 'zstd', COMPRESSION_DETAIL 'level=1')"
        );
        let incremental = BaseBackupOptions { incremental: true, ..options() };
        assert_eq!(
            incremental.command(MajorVersion::V17),
            "BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP, \
             MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', INCREMENTAL)"
        );
    }

    #[test]
    fn messages_say_what_they_are() {
        let decode = |bytes: &'static [u8]| BackupMessage::decode(Bytes::from_static(bytes)).unwrap();
        let name = BackupMessage::Archive { name: "1.tar".to_owned(), location: "/x".to_owned() };
        assert_eq!(decode(b"n1.tar\0/x\0"), name);
        assert_eq!(decode(b"m"), BackupMessage::Manifest);
        assert_eq!(decode(b"dabc"), BackupMessage::Data(Bytes::from("abc")));
        assert_eq!(decode(b"p\0\0\0\0\0\0\x01\0"), BackupMessage::Progress(256));
        for bad in [&b""[..], b"x", b"n1.tar\0", b"p\0", b"mm"] {
            assert!(BackupMessage::decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_the_names_that_servers_give_are_names() {
        let plain = ArchiveCompression::None;
        assert_eq!(parse_archive_name("base.tar"), Some((None, plain)));
        assert_eq!(parse_archive_name("16385.tar"), Some((Some("16385".parse().unwrap()), plain)));
        assert_eq!(parse_archive_name("base.tar.zst"), Some((None, ArchiveCompression::Zstd)));
        for bad in [
            "",
            ".tar",
            "base",
            "../base.tar",
            "a/base.tar",
            "base.tar.gz",
            "01.tar",
            "0.tar",
            "99999999999.tar",
            "+1.tar",
        ] {
            assert_eq!(parse_archive_name(bad), None, "{bad}");
        }
    }

    #[test]
    fn rows_are_values() {
        let row = |values: &[Option<&str>]| -> Vec<Option<Bytes>> {
            values.iter().map(|value| value.map(|text| Bytes::copy_from_slice(text.as_bytes()))).collect()
        };
        let position = BackupPosition::parse(&row(&[Some("0/2000028"), Some("1")])).unwrap();
        assert_eq!((position.lsn, position.timeline.get()), (Lsn::new(0x200_0028), 1));
        let of = |values: &[Option<&str>]| BackupTablespace::parse(&row(values));
        let base = of(&[None, None, Some("23045")]).unwrap();
        assert_eq!((base.place, base.kilobytes), (None, 23_045));
        let tablespace = of(&[Some("16385"), Some("/srv/x"), None]).unwrap();
        assert_eq!(tablespace.place, Some(("16385".parse().unwrap(), "/srv/x".to_owned())));
        assert!(of(&[Some("16385"), None, None]).is_err() && of(&[Some("x"), Some("/srv/x"), None]).is_err());
    }

    proptest! {
        #[test]
        fn any_payload_is_a_message_or_an_error(bytes: Vec<u8>, name: String) {
            let _ = BackupMessage::decode(Bytes::from(bytes));
            let _ = parse_archive_name(&name);
        }
    }
}
