use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::net::{UnixListener, UnixStream};
use walkeep_proto::replication::StandbyStatusUpdate;

use super::super::made_wal::{PAGE, at, bytes, identity, segment, spool};
use super::*;
use crate::postgres::connection::tests::Peer;
use crate::postgres::connection::{Connection, Purpose, ReplicationStart};
use crate::postgres::conninfo::{Conninfo, Environment};
use walkeep_proto::timeline::TimelineId;

/// A pause that no test waits for.
const NEVER: Duration = Duration::from_secs(3600);
/// The longest that anything may take before the test has failed.
const LONG: Duration = Duration::from_secs(30);

/// A stream that a played server has begun, at the start of segment 5.
struct Stage {
    _directory: tempfile::TempDir,
    reader: ReplicationReader,
    writer: ReplicationWriter,
    server: Server,
    disk: Disk,
    shared: Arc<Shared>,
}

struct Server(Peer<UnixStream>);

impl Server {
    /// The next report.
    async fn report(&mut self) -> (Lsn, bool) {
        let (tag, payload) = self.0.message().await;
        assert_eq!((tag, payload.len(), payload[0]), (b'd', StandbyStatusUpdate::LENGTH, b'r'));
        let number = |range: std::ops::Range<usize>| u64::from_be_bytes(payload[range].try_into().unwrap());
        assert_eq!(number(17..25), 0, "nothing is ever replayed");
        assert_eq!(number(1..9), number(9..17), "written is what is durable");
        (Lsn::new(number(9..17)), payload[33] == 1)
    }

    async fn keepalive(&mut self, reply: bool) {
        let payload = [&b"k"[..], &at(5, 0).as_u64().to_be_bytes(), &[0; 8], &[u8::from(reply)]].concat();
        self.0.send(b'd', &payload).await;
    }

    async fn wal(&mut self, start: Lsn, bytes: &[u8]) {
        let payload = [&b"w"[..], &start.as_u64().to_be_bytes(), &at(6, 0).as_u64().to_be_bytes(), &[0; 8], bytes];
        self.0.send(b'd', &payload.concat()).await;
    }
}

async fn stage() -> Stage {
    let (directory, spool) = spool();
    let listener = UnixListener::bind(directory.path().join(".s.PGSQL.5432")).unwrap();
    let text = format!("host={} port=5432 user=u dbname=d", directory.path().display());
    let conninfo = Conninfo::resolve_in(&text, &Environment::default()).unwrap();
    let client = async {
        let connection = Connection::connect(&conninfo, Purpose::PhysicalReplication).await.unwrap();
        match connection.start_replication("START_REPLICATION").await.unwrap() {
            ReplicationStart::Streaming(reader, writer) => (reader, writer),
            ReplicationStart::EndOfTimeline { .. } => panic!("no stream"),
        }
    };
    let server = async {
        let mut peer = Peer { stream: listener.accept().await.unwrap().0 };
        peer.startup().await;
        peer.let_in().await;
        peer.query().await;
        peer.send(b'W', b"\0\0\0").await;
        Server(peer)
    };
    let ((reader, writer), server) = tokio::join!(client, server);
    let shared = Arc::<Shared>::default();
    let disk = Disk {
        spool: Arc::new(spool),
        shared: Arc::clone(&shared),
        identity: identity(),
        timeline: TimelineId::FIRST,
        position: at(5, 0),
        open: None,
    };
    Stage { _directory: directory, reader, writer, server, disk, shared }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("it ends")
}

#[tokio::test]
async fn a_report_waits_for_no_disk() {
    let Stage { writer, mut server, .. } = stage().await;
    // Nothing becomes durable, ever.
    let (_durable, reported) = watch::channel(at(5, 0));
    let reporting = Arc::new(Reporting::new());
    let told = tokio::spawn(report(writer, reported, Arc::clone(&reporting), NEVER));
    in_time(async {
        assert_eq!(server.report().await, (at(5, 0), false), "the first comes by itself");
        reporting.wanted.notify_one();
        assert_eq!(server.report().await, (at(5, 0), false));
        reporting.ask.notify_one();
        assert_eq!(server.report().await, (at(5, 0), true));
        reporting.finish.notify_one();
        assert_eq!(server.report().await, (at(5, 0), false));
        told.await.unwrap().unwrap();
    })
    .await;
    let Stage { writer, mut server, .. } = stage().await;
    let reporting = Arc::new(Reporting::new());
    let told = tokio::spawn(report(writer, watch::channel(at(5, 0)).1, reporting, Duration::from_millis(1)));
    in_time(async {
        for _ in 0..5 {
            assert_eq!(server.report().await, (at(5, 0), false), "and from time to time");
        }
    })
    .await;
    told.abort();
}

