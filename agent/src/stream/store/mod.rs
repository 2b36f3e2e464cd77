//! The thread that takes streamed WAL into the repository: whole segments as they complete, the open one's tail now and
//! then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_chunkstore::wal::WalArchive;
use walkeep_chunkstore::{Error, ErrorKind};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::WalSegment;

use super::damage::{self, Fault};
use super::record::Losses;
use super::spool::{Aside, Spool, Spooled};
use super::status::{Gap, Shared};
use super::sweep::Sweep;
use crate::archive::{self, SegmentLedger};

/// Pauses after a failure.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

pub(super) struct Store<'a> {
    pub(super) spool: Arc<Spool>,
    pub(super) shared: Arc<Shared>,
    pub(super) archive: WalArchive,
    pub(super) identity: ClusterIdentity,
    pub(super) level: i32,
    pub(super) ledger: Arc<SegmentLedger>,
    pub(super) tail_interval: Duration,
    pub(super) sweep: Arc<Sweep>,
    pub(super) losses: &'a Losses,
}

/// The tail that was stored last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastTail {
    segment: WalSegment,
    end: Lsn,
}

impl Store<'_> {
    /// Works until nothing more is received, and then once more: what is durable here is stored before the agent ends.
    pub(super) fn run(&self) {
        let (mut last, mut pause) = (None, PAUSES.0);
        let mut next_tail = Instant::now();
        loop {
            let stopped = self.shared.has_received_all();
            let due = stopped || Instant::now() >= next_tail;
            match self.round(due, &mut last) {
                Ok(()) => {
                    pause = PAUSES.0;
                    self.shared.stored();
                }
                Err(error) => {
                    let text = format!("{error:#}");
                    if self.shared.failed_to_store(&text) {
                        tracing::error!("streamed WAL waits in the spool: {text}");
                    }
                    if !stopped {
                        self.shared.wait_for_stop(pause);
                        pause = (pause * 2).min(PAUSES.1);
                    }
                }
            }
            if stopped {
                return;
            }
            if due {
                next_tail = Instant::now() + self.tail_interval;
            }
            self.shared.wait_for_news(next_tail.saturating_duration_since(Instant::now()));
        }
    }

    fn round(&self, tail: bool, last: &mut Option<LastTail>) -> Result<()> {
        let contents = self.spool.contents()?;
        let (complete, open): (Vec<_>, Vec<_>) = contents.into_iter().partition(|spooled| spooled.complete);
        for (done, spooled) in complete.iter().enumerate() {
            let waiting = (complete.len() - done) as u64 * u64::from(self.spool.size().bytes());
            self.shared.update(|status| status.waiting_bytes = waiting);
            self.store(spooled)?;
        }
        self.shared.update(|status| status.waiting_bytes = 0);
        // The newest is the one that is being received; others were left, see `Attempts::let_go_of_left_segments`.
        match open.last() {
            Some(open) if tail => self.store_tail(open, last),
            _ => Ok(()),
        }
    }

    /// Stores a complete segment, which then needs neither its tails nor its file.
    fn store(&self, spooled: &Spooled) -> Result<()> {
        let size = self.spool.size();
        let name = spooled.segment.file_name(size);
        // When its last byte was written here.
        let written = std::fs::metadata(&spooled.path).and_then(|metadata| metadata.modified());
        let received = written.ok().and_then(|time| Timestamp::try_from(time).ok());
        match archive::push_known(&self.archive, &self.identity, &spooled.path, self.level, &self.ledger, None) {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => {
                // Both contents are kept, and nobody is served before people have decided: see `WalArchive`.
                tracing::error!("streamed segment {name} is refused: {error:#}");
                self.shared.failed_aside("conflict", &format!("{error:#}"));
                self.spool.set_aside(spooled, Aside::Diverged, spooled.segment.start(size))?;
                return Ok(());
            }
            Err(error) => {
                return match damage::fault_behind(&error, &spooled.path, spooled.segment, &self.identity) {
                    Some(fault) => self.put_aside(spooled, &fault),
                    None => Err(error).with_context(|| format!("unable to store streamed segment {name}")),
                };
            }
        }
        if let Ok(name) = name.parse() {
            self.ledger.streamed(name);
        }
        self.sweep.add(spooled.segment, None);
        self.spool.release(spooled)?;
        self.shared.has_stored(spooled.segment, spooled.segment.number.end(size), true, received);
        Ok(())
    }

    /// Puts a segment aside that will never be stored, so that what is behind it can be.
    fn put_aside(&self, spooled: &Spooled, fault: &Fault) -> Result<()> {
        let size = self.spool.size();
        let (segment, name) = (spooled.segment, spooled.segment.file_name(size));
        let (from, to) = (segment.start(size), segment.number.end(size));
        // `archive_command` may have brought it, whole. That has to be known before anything is said to be lost.
        let file = name.parse().with_context(|| format!("'{name}' names no segment"))?;
        let is_lost = fault.is_of_this_cluster() && !self.archive.contains(&file)?;
        // First the gap: after a crash in between the segment is met again.
        if is_lost {
            let (timeline, found, reason) = (segment.timeline, Timestamp::now(), fault.to_string());
            self.losses.add_gap(Gap { timeline, from, to, found, reason });
        }
        let kept = self.spool.set_aside(spooled, fault.aside(), from)?;
        let then = if is_lost {
            format!("WAL from {from} to {to} is lost, and a new base backup is needed")
        } else {
            "nothing is lost by that".to_owned()
        };
        let text =
            format!("streamed segment {name} cannot be stored: {fault}; it is kept as '{}': {then}", kept.display());
        self.shared.failed_aside(fault.aside().word(), &text);
        tracing::error!("{text}");
        Ok(())
    }

    /// Stores what is durable of the open segment, if that is more than before.
    fn store_tail(&self, spooled: &Spooled, last: &mut Option<LastTail>) -> Result<()> {
        let size = self.spool.size();
        let (start, limit) = (spooled.segment.start(size), spooled.segment.number.end(size));
        let status = self.shared.status();
        let (end, received) = (status.flushed_lsn, status.flushed_at);
        let is_new = last.is_none_or(|last| last.segment != spooled.segment || last.end < end);
        if !is_new || end <= start || end >= limit || status.timeline != Some(spooled.segment.timeline) {
            return Ok(());
        }
        self.push_tail(spooled, end)?;
        self.sweep.add(spooled.segment, Some(end));
        *last = Some(LastTail { segment: spooled.segment, end });
        self.shared.has_stored(spooled.segment, end, false, received);
        Ok(())
    }

    /// Stores a segment's bytes up to `end`, which must be durable in the spool.
    pub(super) fn push_tail(&self, spooled: &Spooled, end: Lsn) -> Result<()> {
        use std::io::Read;
        let reading = || format!("unable to read '{}'", spooled.path.display());
        let length = end.saturating_sub(spooled.segment.start(self.spool.size()));
        let file = std::fs::File::open(&spooled.path).with_context(reading)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length)?);
        file.take(length).read_to_end(&mut bytes).with_context(reading)?;
        self.archive.push_tail(spooled.segment, self.spool.size(), end, &bytes, self.level).with_context(|| {
            format!("unable to store the tail of segment {}", spooled.segment.file_name(self.spool.size()))
        })?;
        Ok(())
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<Error>());
    causes.any(|error| error.kind() == ErrorKind::Conflict)
}

#[cfg(test)]
mod tests;
