//! Files that servers of PostgreSQL 13 to 18 wrote, read back: see `fixtures`.
//!
//! The clusters ran with settings that differ from the defaults and from each other, so that a field read from the wrong
//! place shows.

use walkeep_proto::backup_label::{BackupFrom, BackupLabel, BackupMethod};
use walkeep_proto::backup_manifest::{BackupManifest, FileChecksum, ManifestWriter};
use walkeep_proto::control_file::{
    CONTROL_FILE_BYTES, ClusterState, ControlFile, ControlFileError, RecoverySettings, WalLevel,
    with_unusable_checkpoint,
};
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::page::{PageFault, PageHeader, PageVerifier, page_checksum};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::version::MajorVersion;

/// `pg_control` of a running primary of each version, cut to 512 bytes, with its system identifier and REDO location.
const CONTROL_FILES: [(&[u8], MajorVersion, u64, &str); 6] = [
    (include_bytes!("fixtures/pg_control/13-in-production"), MajorVersion::V13, 7_710_421_220_684_651_393, "0/3B0DE00"),
    (include_bytes!("fixtures/pg_control/14-in-production"), MajorVersion::V14, 7_710_421_223_076_264_849, "0/3DEBB50"),
    (include_bytes!("fixtures/pg_control/15-in-production"), MajorVersion::V15, 7_710_421_226_605_976_480, "0/3BF6128"),
    (include_bytes!("fixtures/pg_control/16-in-production"), MajorVersion::V16, 7_710_421_229_272_669_103, "0/3BDC658"),
    (include_bytes!("fixtures/pg_control/17-in-production"), MajorVersion::V17, 7_710_421_231_782_497_214, "0/3A2F9F0"),
    (include_bytes!("fixtures/pg_control/18-in-production"), MajorVersion::V18, 7_710_421_233_966_230_477, "0/3A5EE40"),
];

#[test]
fn control_files_of_every_version_are_read() {
    for (bytes, version, system_identifier, redo) in CONTROL_FILES {
        let control = ControlFile::parse(bytes).unwrap();
        assert_eq!(control.version, version);
        assert_eq!(control.system_identifier, SystemIdentifier::new(system_identifier));
        assert_eq!(control.redo, redo.parse().unwrap());
        assert!(control.checkpoint > control.redo);
        assert_eq!(control.state, ClusterState::InProduction);
        assert_eq!((control.timeline, control.prev_timeline), (TimelineId::FIRST, TimelineId::FIRST));
        assert!(control.full_page_writes && control.wal_log_hints && control.data_checksums());
        assert_eq!((control.wal_level, control.min_recovery_timeline), (WalLevel::Logical, None));
        // All of them were made within two minutes.
        for time in [control.time, control.checkpoint_time] {
            assert!((1_795_223_380..1_795_223_500).contains(&time), "{time}");
        }
        let settings = RecoverySettings {
            max_connections: 101,
            max_worker_processes: 12,
            max_wal_senders: 13,
            max_prepared_transactions: 14,
            max_locks_per_transaction: 65,
        };
        assert_eq!(control.settings, settings);
        assert_eq!((control.block_size, control.blocks_per_segment, control.wal_block_size), (8192, 131_072, 8192));
        assert_eq!(control.wal_segment_size.bytes(), 16 << 20);
    }
}

#[test]
fn a_standbys_control_file_tells_how_far_it_must_replay() {
    let control = ControlFile::parse(include_bytes!("fixtures/pg_control/18-standby")).unwrap();
    assert_eq!(control.state, ClusterState::InArchiveRecovery);
    assert_eq!(control.min_recovery_point, "0/4000120".parse().unwrap());
    assert_eq!(control.min_recovery_timeline, Some(TimelineId::FIRST));
    assert!(!control.backup_end_required);
}

