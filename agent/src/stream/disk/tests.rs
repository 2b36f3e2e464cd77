use super::super::made_wal::{PAGE, at, bytes, identity, segment, spool};
use super::*;
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::version::MajorVersion;

/// Takes these pieces, as they would come on one connection that starts at `from`.
fn take(spool: &Spool, identity: ClusterIdentity, from: Lsn, pieces: &[(Lsn, &[u8])]) -> Result<Lsn, StreamError> {
    let (sender, mut queue) = mpsc::channel(pieces.len().max(1));
    for (start, bytes) in pieces {
        sender.try_send(Piece { start: *start, bytes: Bytes::copy_from_slice(bytes) }).unwrap();
    }
    drop(sender);
    let (spool, shared) = (Arc::new(spool.clone()), Arc::<Shared>::default());
    let disk = Disk { spool, shared, identity, timeline: TimelineId::FIRST, position: from, open: None };
    let (durable, shown) = watch::channel(from);
    disk.run(&mut queue, &durable).map(|()| *shown.borrow())
}

#[test]
fn wal_that_leaves_something_out_is_refused_wherever_it_does() {
    let (five, seven) = (bytes(segment(1, 5), b'x'), bytes(segment(1, 7), b'x'));
    let refused = |from: Lsn, pieces: &[(Lsn, &[u8])]| {
        let (_directory, spool) = spool();
        let error = take(&spool, identity(), from, pieces).expect_err("a hole");
        assert!(matches!(error, StreamError::Protocol(_)), "{error}");
    };
    // The first piece of a connection: nothing is open that could tell.
    refused(at(5, 0), &[(at(7, 0), &seven)]);
    refused(at(5, 0), &[(at(5, PAGE as u64), &five[PAGE..])]);
    // Exactly at the end of a segment: again nothing is open.
    refused(at(5, 0), &[(at(5, 0), &five), (at(7, 0), &seven)]);
    refused(at(5, 0), &[(at(5, 0), &five[..PAGE]), (at(5, 2 * PAGE as u64), &five[2 * PAGE..])]);
    // Backwards.
    refused(at(5, 0), &[(at(5, 0), &five), (at(5, 0), &five)]);
    let (_directory, spool) = spool();
    let pieces = [(at(5, 0), &five[..PAGE]), (at(5, PAGE as u64), &five[PAGE..])];
    assert_eq!(take(&spool, identity(), at(5, 0), &pieces).unwrap(), at(6, 0));
    assert!(spool.contents().unwrap()[0].complete);
}

#[test]
fn a_segment_must_be_of_the_cluster_and_of_its_place() {
    let good = bytes(segment(1, 5), b'x');
    let taken = |identity: ClusterIdentity, bytes: &[u8]| {
        let (_directory, spool) = spool();
        take(&spool, identity, at(5, 0), &[(at(5, 0), &bytes[..PAGE.min(bytes.len())])])
    };
    taken(identity(), &good).unwrap();
    let other = ClusterIdentity { system_identifier: SystemIdentifier::new(78), ..identity() };
    assert!(matches!(taken(other, &good), Err(StreamError::WrongCluster { .. })));
    let major = ClusterIdentity { major: MajorVersion::V18, ..identity() };
    let (newer, elsewhere) = (bytes(segment(2, 5), b'x'), bytes(segment(1, 6), b'x'));
    for (identity, bytes) in [
        (major, &good[..]),
        (identity(), &newer),
        (identity(), &elsewhere),
        (identity(), &[0; PAGE]),
        (identity(), b"x"),
    ] {
        let error = taken(identity, bytes).expect_err("not this cluster's segment");
        assert!(matches!(error, StreamError::Protocol(_)), "{error}");
    }
}

#[test]
fn what_is_received_again_is_compared_and_not_written_again() {
    let (_directory, spool) = spool();
    let sent = bytes(segment(1, 5), b'x');
    // Three records, and the beginning of a fourth.
    let first = &sent[..3 * PAGE + 500];
    take(&spool, identity(), at(5, 0), &[(at(5, 0), first)]).unwrap();
    assert_eq!(spool.begin(segment(1, 5)).unwrap().known_end(), 3 * PAGE as u32);
    let mut other = sent.clone();
    other[2 * PAGE + 100] ^= 1;
    let error = take(&spool, identity(), at(5, 0), &[(at(5, 0), &other)]).expect_err("other WAL");
    assert!(
        matches!(error, StreamError::Diverged { at: found, .. } if found == at(5, 2 * PAGE as u64 + 100)),
        "{error}"
    );
    let kept = spool.begin(segment(1, 5)).unwrap().read(0, first.len()).unwrap();
    assert!(kept == first, "what was received first was overwritten");
    // Behind the last whole record nothing is proven: what a crash left there is replaced.
    let mut after_crash = sent.clone();
    after_crash[3 * PAGE + 100] ^= 1;
    spool.begin(segment(1, 5)).unwrap().write(0, &after_crash[..3 * PAGE + 500]).unwrap();
    take(&spool, identity(), at(5, 0), &[(at(5, 0), &sent)]).unwrap();
    assert_eq!(spool.contents().unwrap().len(), 1);
    assert!(std::fs::read(&spool.contents().unwrap()[0].path).unwrap() == sent);
}
