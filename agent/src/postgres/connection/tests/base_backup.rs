//! Every way in which a base backup begins, goes on and ends.

use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::SqlState;
use walkeep_proto::replication::base_backup::{ArchiveCompression, BaseBackupOptions, Checkpoint};
use walkeep_proto::version::MajorVersion;

use super::super::{BackupPart, BaseBackup, server_error};
use super::*;

type Messages<'a> = &'a [(u8, &'a [u8])];

const COPY_OUT: (u8, &[u8]) = (b'H', b"\0\0\0");
const COPY_DONE: (u8, &[u8]) = (b'c', b"");
const COLUMNS: (u8, &[u8]) = (b'T', b"\0\0");
const COMPLETE: (u8, &[u8]) = (b'C', b"SELECT\0");
const READY: (u8, &[u8]) = (b'Z', b"I");
const START: (u8, &[u8]) = (b'D', b"\0\x02\0\0\0\x090/2000028\0\0\0\x011");
const STOP: (u8, &[u8]) = (b'D', b"\0\x02\0\0\0\x090/2000100\0\0\0\x011");
/// A tablespace with OID 16385.
const TABLESPACE: (u8, &[u8]) = (b'D', b"\0\x03\0\0\0\x0516385\0\0\0\x02/x\0\0\0\x017");
/// The data directory.
const BASE: (u8, &[u8]) = (b'D', b"\0\x03\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\x019");
const BEGINNING: Messages<'_> = &[COLUMNS, START, COMPLETE, COLUMNS, TABLESPACE, BASE, COMPLETE, COPY_OUT];
const ENDING: Messages<'_> = &[COLUMNS, STOP, COMPLETE, COMPLETE, READY];
const DAMAGED: (u8, &[u8]) = (b'E', b"SERROR\0VERROR\0CXX001\0Mchecksum verification failure\0\0");
const WARNING: (u8, &[u8]) = (b'N', b"SWARNING\0VWARNING\0C01000\0Mpage 7\0\0");

/// What comes of BASE_BACKUP when the server answers like this and then goes.
async fn started(version: MajorVersion, answer: Messages<'_>) -> Result<BaseBackup> {
    let stage = Stage::new().await;
    let (connection, mut peer) = stage.session(Purpose::PhysicalReplication).await;
    let checkpoint = Checkpoint::Fast;
    let label = "x".to_owned();
    let options = BaseBackupOptions { label, checkpoint, max_rate: None, compression: None, incremental: false };
    let server = async {
        assert_eq!(peer.query().await, options.command(version));
        peer.send_all(answer).await;
        drop(peer);
    };
    let (started, ()) = tokio::join!(connection.base_backup(&options, version), server);
    started
}

/// All parts, until there are no more or something is wrong.
async fn parts(backup: &mut BaseBackup) -> Result<Vec<BackupPart>> {
    let mut parts = Vec::new();
    while let Some(part) = backup.next().await? {
        parts.push(part);
    }
    Ok(parts)
}

fn expected() -> Vec<BackupPart> {
    let data = |bytes: &'static [u8]| BackupPart::Data(bytes::Bytes::from_static(bytes));
    vec![
        BackupPart::Archive(Some(16_385), ArchiveCompression::None),
        data(b"one"),
        BackupPart::Archive(None, ArchiveCompression::None),
        data(b"two"),
        BackupPart::Manifest,
        data(b"{}"),
    ]
}

const ONE_COPY: Messages<'_> = &[
    (b'd', b"n16385.tar\0/x\0"),
    (b'd', b"done"),
    (b'd', b"p\0\0\0\0\0\0\0\x09"),
    (b'd', b"nbase.tar\0\0"),
    WARNING,
    (b'd', b"dtwo"),
    (b'd', b"m"),
    (b'd', b"d{}"),
    COPY_DONE,
];

const COPIES: Messages<'_> =
    &[(b'd', b"one"), COPY_DONE, COPY_OUT, WARNING, (b'd', b"two"), COPY_DONE, COPY_OUT, (b'd', b"{}"), COPY_DONE];

#[tokio::test]
async fn both_framings_bring_the_same() {
    for (version, data) in [(MajorVersion::V14, COPIES), (MajorVersion::V15, ONE_COPY)] {
        let mut backup = started(version, &[BEGINNING, data, ENDING].concat()).await.unwrap();
        assert_eq!((backup.start.lsn, backup.tablespaces.len()), (Lsn::new(0x200_0028), 2));
        assert_eq!(parts(&mut backup).await.unwrap(), expected(), "{version}");
        let end = backup.finish().await.unwrap();
        assert_eq!((end.position.lsn, end.damage), (Lsn::new(0x200_0100), None));
        assert_eq!(end.warnings.len(), 1, "{version}");
    }
}

#[tokio::test]
async fn a_manifest_is_uploaded_whole_or_refused() {
    let manifest: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let refusal: (u8, &[u8]) = (b'E', b"SERROR\0VERROR\0C55000\0Mno summaries\0\0");
    for (answer, refused) in [(COMPLETE, false), (refusal, true)] {
        let stage = Stage::new().await;
        let (mut connection, mut peer) = stage.session(Purpose::PhysicalReplication).await;
        let server = async {
            assert_eq!(peer.query().await, "UPLOAD_MANIFEST");
            peer.send(b'G', b"\0\0\0").await;
            let mut received = Vec::new();
            loop {
                match peer.message().await {
                    (b'd', data) => received.extend(data),
                    (tag, _) => break assert_eq!(tag, b'c'),
                }
            }
            peer.send_all(&[answer, READY]).await;
            received
        };
        let (uploaded, received) = tokio::join!(connection.upload_manifest(&manifest), server);
        assert!(received == manifest);
        assert_eq!(uploaded.is_err(), refused);
        assert!(uploaded.err().is_none_or(|error| server_error(&error).is_some()));
    }
    for answer in [refusal, COPY_OUT] {
        let stage = Stage::new().await;
        let (mut connection, mut peer) = stage.session(Purpose::PhysicalReplication).await;
        let server = async {
            peer.query().await;
            peer.send_all(&[answer, READY]).await;
        };
        let (uploaded, ()) = tokio::join!(connection.upload_manifest(&manifest), server);
        assert!(uploaded.is_err());
    }
}

#[tokio::test]
async fn damage_is_told_behind_the_last_row() {
    let ending = &[COLUMNS, STOP, DAMAGED, READY];
    let mut backup = started(MajorVersion::V15, &[BEGINNING, ONE_COPY, ending].concat()).await.unwrap();
    parts(&mut backup).await.unwrap();
    assert!(backup.finish().await.unwrap().damage.is_some());
    // Before it, nothing says that everything was sent.
    let ending = &[DAMAGED, READY];
    let mut backup = started(MajorVersion::V15, &[BEGINNING, ONE_COPY, ending].concat()).await.unwrap();
    parts(&mut backup).await.unwrap();
    let error = backup.finish().await.unwrap_err();
    assert_eq!(server_error(&error).unwrap().code(), SqlState::DATA_CORRUPTED);
}

#[tokio::test]
async fn what_ends_early_is_no_backup() {
    for (version, data) in [(MajorVersion::V14, COPIES), (MajorVersion::V15, ONE_COPY)] {
        let whole = [BEGINNING, data, ENDING].concat();
        for length in BEGINNING.len()..whole.len() {
            let mut backup = started(version, &whole[..length]).await.unwrap();
            let received = parts(&mut backup).await;
            assert!(received.is_err() || backup.finish().await.is_err(), "{version}, {length} messages");
        }
    }
}

#[tokio::test]
async fn what_comes_out_of_turn_is_refused() {
    let archive = |name: &'static [u8]| -> (u8, &'static [u8]) { (b'd', name) };
    for (data, says) in [
        (vec![archive(b"done")], "before it names an archive"),
        (vec![archive(b"nbase.tar\0\0")], "out of turn"),
        (vec![archive(b"n16386.tar\0/x\0")], "out of turn"),
        (vec![archive(b"n../16385.tar\0/x\0")], "an archive called '../16385.tar'"),
        (vec![archive(b"n16385.tar.gz\0/x\0")], "an archive called '16385.tar.gz'"),
        (vec![archive(b"m")], "a manifest behind 0 of 2 archives"),
        (vec![archive(b"n16385.tar\0/x\0"), archive(b"n16385.tar\0/x\0")], "out of turn"),
        (vec![archive(b"x")], "unknown kind"),
        (vec![READY], "inside of a base backup"),
    ] {
        let mut backup = started(MajorVersion::V15, &[BEGINNING, &data].concat()).await.unwrap();
        let error = parts(&mut backup).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    for beginning in [
        &[COLUMNS, START, COMPLETE, COLUMNS, BASE, TABLESPACE, COPY_OUT][..],
        &[COLUMNS, START, COMPLETE, COLUMNS, TABLESPACE, COPY_OUT],
        &[COPY_OUT],
        &[DAMAGED],
    ] {
        assert!(started(MajorVersion::V15, beginning).await.is_err(), "{beginning:?}");
    }
}