#[tokio::test]
async fn what_became_durable_last_is_reported_before_the_end() {
    let Stage { _directory, reader, writer, mut server, disk, shared } = stage().await;
    let sent = bytes(segment(1, 5), b'x');
    let rhythm = Rhythm { report: NEVER, silence: NEVER };
    let server = async {
        for page in 0..sent.len() / PAGE {
            server.wal(at(5, (page * PAGE) as u64), &sent[page * PAGE..][..PAGE]).await;
        }
        server.0.send(b'c', b"").await;
        let mut flushed = at(5, 0);
        loop {
            let (now, _) = server.report().await;
            assert!(now >= flushed && now <= at(6, 0), "{now} behind {flushed}");
            flushed = now;
            if flushed == at(6, 0) {
                break;
            }
        }
        server.0.send_all(&[(b'C', b"x\0"), (b'C', b"x\0"), (b'Z', b"I")]).await;
    };
    let (ended, ()) = in_time(async { tokio::join!(receive(reader, writer, disk, rhythm, &shared), server) }).await;
    assert_eq!(ended.unwrap(), Ended::Timeline);
    assert_eq!(shared.status().flushed_lsn, at(6, 0));
}

#[tokio::test]
async fn a_silent_server_is_asked_and_kept_while_it_answers() {
    let Stage { _directory, reader, writer, mut server, disk, shared } = stage().await;
    let rhythm = Rhythm { report: NEVER, silence: Duration::from_millis(50) };
    let server = async {
        assert_eq!(server.report().await, (at(5, 0), false));
        for _ in 0..3 {
            assert_eq!(server.report().await, (at(5, 0), true), "asked");
            server.keepalive(false).await;
        }
        assert_eq!(server.report().await, (at(5, 0), true), "asked once more, and now it says nothing");
        server
    };
    let (ended, _server) =
        in_time(async { tokio::join!(receive(reader, writer, disk, rhythm, &shared), server) }).await;
    let error = ended.expect_err("nobody is there");
    assert!(matches!(error, StreamError::Connection(_)), "{error}");
    assert!(error.to_string().contains("said nothing"), "{error}");
}

#[tokio::test]
async fn a_server_that_cannot_be_told_anything_is_left() {
    let Stage { _directory, reader, writer, mut server, disk, shared } = stage().await;
    let rhythm = Rhythm { report: Duration::from_millis(10), silence: NEVER };
    // It sends, and takes nothing in: a write fails, while reading goes on.
    let owned = std::os::fd::AsFd::as_fd(&server.0.stream).try_clone_to_owned().unwrap();
    StdUnixStream::from(owned).shutdown(std::net::Shutdown::Read).unwrap();
    let ended = in_time(async {
        tokio::select! {
            ended = receive(reader, writer, disk, rhythm, &shared) => ended,
            () = async { loop {
                server.keepalive(true).await;
                tokio::task::yield_now().await;
            } } => unreachable!(),
        }
    })
    .await;
    let error = ended.expect_err("no report arrives");
    assert!(matches!(error, StreamError::Connection(_)), "{error}");
}

#[test]
fn the_rhythm_is_the_servers() {
    let of = |seconds| Rhythm::of(Duration::from_secs(seconds));
    assert_eq!((of(60).report, of(60).silence), (Duration::from_secs(10), Duration::from_secs(60)));
    assert!(of(1).report < Duration::from_millis(500), "the server asks after half of its patience");
    // A server without patience limits nothing, and a quiet one is healthy: silence is still asked about.
    assert_eq!((of(0).report, of(0).silence), (of(60).report, of(60).silence));
    assert!(of(86_400).report <= Duration::from_secs(10));
}
