//! The file of the segment that is being received.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::page::{LONG_HEADER, SHORT_HEADER};
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
    storable_end: u32,
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
        let mut open = Self { file, path, segment, size, known_end: 0, storable_end: 0 };
        (open.known_end, open.storable_end) = open.find_ends()?;
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

    /// Offset up to where there is WAL that may be of use: the end of a record that began in the segment before is not
    /// proven by this segment alone, but together with that one.
    pub const fn storable_end(&self) -> u32 {
        self.storable_end
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

    /// Decodes the file from its start: what a crash left behind the last whole record is not WAL. Gives both ends.
    fn find_ends(&self) -> Result<(u32, u32)> {
        let start = self.segment.start(self.size);
        let first = self.read(0, LONG_HEADER)?;
        let Ok(header) = SegmentHeader::parse(&first) else { return Ok((0, 0)) };
        if header.check_name(self.segment).is_err() || header.segment_size != self.size {
            return Ok((0, 0));
        }
        let Ok(mut decoder) = WalDecoder::new(header.format(), self.segment.timeline, start) else {
            return Ok((0, 0));
        };
        let (mut offset, length, mut end) = (0, self.size.bytes() as usize, start);
        'file: while offset < length {
            let block = BLOCK.min(length - offset);
            let bytes = self.read(u32::try_from(offset)?, block)?;
            let mut records = decoder.feed(&bytes);
            loop {
                match records.next_record() {
                    // Behind a switch there are zeros, which may not have been received: it proves nothing about them.
                    Ok(Some(record)) if record.is_switch() => break 'file,
                    Ok(Some(record)) => end = record.end,
                    Ok(None) => break,
                    Err(_) => break 'file,
                }
            }
            offset += block;
        }
        let known = self.offset_of(end);
        let continued = match decoder.skipped() {
            Some(skipped) if skipped.missing == 0 && !skipped.given_up => {
                end_of_continuation(skipped.length, header.wal_block_size.bytes())
            }
            _ => 0,
        };
        Ok((known, known.max(continued.min(self.size.bytes()))))
    }

    fn offset_of(&self, lsn: Lsn) -> u32 {
        let bytes = lsn.saturating_sub(self.segment.start(self.size));
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.size.bytes())
    }
}

/// Offset behind the bytes of a record that began in an earlier segment: `length` of them, on pages of `page` bytes that
/// each begin with a header, the first with a long one. Records are aligned to 8 bytes (`MAXALIGN`).
fn end_of_continuation(length: u32, page: u32) -> u32 {
    let (mut offset, mut left) = (LONG_HEADER as u32, length);
    loop {
        let here = left.min(page - offset % page);
        offset += here;
        left -= here;
        if left == 0 {
            return offset.next_multiple_of(8);
        }
        offset += SHORT_HEADER as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_s_rest_ends_behind_its_pages_headers() {
        assert_eq!(end_of_continuation(8, 8192), 48);
        assert_eq!(end_of_continuation(13, 8192), 56);
        assert_eq!(end_of_continuation(8192 - 40, 8192), 8192);
        assert_eq!(end_of_continuation(8192 - 40 + 1, 8192), 8192 + 24 + 8);
        assert_eq!(end_of_continuation(2 * 8192 - 40 - 24 + 16, 8192), 2 * 8192 + 24 + 16);
    }
}
