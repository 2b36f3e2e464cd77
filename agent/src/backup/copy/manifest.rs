//! What was received, compared with what the server's `backup_manifest` says was sent.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};
use walkeep_chunkstore::ingest::FileSum;
use walkeep_proto::backup_manifest::{BackupManifest, FileChecksum};
use walkeep_proto::replication::base_backup::BackupPosition;

/// Refuses a backup that is not what the server sent: a file more or less, other bytes, other positions.
pub(super) fn compare(
    manifest: &BackupManifest,
    received: Vec<FileSum>,
    start: BackupPosition,
    end: BackupPosition,
) -> Result<()> {
    let mut sums = HashMap::with_capacity(received.len());
    for sum in received {
        let path = sum.path.clone();
        if let Some(FileSum { path, .. }) = sums.insert(path, sum) {
            bail!("'{}' was received twice", String::from_utf8_lossy(&path));
        }
    }
    for file in &manifest.files {
        let path = String::from_utf8_lossy(&file.path);
        let Some(sum) = sums.remove(&file.path) else {
            bail!("'{path}' stands in the server's manifest, and was not received");
        };
        ensure!(
            sum.length == file.size,
            "'{path}' was received with {} bytes, the server's manifest says {}",
            sum.length,
            file.size
        );
        match &file.checksum {
            Some(FileChecksum::Crc32c(crc)) => ensure!(
                *crc == sum.crc32c,
                "'{path}' was received with checksum {:08x}, the server's manifest says {crc:08x}",
                sum.crc32c
            ),
            other => bail!("'{path}' has {other:?} in the server's manifest, CRC-32C was asked for"),
        }
    }
    if let Some(path) = sums.keys().next() {
        bail!("'{}' was received, and does not stand in the server's manifest", String::from_utf8_lossy(path));
    }
    let needed =
        manifest.wal_ranges.last().map(|range| range.start).zip(manifest.wal_ranges.first().map(|range| range.end));
    ensure!(
        needed == Some((start.lsn, end.lsn)),
        "the backup starts at {} and stops at {}, the server's manifest says {needed:?}",
        start.lsn,
        end.lsn
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use walkeep_proto::backup_manifest::{ManifestFile, WalRange};
    use walkeep_proto::lsn::Lsn;
    use walkeep_proto::timeline::TimelineId;

    use super::*;

    fn position(lsn: u64) -> BackupPosition {
        BackupPosition { lsn: Lsn::new(lsn), timeline: TimelineId::FIRST }
    }

    fn file(path: &str, size: u64, crc32c: u32) -> ManifestFile {
        ManifestFile { path: path.into(), size, modified: 0, checksum: Some(FileChecksum::Crc32c(crc32c)) }
    }

    fn outcome(files: Vec<ManifestFile>, received: &[(&str, u64, u32)], end: u64) -> Result<(), String> {
        let wal_ranges = vec![WalRange { timeline: TimelineId::FIRST, start: Lsn::new(10), end: Lsn::new(20) }];
        let manifest = BackupManifest { system_identifier: None, files, wal_ranges };
        let sum = |(path, length, crc32c): &(&str, u64, u32)| FileSum {
            path: path.as_bytes().to_vec(),
            length: *length,
            crc32c: *crc32c,
        };
        let received = received.iter().map(sum).collect();
        compare(&manifest, received, position(10), position(end)).map_err(|error| error.to_string())
    }

    #[test]
    fn whatever_differs_is_named() {
        let both = || vec![file("a", 1, 7), file("b", 2, 8)];
        assert_eq!(outcome(both(), &[("b", 2, 8), ("a", 1, 7)], 20), Ok(()));
        for (received, end, says) in [
            (&[("a", 1, 7)][..], 20, "'b' stands in the server's manifest, and was not received"),
            (&[("a", 1, 7), ("b", 2, 8), ("c", 0, 0)], 20, "'c' was received, and does not stand"),
            (&[("a", 1, 7), ("b", 2, 8), ("a", 1, 7)], 20, "'a' was received twice"),
            (&[("a", 1, 7), ("b", 3, 8)], 20, "'b' was received with 3 bytes, the server's manifest says 2"),
            (
                &[("a", 1, 7), ("b", 2, 9)],
                20,
                "'b' was received with checksum 00000009, the server's manifest says 00000008",
            ),
            (&[("a", 1, 7), ("b", 2, 8)], 21, "stops at 0/15"),
        ] {
            let error = outcome(both(), received, end).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        let unsummed = vec![ManifestFile { checksum: None, ..file("a", 1, 7) }];
        assert!(outcome(unsummed, &[("a", 1, 7)], 20).is_err());
    }
}
