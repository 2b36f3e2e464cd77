//! Connecting, finding out where to go on, streaming, and what follows from each way it can end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::{SqlState, SystemIdentification, command};
use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::disk::Disk;
use super::error::Pauses;
use super::receive::{Ended, Rhythm, receive};
use super::record::Record;
use super::resume::{Situation, left_behind};
use super::spool::{Aside, Spool, Spooled};
use super::status::{Gap, Shared, SideBranch, SlotStatus};
use super::store::Store;
use super::{CURRENT_LSN, StreamError};
use crate::config::StreamSettings;
use crate::context::Context;
use crate::postgres::Session;
use crate::postgres::connection::{Connection, Purpose, ReplicationStart, server_error};
use crate::postgres::conninfo::Conninfo;
use crate::{archive, backup};

/// How long the slot is waited for, and how often it is looked for.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
const SLOT_LOOK: Duration = Duration::from_millis(20);
/// Pause behind the end of a timeline.
const TIMELINE_PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for the answer to a command; streams have a rhythm of their own.
const ANSWER: Duration = Duration::from_secs(60);
/// A stream that lasted this long went well: the next pause is short again.
const GOOD: Duration = Duration::from_secs(30);

pub(super) struct Attempts<'a> {
    pub(super) context: &'a Context,
    pub(super) settings: &'a StreamSettings,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) spool: Arc<Spool>,
    pub(super) identity: ClusterIdentity,
    pub(super) store: &'a Store,
}

