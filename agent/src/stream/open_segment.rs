//! The file of the segment that is being received.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::page::LONG_HEADER;
use walkeep_proto::wal::{SegmentHeader, WalDecoder};

use super::StreamError;

/// Bytes read at once.
const BLOCK: usize = 1 << 20;

/// An open segment. Bytes below [`OpenSegment::known_end`] were proven when the file was opened: they are compared with
/// what the server sends now, not written again.
#[derive(Debug)]
pub struct OpenSegment {
    file: File,
    path: PathBuf,
    segment: WalSegment,
    size: WalSegmentSize,
    known_end: u32,
}

impl OpenSegment {
    /// Opens a file of the spool and finds out how much of it is WAL.
    pub(super) fn open(path: PathBuf, segment: WalSegment, size: WalSegmentSize) -> Result<Self> {
        let opening = || format!("unable to open '{}'", path.display());
        let file = File::options().read(true).write(true).open(&path).with_context(opening)?;
        let length = file.metadata().with_context(opening)?.len();
        if length != u64::from(size.bytes()) {
            // Only a change of the segment size does that; what it holds is of no use.
            file.set_len(u64::from(size.bytes())).with_context(opening)?;
        }
        let mut open = Self { file, path, segment, size, known_end: 0 };
        open.known_end = open.find_end()?;
        Ok(open)
    }

    /// The segment.
    pub const fn segment(&self) -> WalSegment {
        self.segment
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset behind the last record that was whole when the file was opened.
    pub const fn known_end(&self) -> u32 {
        self.known_end
    }

    /// The position at an offset.
    pub fn lsn(&self, offset: u32) -> Lsn {
        self.segment.start(self.size).saturating_add(u64::from(offset))
    }

    /// Takes bytes in. Nothing is durable before [`OpenSegment::sync`].
    pub fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), StreamError> {
        let known = (self.known_end.saturating_sub(offset) as usize).min(bytes.len());
        let (old, new) = bytes.split_at(known);
        if !old.is_empty() {
            let here = self.read(offset, old.len())?;
            if let Some(at) = here.iter().zip(old).position(|(here, sent)| here != sent) {
                let at = self.lsn(offset.saturating_add(at as u32));
                return Err(StreamError::Diverged { segment: self.segment.file_name(self.size), at });
            }
        }
        let writing = || format!("unable to write '{}'", self.path.display());
        self.file.write_all_at(new, u64::from(offset) + known as u64).with_context(writing).map_err(StreamError::Disk)
    }

    /// Makes everything written durable. After a failure nobody knows what is on disk: the file must not be used again.
    pub fn sync(&self) -> Result<(), StreamError> {
        let syncing = || format!("unable to make '{}' durable", self.path.display());
        self.file.sync_data().with_context(syncing).map_err(StreamError::Fsync)
    }

    /// Bytes of the file.
    pub fn read(&self, offset: u32, length: usize) -> Result<Vec<u8>, StreamError> {
        let mut bytes = vec![0; length];
        let reading = || format!("unable to read '{}'", self.path.display());
        self.file.read_exact_at(&mut bytes, u64::from(offset)).with_context(reading).map_err(StreamError::Disk)?;
        Ok(bytes)
    }

    /// Decodes the file from its start: what a crash left behind the last whole record is not WAL.
    fn find_end(&self) -> Result<u32> {
        let start = self.segment.start(self.size);
        let first = self.read(0, LONG_HEADER)?;
        let Ok(header) = SegmentHeader::parse(&first) else { return Ok(0) };
        if header.check_name(self.segment).is_err() || header.segment_size != self.size {
            return Ok(0);
        }
        let Ok(mut decoder) = WalDecoder::new(header.format(), self.segment.timeline, start) else { return Ok(0) };
        let (mut offset, length, mut end) = (0, self.size.bytes() as usize, start);
        while offset < length {
            let block = BLOCK.min(length - offset);
            let bytes = self.read(u32::try_from(offset)?, block)?;
            let mut records = decoder.feed(&bytes);
            loop {
                match records.next_record() {
                    // Behind a switch there are zeros, which may not have been received: it proves nothing about them.
                    Ok(Some(record)) if record.is_switch() => return Ok(self.offset_of(end)),
                    Ok(Some(record)) => end = record.end,
                    Ok(None) => break,
                    Err(_) => return Ok(self.offset_of(end)),
                }
            }
            offset += block;
        }
        Ok(self.offset_of(end))
    }

    fn offset_of(&self, lsn: Lsn) -> u32 {
        let bytes = lsn.saturating_sub(self.segment.start(self.size));
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.size.bytes())
    }
}
