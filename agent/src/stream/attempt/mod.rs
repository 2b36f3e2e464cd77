//! Connecting, finding out where to go on, streaming, and what follows from each way it can end.

mod connecting;
mod leftovers;
mod start;
mod timelines;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::{SqlState, command};
use walkeep_proto::segment::WalSegment;
use walkeep_proto::timeline::TimelineId;

use super::StreamError;
use super::disk::Disk;
use super::error::Pauses;
use super::receive::{Ended, Rhythm, receive};
use super::record::Losses;
use super::spool::{Aside, Spool};
use super::status::{Beginning, Shared, SlotStatus};
use super::store::Store;
use crate::config::StreamSettings;
use crate::context::Context;
use crate::postgres::connection::{ReplicationReader, ReplicationStart, ReplicationWriter, server_error};
pub(super) use connecting::answered;
use connecting::in_time;

/// How long the slot is waited for, and how often it is looked for.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
const SLOT_LOOK: Duration = Duration::from_millis(20);
/// Pause behind the end of a timeline.
const TIMELINE_PAUSE: Duration = Duration::from_millis(200);
/// A stream that worked this long went well: the next pause is short again.
const GOOD: Duration = Duration::from_secs(30);

pub(super) struct Attempts<'a> {
    pub(super) context: &'a Context,
    pub(super) settings: &'a StreamSettings,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) spool: Arc<Spool>,
    pub(super) identity: ClusterIdentity,
    pub(super) store: &'a Store<'a>,
    pub(super) losses: &'a Losses,
}