impl Attempts<'_> {
    /// Connects again and again until the stream is stopped.
    pub(super) fn run(&self) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return tracing::error!("unable to stream WAL: {error}"),
        };
        let directory = super::directory(self.context);
        let mut record = Record::load(&directory);
        self.publish(&record);
        self.store_what_was_left();
        let mut pauses = Pauses::default();
        while !self.shared.is_stopped() {
            let mut streaming = None;
            self.wait_for_slot();
            let ended = runtime.block_on(self.attempt(&mut record, &mut streaming));
            self.shared.update(|status| (status.streaming, status.since) = (false, None));
            // From the first report on: a server that takes long to fail is not well.
            if streaming.is_some_and(|since: Instant| since.elapsed() > GOOD) {
                pauses.reset();
                self.shared.recovered();
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
            self.learn(&error, &mut record);
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

    fn publish(&self, record: &Record) {
        let (gaps, side_branches) = (record.gaps.clone(), record.side_branches.clone());
        self.shared.update(|status| (status.gaps, status.side_branches) = (gaps, side_branches));
    }

    fn save(&self, record: &Record) {
        self.publish(record);
        if let Err(error) = record.save(&super::directory(self.context)) {
            tracing::warn!("{error:#}");
        }
    }

    /// Says what happened, once, and does what heals it.
    fn learn(&self, error: &StreamError, record: &mut Record) {
        if self.shared.failed(error.kind(), error.to_string()) {
            tracing::warn!("{error}");
        }
        let done = match error {
            StreamError::WalRemoved { timeline, from, message } => self.give_up(*timeline, *from, message, record),
            StreamError::Diverged { at, .. } => self.set_aside(Aside::Diverged, *at),
            // What is on disk is not known any more: a new file, from the segment's start.
            StreamError::Fsync(_) => self.set_aside(Aside::Unsynced, self.shared.status().flushed_lsn),
            _ => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!("{error:#}");
        }
    }

    /// One connection. `streaming` is set when WAL begins to come.
    async fn attempt(&self, record: &mut Record, streaming: &mut Option<Instant>) -> Result<Ended, StreamError> {
        let mut connection = self.connect().await?;
        let server = self.identify(&mut connection).await?;
        let rhythm = self.rhythm(&mut connection).await?;
        let history = self.store_histories(&mut connection, &server).await?;
        let held = aside(|| self.held()).map_err(StreamError::Repository)?;
        self.note_side_branches(&history, &held, record);
        let start = self.start(&history, &server, &held, record)?;
        aside(|| self.let_go_of_left_segments(start))?;
        let position = start.start(self.spool.size());
        // Complete segments in the spool are held, and not in the repository yet.
        let archived = self.first_in_spool().map_err(StreamError::Disk)?.map_or(position, |first| first.min(position));
        let query = command::start_replication(position, start.timeline);
        let refused = |error| removed_or(error, &start.file_name(self.spool.size()), start.timeline, position);
        let started = tokio::time::timeout(ANSWER, connection.start_replication(&query)).await;
        let (reader, writer) = match started.map_err(|_| silent())?.map_err(refused)? {
            ReplicationStart::Streaming(reader, writer) => (reader, writer),
            // The server has switched since it was asked; it is asked again.
            ReplicationStart::EndOfTimeline { .. } => return Ok(Ended::Timeline),
        };
        let disk = Disk {
            spool: Arc::clone(&self.spool),
            shared: Arc::clone(self.shared),
            identity: self.identity.clone(),
            timeline: start.timeline,
            position,
            open: None,
        };
        tracing::info!("streaming from {position} on timeline {}", start.timeline);
        self.shared.update(|status| {
            (status.streaming, status.since, status.error) = (true, Some(Timestamp::now()), None);
            (status.timeline, status.server_lsn) = (Some(start.timeline), server.position);
            (status.received_lsn, status.flushed_lsn) = (position, position);
            status.archived_lsn = archived;
            status.stored_lsn = status.stored_lsn.max(archived);
        });
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

    async fn connect(&self) -> Result<Connection, StreamError> {
        let text = self.context.config.conninfo().map_err(StreamError::Connection)?;
        let mut conninfo = Conninfo::resolve(&text).map_err(|error| StreamError::Refused(error.into()))?;
        conninfo.application_name = Some(self.settings.application_name.clone());
        Connection::connect(&conninfo, Purpose::PhysicalReplication).await.map_err(connection_error)
    }

    /// Who answers, and whether it may be listened to.
    async fn identify(&self, connection: &mut Connection) -> Result<SystemIdentification, StreamError> {
        let server = answered(connection.identify_system()).await?;
        if server.system_identifier != self.identity.system_identifier {
            let (expected, found) = (self.identity.system_identifier, server.system_identifier);
            return Err(StreamError::WrongCluster { expected, found });
        }
        if !self.settings.standby && self.is_standby(connection).await? {
            return Err(StreamError::Standby);
        }
        Ok(server)
    }

    async fn is_standby(&self, connection: &mut Connection) -> Result<bool, StreamError> {
        let told = connection.parameter("in_hot_standby").map(|value| value == "on");
        match told {
            Some(standby) => Ok(standby),
            // 13 does not tell; a standby's sessions are read-only there too.
            None => Ok(answered(connection.show("transaction_read_only")).await? == "on"),
        }
    }

    async fn rhythm(&self, connection: &mut Connection) -> Result<Rhythm, StreamError> {
        let text = answered(connection.show("wal_sender_timeout")).await?;
        let timeout =
            parse_setting(&text).ok_or_else(|| StreamError::Protocol(format!("wal_sender_timeout is '{text}'")))?;
        Ok(Rhythm::of(timeout))
    }

    /// Brings the history files of the server's timeline and of all its ancestors into the repository: recovery needs them
    /// before any segment of theirs.
    async fn store_histories(
        &self,
        connection: &mut Connection,
        server: &SystemIdentification,
    ) -> Result<TimelineHistory, StreamError> {
        if server.timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::without_ancestors(TimelineId::FIRST));
        }
        let newest = self.store_history(connection, server.timeline).await?;
        for switch in newest.switches().iter().filter(|switch| switch.parent != TimelineId::FIRST) {
            self.store_history(connection, switch.parent).await?;
        }
        Ok(newest)
    }

    async fn store_history(
        &self,
        connection: &mut Connection,
        timeline: TimelineId,
    ) -> Result<TimelineHistory, StreamError> {
        let file = WalFileName::History(timeline);
        let archive = self.context.archive();
        let stored = aside(|| archive.history(timeline));
        if let Some(history) = stored.map_err(|error| StreamError::Repository(error.into()))? {
            return Ok(history);
        }
        let told = answered(connection.timeline_history(timeline)).await?;
        let told = told.ok_or_else(|| StreamError::Protocol(format!("the server has no {file}")))?;
        let level = self.context.config.compression.level;
        let pushed = aside(|| archive::push_history_text(&archive, timeline, &told.content, level));
        pushed.map(|(_, history)| history).map_err(StreamError::Repository)
    }

    /// Where the first complete segment begins that waits in the spool.
    fn first_in_spool(&self) -> Result<Option<Lsn>> {
        let mut waiting = self.spool.contents()?.into_iter().filter(|spooled| spooled.complete);
        Ok(waiting.next().map(|spooled| spooled.segment.start(self.spool.size())))
    }

    /// Complete segments in the repository and in the spool.
    fn held(&self) -> Result<BTreeSet<WalSegment>> {
        let inventory = self.context.archive().inventory(self.spool.size())?;
        let mut held: BTreeSet<_> = inventory.segments.into_keys().collect();
        held.extend(self.spool.contents()?.into_iter().filter(|spooled| spooled.complete).map(|s| s.segment));
        Ok(held)
    }

    fn start(
        &self,
        history: &TimelineHistory,
        server: &SystemIdentification,
        held: &BTreeSet<WalSegment>,
        record: &Record,
    ) -> Result<WalSegment, StreamError> {
        let situation = Situation {
            history,
            size: self.spool.size(),
            server: server.position,
            held,
            lost: &record.lost(self.spool.size()),
            wanted: aside(|| self.newest_backup(history)).map_err(StreamError::Repository)?,
            retained: self.shared.status().slot.restart_lsn,
        };
        situation.start().map(|start| start.segment)
    }

    /// Where the newest backup on this way begins.
    fn newest_backup(&self, history: &TimelineHistory) -> Result<Option<Lsn>> {
        let backups = self.context.repository.backups(&self.context.layout)?;
        let readable = backups.into_iter().filter_map(|listed| listed.manifest.ok());
        let (cluster, size) = (self.identity.system_identifier, self.spool.size());
        let on_way = readable.filter(|backup| backup.lies_on(history, cluster, size));
        Ok(on_way.map(|backup| backup.start_lsn).max())
    }

    /// Commits that were received on a timeline which the server's history leaves before them.
    fn note_side_branches(&self, history: &TimelineHistory, held: &BTreeSet<WalSegment>, record: &mut Record) {
        let size = self.spool.size();
        let open = self.spool.contents().unwrap_or_default().into_iter().filter(|spooled| !spooled.complete);
        let ends = open.filter_map(|spooled| {
            let open = self.spool.begin(spooled.segment).ok()?;
            Some((spooled.segment.timeline, open.lsn(open.known_end())))
        });
        let whole = held.iter().map(|segment| (segment.timeline, segment.number.end(size)));
        let mut newest: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        for (timeline, end) in whole.chain(ends) {
            let known = newest.entry(timeline).or_default();
            *known = end.max(*known);
        }
        let mut changed = false;
        for (timeline, held_up_to) in newest {
            let Some(left_at) = left_behind(history, timeline, held_up_to) else { continue };
            let branch = SideBranch { timeline, left_at, held_up_to, found: Timestamp::now() };
            if record.add_side_branch(branch) {
                changed = true;
                tracing::error!(
                    "the server left timeline {timeline} at {left_at}, and WAL up to {held_up_to} is here: commits in \
                     between are in the repository and not in the server"
                );
            }
        }
        if changed {
            self.save(record);
        }
    }

    /// Open segments of an earlier life of this agent: what is durable of them goes into the repository before anything
    /// else, for the server may be gone for ever.
    fn store_what_was_left(&self) {
        for spooled in self.spool.contents().unwrap_or_default().into_iter().filter(|spooled| !spooled.complete) {
            if let Err(error) = self.store_open(&spooled) {
                tracing::warn!("{error:#}");
            }
        }
    }

    fn store_open(&self, spooled: &Spooled) -> Result<()> {
        let open = self.spool.begin(spooled.segment)?;
        let end = open.lsn(open.storable_end());
        if end == spooled.segment.start(self.spool.size()) {
            return Ok(());
        }
        self.store.push_tail(spooled, end)?;
        self.shared.update(|status| {
            if end > status.stored_lsn {
                (status.stored_lsn, status.stored_at) = (end, Some(Timestamp::now()));
            }
        });
        Ok(())
    }

    /// Open segments other than the one that is streamed next will not be continued: their tails in the repository stay.
    fn let_go_of_left_segments(&self, start: WalSegment) -> Result<(), StreamError> {
        let settle = || -> Result<()> {
            for spooled in self.spool.contents()? {
                if !spooled.complete && spooled.segment != start {
                    self.store_open(&spooled)?;
                    self.spool.remove(&spooled.path)?;
                }
            }
            Ok(())
        };
        settle().map_err(StreamError::Repository)
    }

    /// The server has no WAL from `from` on: what is missing up to the oldest that it has is lost.
    fn give_up(&self, timeline: TimelineId, from: Lsn, message: &str, record: &mut Record) -> Result<()> {
        let size = self.spool.size();
        let session = backup::connect(self.context)?;
        let oldest = oldest_segment(&session, size).context("unable to find out what WAL the server has")?;
        let next = oldest.max(size.segment_at(from).next());
        let to = next.start(size);
        let gap = Gap { timeline, from, to, found: Timestamp::now(), reason: message.to_owned() };
        if record.add_gap(gap) {
            tracing::error!(
                "WAL from {from} to {to} on timeline {timeline} is lost: no time in between can be restored, and a new base \
                 backup is needed"
            );
        }
        self.save(record);
        Ok(())
    }

    /// Puts the open segments' files aside; they are received again.
    fn set_aside(&self, why: Aside, at: Lsn) -> Result<()> {
        for spooled in self.spool.contents()?.into_iter().filter(|spooled| !spooled.complete) {
            let kept = self.spool.set_aside(&spooled, why, at)?;
            tracing::error!(
                "what was received of segment {} is kept as '{}'",
                spooled.segment.file_name(self.spool.size()),
                kept.display()
            );
        }
        Ok(())
    }
}

