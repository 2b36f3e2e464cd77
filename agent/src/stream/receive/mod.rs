//! Receiving: one connection, from START_REPLICATION to its end.
//!
//! Three parties that never wait for each other: this task reads the socket, the disk thread writes and syncs, the reporter
//! task owns the socket's other half and answers the server whatever the disk does.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::{StandbyStatusUpdate, StreamMessage};
use walkeep_proto::wal::PgTimestamp;

use super::StreamError;
use super::disk::{Disk, Piece};
use super::status::Shared;
use crate::postgres::connection::{ReplicationReader, ReplicationWriter, StreamEvent};

/// Messages between the socket and the disk: at most 128 KiB each.
const QUEUE: usize = 64;
/// How soon the end of the stream is looked for.
const STOP_LOOK: Duration = Duration::from_millis(200);
/// How long the server may take to let go of a stream.
const FAREWELL: Duration = Duration::from_secs(2);

/// How often the server hears of us, and how long it may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    /// Longest pause between two reports.
    pub(super) report: Duration,
    /// Silence after which an answer is asked for; after twice as much the connection is given up.
    pub(super) silence: Duration,
}

impl Rhythm {
    /// From the server's `wal_sender_timeout`; zero is none.
    pub(super) fn of(wal_sender_timeout: Duration) -> Self {
        let timeout = if wal_sender_timeout.is_zero() { Duration::from_secs(60) } else { wal_sender_timeout };
        Self { report: (timeout / 6).clamp(Duration::from_millis(50), Duration::from_secs(10)), silence: timeout }
    }
}

/// What the reading side tells the reporter.
struct Reporting {
    /// The server wants a report now.
    wanted: Notify,
    /// The server has been silent for long: the report asks for an answer.
    ask: Notify,
    finish: Notify,
}

impl Reporting {
    fn new() -> Self {
        let (wanted, ask, finish) = (Notify::new(), Notify::new(), Notify::new());
        Self { wanted, ask, finish }
    }
}

/// Receives until the server ends the stream, the agent stops, or something fails. What was received is durable then.
pub(super) async fn receive(
    mut reader: ReplicationReader,
    writer: ReplicationWriter,
    disk: Disk,
    rhythm: Rhythm,
    shared: &Arc<Shared>,
) -> Result<Ended, StreamError> {
    let start = disk.position;
    let (pieces, mut queue) = mpsc::channel(QUEUE);
    let (durable, reported) = watch::channel(start);
    let reporting = Arc::new(Reporting::new());
    let disk = std::thread::Builder::new()
        .name("wal-disk".to_owned())
        .spawn(move || disk.run(&mut queue, &durable))
        .map_err(|error| StreamError::Disk(error.into()))?;
    let mut reporter = tokio::spawn(report(writer, reported, Arc::clone(&reporting), rhythm.report));
    let mut failed = None;
    let read = tokio::select! {
        read = read(&mut reader, pieces, &reporting, rhythm, shared) => read,
        // A server that cannot be told anything waits for us without end, and may go on sending. What has arrived is read.
        () = async {
            failed = Some((&mut reporter).await);
            tokio::time::sleep(FAREWELL).await;
        } => Ok(Ended::Stopped),
    };
    // The queue is closed now: the disk thread writes what is in it and ends. Its failure is the cause of ours.
    let written = tokio::task::spawn_blocking(move || disk.join()).await;
    reporting.finish.notify_one();
    // A server that does not read must not hold us: what it did not hear is told by the next stream's first report.
    let reported = match failed {
        Some(failed) => Ok(failed),
        None => tokio::time::timeout(FAREWELL, reporter).await,
    };
    match written {
        Ok(Ok(written)) => written?,
        _ => return Err(StreamError::Disk(anyhow::anyhow!("the thread that writes WAL died"))),
    }
    let ended = read?;
    if let Ok(Ok(Err(error))) = reported {
        // A server that ends its side is not told any more: that is its end, not ours.
        return if ended == Ended::Stopped { Err(StreamError::Connection(error)) } else { Ok(ended) };
    }
    // A farewell: whether the server hears it changes nothing, for the next attempt finds out where it is.
    if let (Ok(Ok(Ok(writer))), Ended::Timeline | Ended::Stopped) = (reported, ended) {
        let farewell = reader.finish(writer);
        if let Ok(Err(error)) = tokio::time::timeout(FAREWELL, farewell).await {
            tracing::debug!("the stream's end: {error:#}");
        }
    }
    Ok(ended)
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The server's history leaves the timeline here.
    Timeline,
    /// The server shuts down, and has sent everything.
    Shutdown,
    /// The agent stops.
    Stopped,
}

