//! What earlier attempts left in the spool, and what is lost.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;

use super::super::spool::{Aside, Spooled};
use super::super::status::Gap;
use super::super::{CURRENT_LSN, StreamError, session};
use super::Attempts;
use crate::postgres::Session;

impl Attempts<'_> {
    /// Open segments of an earlier life of this agent: what is durable of them goes into the repository before anything
    /// else, for the server may be gone for ever.
    pub(super) fn store_what_was_left(&self) {
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
        self.shared.has_stored(spooled.segment, end, false, Some(Timestamp::now()));
        Ok(())
    }

    /// Open segments other than the one that is streamed next will not be continued: their tails in the repository stay.
    pub(super) fn let_go_of_left_segments(&self, start: WalSegment) -> Result<(), StreamError> {
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
    pub(super) fn give_up(&self, timeline: TimelineId, from: Lsn, message: &str) -> Result<()> {
        let size = self.spool.size();
        let session = session(self.context, self.shared)?;
        let oldest = oldest_segment(&session, size).context("unable to find out what WAL the server has")?;
        let next = oldest.max(size.segment_at(from).next());
        let to = next.start(size);
        let gap = Gap { timeline, from, to, found: Timestamp::now(), reason: message.to_owned() };
        if self.losses.add_gap(gap) {
            tracing::error!(
                "WAL from {from} to {to} on timeline {timeline} is lost: no time in between can be restored, and a new base \
                 backup is needed"
            );
        }
        Ok(())
    }

    /// Puts the open segments' files aside; they are received again.
    pub(super) fn set_aside(&self, why: Aside, at: Lsn) -> Result<()> {
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
fn oldest_segment(session: &Session, size: WalSegmentSize) -> Result<SegmentNumber> {
    let listed =
        session.value("SELECT coalesce(min(substr(name, 9)), '') FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$'");
    let named = listed.ok().and_then(|name| WalSegment::from_file_name(&format!("00000001{name}"), size));
    if let Some(segment) = named {
        return Ok(segment.number);
    }
    Ok(size.segment_at(session.value(&format!("SELECT {CURRENT_LSN}"))?.parse()?))
}