impl Attempts<'_> {
    /// Connects again and again until the stream is stopped.
    pub(super) fn run(&self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!("unable to stream WAL: {error}"),
        };
        self.store_what_was_left();
        self.work(&runtime);
        // A name may still be looked up, which nobody can interrupt.
        runtime.shutdown_background();
    }

    fn work(&self, runtime: &Runtime) {
        let mut pauses = Pauses::default();
        while !self.shared.is_stopped() {
            let mut streaming = None;
            self.wait_for_slot();
            let ended = runtime.block_on(self.attempt(&mut streaming));
            self.shared.update(|status| (status.streaming, status.since) = (false, None));
            if streaming.is_some_and(|begun| self.shared.has_worked(begun, GOOD)) {
                pauses.reset();
            }
            let error = match ended {
                // Where its history goes on is found out soon, but not in a circle.
                Ok(Ended::Timeline) => {
                    self.shared.wait_for_stop(TIMELINE_PAUSE);
                    continue;
                }
                Ok(_) => StreamError::Connection(anyhow::anyhow!("the server ended the stream")),
                Err(error) => error,
            };
            if self.shared.is_stopped() {
                return;
            }
            self.learn(&error);
            self.shared.wait_for_stop(pauses.after(&error));
        }
    }

    /// The slot comes first: what the stream starts with must not be removed meanwhile. One that cannot be had is told
    /// elsewhere, and stops nothing.
    fn wait_for_slot(&self) {
        let begun = Instant::now();
        let is_known = |slot: &SlotStatus| slot.restart_lsn.is_some() || slot.error.is_some();
        while self.settings.slot.is_some()
            && !is_known(&self.shared.status().slot)
            && begun.elapsed() < SLOT_PATIENCE
            && !self.shared.wait_for_stop(SLOT_LOOK)
        {}
    }

    /// Says what happened, once, and does what heals it.
    fn learn(&self, error: &StreamError) {
        if self.shared.failed(error) {
            tracing::warn!("{error}");
        }
        let done = match error {
            StreamError::WalRemoved { timeline, from, message } => self.give_up(*timeline, *from, message),
            StreamError::Diverged { at, .. } => self.set_aside(Aside::Diverged, *at),
            // What is on disk is not known any more: a new file, from the segment's start.
            StreamError::Fsync(_) => self.set_aside(Aside::Unsynced, self.shared.status().flushed_lsn),
            _ => Ok(()),
        };
        // Telling that the end came in between helps nobody.
        if let Err(error) = done
            && !self.shared.is_stopped()
        {
            tracing::error!("{error:#}");
        }
    }

    /// One connection. `streaming` is set when WAL begins to come.
    async fn attempt(&self, streaming: &mut Option<Instant>) -> Result<Ended, StreamError> {
        // Receiving notices the end by itself: what has come is made durable then.
        let Some(begun) = self.shared.stop.unless(self.begin()).await else { return Ok(Ended::Stopped) };
        let Begun { start, first, server, rhythm, reader, writer } = match begun? {
            Some(begun) => begun,
            // The server has switched since it was asked; it is asked again.
            None => return Ok(Ended::Timeline),
        };
        let position = start.start(self.spool.size());
        // Complete segments in the spool are held, and not in the repository yet.
        let archived = self.first_in_spool().map_err(StreamError::Disk)?.map_or(position, |first| first.min(position));
        let disk = Disk {
            spool: Arc::clone(&self.spool),
            shared: Arc::clone(self.shared),
            identity: self.identity.clone(),
            timeline: start.timeline,
            position,
            open: None,
        };
        tracing::info!("streaming from {position} on timeline {}", start.timeline);
        self.shared.began(Beginning { timeline: start.timeline, first, position, archived, server });
        *streaming = Some(Instant::now());
        let received = receive(reader, writer, disk, rhythm, self.shared).await;
        // WAL that is gone may be missed only when it is to be sent.
        received.map_err(|error| match error {
            StreamError::Connection(error) => {
                let size = self.spool.size();
                let next = WalSegment { number: size.segment_at(self.shared.status().received_lsn), ..start };
                removed_or(error, &next.file_name(size), start.timeline, next.start(size))
            }
            other => other,
        })
    }

    /// From nothing to a stream; `None` if the server's history goes on elsewhere.
    async fn begin(&self) -> Result<Option<Begun>, StreamError> {
        let mut connection = self.connect().await?;
        let server = self.identify(&mut connection).await?;
        let rhythm = self.rhythm(&mut connection).await?;
        let history = self.store_histories(&mut connection, &server).await?;
        let held = aside(|| self.held()).map_err(StreamError::Repository)?;
        self.note_side_branches(&history, &held);
        let start = self.start(&history, &server, &held)?;
        aside(|| self.let_go_of_left_segments(start))?;
        let position = start.start(self.spool.size());
        let query = command::start_replication(position, start.timeline);
        let refused = |error| removed_or(error, &start.file_name(self.spool.size()), start.timeline, position);
        Ok(match in_time(connection.start_replication(&query)).await?.map_err(refused)? {
            ReplicationStart::Streaming(reader, writer) => {
                let begins = history.start_of(start.timeline).unwrap_or(Lsn::INVALID);
                let first = self.spool.size().segment_at(begins).start(self.spool.size());
                Some(Begun { start, first, server: server.position, rhythm, reader, writer })
            }
            ReplicationStart::EndOfTimeline { .. } => None,
        })
    }
}

/// A stream that has begun.
struct Begun {
    start: WalSegment,
    /// The start of the timeline's first segment.
    first: Lsn,
    /// Where the server is.
    server: Lsn,
    rhythm: Rhythm,
    reader: ReplicationReader,
    writer: ReplicationWriter,
}

/// Does work that may ask a bucket, whose driver waits on a runtime of its own: not within this one. Before the stream
/// begins nothing else is to be done meanwhile.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// WAL that is gone: the server names the segment, under one of two codes (`CheckXLogRemoved`, `WalSndSegmentOpen`), in the
/// language of its messages.
fn removed_or(error: anyhow::Error, segment: &str, timeline: TimelineId, from: Lsn) -> StreamError {
    match server_error(&error) {
        Some(server)
            if matches!(server.code(), SqlState::UNDEFINED_FILE | SqlState::INTERNAL_ERROR)
                && server.0.message.contains(segment) =>
        {
            StreamError::WalRemoved { timeline, from, message: server.0.message.clone() }
        }
        _ => StreamError::of_connection(error),
    }
}