#[test]
fn every_covered_bit_of_a_control_file_counts() {
    for (bytes, ..) in CONTROL_FILES {
        // From the field behind the version numbers to the end of what all versions cover.
        for bit in 16 * 8..288 * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = ControlFile::parse(&damaged).unwrap_err();
            assert!(matches!(error, ControlFileError::ChecksumMismatch { .. }), "{error}");
        }
        assert_eq!(ControlFile::parse(&bytes[..295]), Err(ControlFileError::TooShort(295)));
    }
}

#[test]
fn an_unusable_checkpoint_changes_nothing_else() {
    for (bytes, ..) in CONTROL_FILES {
        let image = with_unusable_checkpoint(bytes).unwrap();
        assert_eq!(image.len(), CONTROL_FILE_BYTES);
        let expected = ControlFile { checkpoint: Lsn::new(0xDEAD), ..ControlFile::parse(bytes).unwrap() };
        assert_eq!(ControlFile::parse(&image), Ok(expected));
        assert_eq!(image[40..288], bytes[40..288]);
        assert!(image[296..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn manifests_are_written_as_the_server_does() {
    let manifests: [(&[u8], MajorVersion, usize); 2] = [
        (include_bytes!("fixtures/backup_manifest/16"), MajorVersion::V16, 373),
        (include_bytes!("fixtures/backup_manifest/18"), MajorVersion::V18, 371),
    ];
    for (bytes, version, files) in manifests {
        let manifest = BackupManifest::parse(bytes).unwrap();
        assert_eq!(manifest.files.len(), files);
        let cluster = manifest.system_identifier.unwrap_or(SystemIdentifier::new(0));
        let mut writer = ManifestWriter::new(Vec::new(), version, cluster).unwrap();
        for file in &manifest.files {
            let Some(FileChecksum::Crc32c(crc)) = file.checksum else { panic!("{file:?} has no CRC-32C") };
            writer.file(&file.path, file.size, file.modified, Some(crc)).unwrap();
        }
        assert_eq!(
            String::from_utf8_lossy(&writer.finish(&manifest.wal_ranges).unwrap()),
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn a_manifest_has_strange_names_and_the_checksum_of_their_content() {
    let manifest = BackupManifest::parse(include_bytes!("fixtures/backup_manifest/18")).unwrap();
    for (path, content, modified) in [
        (&b"odd\xff name"[..], &b"x"[..], Some(-2)),
        ("q\"uo\\te\t\u{1}\u{7f}é\n\r\u{8}\u{c}z".as_bytes(), b"abc", None),
    ] {
        let file = manifest.files.iter().find(|file| file.path == path).unwrap();
        assert_eq!(file.size, content.len() as u64);
        assert_eq!(file.checksum, Some(FileChecksum::Crc32c(crc32c::crc32c(content))));
        assert!(modified.is_none_or(|modified| file.modified == modified));
    }
}

#[test]
fn labels_are_read() {
    let label = BackupLabel::parse(include_bytes!("fixtures/backup_label/13")).unwrap();
    assert_eq!((label.start_wal_location, label.checkpoint_location), (Lsn::new(0x400_0028), Lsn::new(0x400_0060)));
    assert_eq!((label.backup_method, label.backup_from), (BackupMethod::Streamed, BackupFrom::Primary));
    assert_eq!(label.label, "label of 13");
    let label = BackupLabel::parse(include_bytes!("fixtures/backup_label/18-incremental")).unwrap();
    assert_eq!(label.incremental_from.unwrap().lsn, Lsn::new(0xB00_0028));
}

#[test]
fn a_page_has_the_checksum_that_the_server_gave_it() {
    let page = include_bytes!("fixtures/page-18-block-5");
    let header = PageHeader::parse(page).unwrap();
    assert_eq!((header.page_size, header.layout_version, header.is_new()), (8192, 4, false));
    assert_eq!(page_checksum(page, 5), header.checksum);
    let mut faults = Vec::new();
    PageVerifier::new().verify_pages(page, 8192, 6, &mut |index, fault| faults.push((index, fault)));
    let (stored, computed) = (header.checksum, page_checksum(page, 6));
    assert_eq!(faults, [(0, PageFault::ChecksumMismatch { stored, computed, lsn: header.lsn })]);
}