/// The oldest segment in the server's `pg_wal`, or the one it writes where that cannot be listed.
fn oldest_segment(session: &Session, size: walkeep_proto::segment::WalSegmentSize) -> Result<SegmentNumber> {
    let listed =
        session.value("SELECT coalesce(min(substr(name, 9)), '') FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'");
    let named = listed.ok().and_then(|name| WalSegment::from_file_name(&format!("00000001{name}"), size));
    if let Some(segment) = named {
        return Ok(segment.number);
    }
    Ok(size.segment_at(session.value(&format!("SELECT {CURRENT_LSN}"))?.parse()?))
}

/// Does work that may ask a bucket, whose driver waits on a runtime of its own: not within this one. Before the stream
/// begins nothing else is to be done meanwhile.
fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// The answer to a command, which must come in time.
async fn answered<T>(answer: impl Future<Output = Result<T>>) -> Result<T, StreamError> {
    tokio::time::timeout(ANSWER, answer).await.map_err(|_| silent())?.map_err(connection_error)
}

fn silent() -> StreamError {
    StreamError::Connection(anyhow::anyhow!("the server has not answered for {} s", ANSWER.as_secs()))
}

/// What the server said is a refusal, unless it is about to stop or has just started: that passes.
fn connection_error(error: anyhow::Error) -> StreamError {
    let passes = server_error(&error).is_none_or(|server| server.code().as_str().starts_with("57P"));
    if passes { StreamError::Connection(error) } else { StreamError::Refused(error) }
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
        _ => connection_error(error),
    }
}

/// A length of time as PostgreSQL shows it: `60s`, `1min`, `500ms`, `0`.
fn parse_setting(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let milliseconds = match &text[end..] {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}
