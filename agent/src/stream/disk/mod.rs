//! The thread that writes received WAL to the spool and makes it durable.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::timeline::TimelineId;
use walkeep_proto::wal::SegmentHeader;
use walkeep_proto::wal::page::LONG_HEADER;

use super::StreamError;
use super::open_segment::OpenSegment;
use super::spool::Spool;
use super::status::Shared;

/// WAL taken from the queue before it is made durable: one sync serves all of it.
const BATCH: usize = 4 << 20;

/// Received WAL.
#[derive(Debug)]
pub(super) struct Piece {
    /// Position of its first byte.
    pub(super) start: Lsn,
    /// It.
    pub(super) bytes: Bytes,
}

/// Writes what comes in, in order.
pub(super) struct Disk {
    pub(super) spool: Arc<Spool>,
    pub(super) shared: Arc<Shared>,
    pub(super) identity: ClusterIdentity,
    pub(super) timeline: TimelineId,
    /// Position of the next byte.
    pub(super) position: Lsn,
    pub(super) open: Option<OpenSegment>,
}

impl Disk {
    /// Works until the queue ends or something fails. What `durable` shows is on disk.
    pub(super) fn run(
        mut self,
        queue: &mut mpsc::Receiver<Piece>,
        durable: &watch::Sender<Lsn>,
    ) -> Result<(), StreamError> {
        while let Some(piece) = queue.blocking_recv() {
            let mut taken = piece.bytes.len();
            self.write(&piece)?;
            while taken < BATCH
                && let Ok(more) = queue.try_recv()
            {
                taken += more.bytes.len();
                self.write(&more)?;
            }
            if let Some(open) = &self.open {
                open.sync()?;
            }
            let position = self.position;
            self.shared.update(|status| {
                status.flushed_lsn = position;
                status.flushed_at = Some(Timestamp::now());
            });
            self.shared.works();
            durable.send_replace(position);
        }
        Ok(())
    }

    fn write(&mut self, piece: &Piece) -> Result<(), StreamError> {
        if piece.start != self.position {
            let (found, expected) = (piece.start, self.position);
            return Err(StreamError::Protocol(format!("WAL from {found} follows WAL up to {expected}")));
        }
        let mut rest = piece.bytes.clone();
        while !rest.is_empty() {
            let size = self.spool.size();
            let offset = size.offset_of(self.position);
            let here = rest.split_to(rest.len().min((size.bytes() - offset) as usize));
            self.write_within(offset, &here, size)?;
        }
        Ok(())
    }

    fn write_within(&mut self, offset: u32, bytes: &[u8], size: WalSegmentSize) -> Result<(), StreamError> {
        let segment = WalSegment { timeline: self.timeline, number: size.segment_at(self.position) };
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.spool.begin(segment).map_err(StreamError::Disk)?,
        };
        if offset == 0 {
            self.check_header(bytes, segment, size)?;
        }
        open.write(offset, bytes)?;
        self.position = self.position.saturating_add(bytes.len() as u64);
        if size.offset_of(self.position) > 0 {
            self.open = Some(open);
            return Ok(());
        }
        open.sync()?;
        self.spool.complete(open).map_err(StreamError::Disk)?;
        self.shared.completed();
        Ok(())
    }

    /// The first page of a segment says whose it is. It comes whole: the server cuts messages at ends of pages or of what
    /// is flushed, and no record ends within a header.
    fn check_header(&self, bytes: &[u8], segment: WalSegment, size: WalSegmentSize) -> Result<(), StreamError> {
        let name = segment.file_name(size);
        if bytes.len() < LONG_HEADER {
            return Err(StreamError::Protocol(format!("segment {name} begins with {} bytes", bytes.len())));
        }
        let header = SegmentHeader::parse(bytes)
            .map_err(|error| StreamError::Protocol(format!("segment {name} begins with no WAL: {error}")))?;
        if header.system_identifier != self.identity.system_identifier {
            let (expected, found) = (self.identity.system_identifier, header.system_identifier);
            return Err(StreamError::WrongCluster { expected, found });
        }
        header.check_name(segment).map_err(|error| StreamError::Protocol(format!("segment {name}: {error}")))?;
        if (header.segment_size, header.version) != (size, self.identity.major) {
            return Err(StreamError::Protocol(format!(
                "segment {name} has {} bytes and is of PostgreSQL {}, the repository's cluster has {} and {}",
                header.segment_size.bytes(),
                header.version,
                size.bytes(),
                self.identity.major
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