/// Reads until the stream ends.
async fn read(
    reader: &mut ReplicationReader,
    pieces: mpsc::Sender<Piece>,
    reporting: &Reporting,
    rhythm: Rhythm,
    shared: &Arc<Shared>,
) -> Result<Ended, StreamError> {
    let mut heard = Instant::now();
    let mut asked = false;
    loop {
        let message = match tokio::time::timeout(STOP_LOOK.min(rhythm.silence), reader.next()).await {
            Ok(message) => message.map_err(StreamError::Connection)?,
            Err(_) if shared.is_stopped() => return Ok(Ended::Stopped),
            // The disk thread has failed, and the server may have nothing more to send: a commit that waits for us.
            Err(_) if pieces.is_closed() => return Ok(Ended::Stopped),
            Err(_) => {
                let silent = heard.elapsed();
                if silent > rhythm.silence * 2 {
                    let text = format!("the server has said nothing for {} s", silent.as_secs());
                    return Err(StreamError::Connection(anyhow::anyhow!(text)));
                }
                if silent > rhythm.silence && !asked {
                    asked = true;
                    reporting.ask.notify_one();
                }
                continue;
            }
        };
        (heard, asked) = (Instant::now(), false);
        match message {
            StreamEvent::Message(StreamMessage::WalData { start, server_end, data, .. }) => {
                let end = start.saturating_add(data.len() as u64);
                shared.update(|status| {
                    (status.server_lsn, status.received_lsn) = (server_end, end);
                    status.received_at = Some(Timestamp::now());
                });
                if pieces.send(Piece { start, bytes: data }).await.is_err() {
                    // The disk thread has failed and says why.
                    return Ok(Ended::Stopped);
                }
            }
            StreamEvent::Message(StreamMessage::Keepalive { server_end, reply_requested, .. }) => {
                shared.heard_of(server_end);
                if reply_requested {
                    reporting.wanted.notify_one();
                }
            }
            StreamEvent::EndOfTimeline => return Ok(Ended::Timeline),
            StreamEvent::Shutdown => return Ok(Ended::Shutdown),
        }
        if shared.is_stopped() {
            return Ok(Ended::Stopped);
        }
    }
}

/// Reports when something became durable, when the server asks, and from time to time; gives the socket's half back.
async fn report(
    mut writer: ReplicationWriter,
    mut durable: watch::Receiver<Lsn>,
    reporting: Arc<Reporting>,
    every: Duration,
) -> anyhow::Result<ReplicationWriter> {
    let (mut disk_runs, mut asks, mut finishing) = (true, false, false);
    loop {
        // Written is what is durable: a commit with remote_write waits for a little more than it asks for.
        let flush = *durable.borrow_and_update();
        let at = PgTimestamp::from_unix_micros(Timestamp::now().as_microsecond());
        // Nothing is replayed here: a commit with remote_apply must not be told that it was.
        let update = StandbyStatusUpdate { write: flush, flush, apply: Lsn::INVALID, at, reply_requested: asks };
        asks = false;
        writer.send_status(&update).await?;
        if finishing {
            return Ok(writer);
        }
        tokio::select! {
            changed = durable.changed(), if disk_runs => disk_runs = changed.is_ok(),
            () = reporting.wanted.notified() => {}
            () = reporting.ask.notified() => asks = true,
            // Once more: what became durable last is reported too.
            () = reporting.finish.notified() => finishing = true,
            () = tokio::time::sleep(every) => {}
        }
    }
}

#[cfg(test)]
mod tests;
