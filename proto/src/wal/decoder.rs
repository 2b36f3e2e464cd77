//! Records out of a stream of WAL bytes.
//!
//! The caller feeds consecutive bytes in any portions, across any number of segments; the decoder checks every page
//! header, every checksum and every link. It copies only records that cross a page or a portion's end.

use super::block::BlockReference;
use super::error::{EndOfWal, EndReason, WalError};
use super::page::{LONG_HEADER, LongHeader, SHORT_HEADER, WalFormat};
use super::record::{
    DecodedRecord, Fragments, MAX_RECORD, Place, RECORD_HEADER, RecordHeader, RecordProblem, ResourceManager,
};
use super::records::Records;
use super::special::RecordMeaning;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// Records begin at multiples of this (PostgreSQL's `MAXALIGN` on every supported platform).
const ALIGNMENT: u64 = 8;
/// How many bytes of a record are kept that was met or left in its middle: enough for the usual two page images.
pub const KEPT_BYTES: usize = 16 << 10;
/// Buffers larger than this are given back once their record was handed out.
const RETAINED_BUFFER: usize = 4 << 20;

/// Turns consecutive WAL bytes into records, without I/O.
///
/// Memory is bounded by the record being put together, which is never believed to be longer than what has arrived.
/// After an error the decoder repeats it.
#[derive(Debug)]
pub struct WalDecoder {
    pub(super) format: WalFormat,
    pub(super) highest_timeline: TimelineId,
    pub(super) position: Lsn,
    pub(super) boundary: Lsn,
    pub(super) state: State,
    /// The first bytes of a page header that has not arrived whole.
    pub(super) header: Vec<u8>,
    /// The record being put together, or the one just handed out.
    pub(super) pending: Vec<u8>,
    pub(super) blocks: Vec<BlockReference>,
    previous: Option<Lsn>,
    pub(super) page_timeline: Option<TimelineId>,
    pub(super) cluster: Option<LongHeader>,
    pub(super) skipped: Option<Skipped>,
    pub(super) given_up: Option<Lsn>,
}

/// The rest of a record that began before the first byte fed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Bytes that the record still needed at the first page (`xlp_rem_len`).
    pub length: u32,
    /// Those of them that have not arrived yet.
    pub missing: u32,
    /// Whether the record was given up before it was complete; nothing is missing then.
    pub given_up: bool,
    /// The bytes that have arrived, if `length` is at most [`KEPT_BYTES`].
    pub bytes: Option<Vec<u8>>,
}

/// A record that has begun and is not complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Its length, unless even that has not arrived.
    pub total_length: Option<u32>,
    /// What has arrived of it.
    pub bytes: &'a [u8],
}

#[derive(Debug)]
pub(super) enum State {
    /// Nothing was read: the first page may continue a record that is not ours.
    Fresh,
    /// A record or a page may begin.
    Boundary,
    /// Inside the record that began at `start`; `total` is 0 until its length has arrived.
    Record {
        start: Lsn,
        total: u32,
        checked: bool,
    },
    /// Inside a record that began before the first byte fed.
    Skipping,
    /// Inside padding that ends at this position.
    Padding(Lsn),
    Failed(WalError),
}

/// What one step brought.
pub(super) enum Step<'i> {
    /// No input is left.
    Starved,
    /// Go on.
    Progress,
    /// A record that lies in one piece of the input.
    Whole(&'i [u8], Found),
    /// A record that was put together in `pending`.
    Assembled(Found),
}

#[derive(Clone, Copy)]
pub(super) struct Found {
    header: RecordHeader,
    resource_manager: ResourceManager,
    fragments: Fragments,
    place: Place,
}

impl WalDecoder {
    /// A decoder whose first byte will be the one at `start`: the start of a record, of a page or of a segment.
    ///
    /// Where the first page continues an earlier record, that rest is skipped ([`WalDecoder::skipped`]). Pages may be
    /// of any timeline up to `highest_timeline`, and never of a lower one than the page before.
    pub fn new(format: WalFormat, highest_timeline: TimelineId, start: Lsn) -> Result<Self, WalError> {
        let decoder = Self {
            format,
            highest_timeline,
            position: start,
            boundary: start,
            state: State::Fresh,
            header: Vec::with_capacity(LONG_HEADER),
            pending: Vec::new(),
            blocks: Vec::new(),
            previous: None,
            page_timeline: None,
            cluster: None,
            skipped: None,
            given_up: None,
        };
        let (offset, header) = decoder.place_in_page();
        let in_header = offset > 0 && offset < header;
        // The upper half of the number space is 8 EiB of WAL away; without it no sum below can overflow.
        if in_header || !start.as_u64().is_multiple_of(ALIGNMENT) || start.as_u64() > u64::MAX / 2 {
            return Err(WalError::Start { start });
        }
        Ok(decoder)
    }

    /// Hands over the bytes at [`WalDecoder::position`]. Take the records out of the answer until there are none, and
    /// feed the bytes that follow. Where the answer is dropped earlier, feed from the new position.
    pub fn feed<'d, 'i>(&'d mut self, bytes: &'i [u8]) -> Records<'d, 'i> {
        Records::new(self, bytes)
    }

    /// Position of the next byte to feed.
    pub const fn position(&self) -> Lsn {
        self.position
    }

    /// End of the last complete record, or where reading began: WAL is proven up to here. The padding before it, behind
    /// a segment switch the rest of the segment, may not have been fed yet.
    pub const fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Start of the last complete record.
    pub const fn last_record(&self) -> Option<Lsn> {
        self.previous
    }

    /// The timeline of the last page whose header was read.
    pub const fn page_timeline(&self) -> Option<TimelineId> {
        self.page_timeline
    }

    /// What was skipped because it belongs to a record that began before the first byte fed.
    pub const fn skipped(&self) -> Option<&Skipped> {
        self.skipped.as_ref()
    }

    /// The record that has begun and is not complete.
    pub fn unfinished(&self) -> Option<Unfinished<'_>> {
        match self.state {
            State::Record { start, total, .. } => {
                let total_length = (total > 0).then_some(total);
                Some(Unfinished { start, total_length, bytes: &self.pending })
            }
            _ => None,
        }
    }

    /// Offset of the position in its page, and length of that page's header.
    #[inline]
    fn place_in_page(&self) -> (usize, usize) {
        let position = self.position.as_u64();
        let offset = position & (u64::from(self.format.block_size.bytes()) - 1);
        let in_segment = position & (u64::from(self.format.segment_size.bytes()) - 1);
        let header = if in_segment == offset { LONG_HEADER } else { SHORT_HEADER };
        // A page has at most 64 KiB.
        (offset as usize, header)
    }

    #[inline]
    pub(super) fn consume<'i>(&mut self, input: &mut &'i [u8], count: usize) -> &'i [u8] {
        let (head, tail) = input.split_at(count.min(input.len()));
        *input = tail;
        self.position = self.position.saturating_add(head.len() as u64);
        head
    }

    pub(super) fn end(&self, at: Lsn, reason: EndReason) -> WalError {
        EndOfWal { at, reason }.into()
    }

    #[inline]
    pub(super) fn step<'i>(&mut self, input: &mut &'i [u8]) -> Result<Step<'i>, WalError> {
        if input.is_empty() {
            return match &self.state {
                State::Failed(error) => Err(error.clone()),
                _ => Ok(Step::Starved),
            };
        }
        if let State::Padding(until) = self.state {
            let count = usize::try_from(until.saturating_sub(self.position)).unwrap_or(usize::MAX);
            self.consume(input, count);
            if self.position >= until {
                self.state = State::Boundary;
            }
            return Ok(Step::Progress);
        }
        let (offset, header) = self.place_in_page();
        if offset < header && !matches!(self.state, State::Failed(_)) {
            return self.read_page_header(input, header - offset, header);
        }
        let room = self.format.block_size.bytes() as usize - offset;
        match self.state {
            State::Fresh | State::Boundary => self.begin_record(input, room),
            State::Record { start, total, checked } => self.extend_record(input, room, start, total, checked),
            State::Skipping => {
                self.skip(input, room);
                Ok(Step::Progress)
            }
            State::Padding(_) => Ok(Step::Progress),
            State::Failed(ref error) => Err(error.clone()),
        }
    }

    /// The position, moved to where a record may begin.
    #[inline]
    pub(super) fn after_padding(&self) -> Lsn {
        Lsn::new(self.position.as_u64().next_multiple_of(ALIGNMENT))
    }

    #[inline]
    fn begin_record<'i>(&mut self, input: &mut &'i [u8], room: usize) -> Result<Step<'i>, WalError> {
        let start = self.position;
        let Some(length) = input.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes)) else {
            return Ok(self.gather(start, 0));
        };
        self.check_length(start, length)?;
        let bytes = length as usize;
        if bytes > room || bytes > input.len() {
            return Ok(self.gather(start, length));
        }
        let record = self.consume(input, bytes);
        let header = self.read_header(start, record)?;
        let found = self.finish_record(start, header, record)?;
        // The padding is nearly always at hand.
        if let State::Padding(until) = self.state
            && until.saturating_sub(self.position) < ALIGNMENT
        {
            let padding = until.saturating_sub(self.position) as usize;
            if self.consume(input, padding).len() == padding {
                self.state = State::Boundary;
            }
        }
        Ok(Step::Whole(record, found))
    }

    fn gather<'i>(&mut self, start: Lsn, total: u32) -> Step<'i> {
        self.pending.clear();
        self.pending.shrink_to(RETAINED_BUFFER);
        self.state = State::Record { start, total, checked: false };
        Step::Progress
    }

    fn extend_record<'i>(
        &mut self,
        input: &mut &'i [u8],
        room: usize,
        start: Lsn,
        mut total: u32,
        mut checked: bool,
    ) -> Result<Step<'i>, WalError> {
        let wanted = match (total, checked) {
            (0, _) => 4,
            (_, false) => RECORD_HEADER,
            (total, true) => total as usize,
        };
        let bytes = self.consume(input, room.min(wanted.saturating_sub(self.pending.len())));
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < wanted {
            return Ok(Step::Progress);
        }
        if total == 0 {
            total = self.pending.first_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            self.check_length(start, total)?;
        } else if !checked {
            // A false length would make us wait for up to 1 GiB; the links tell earlier.
            self.read_header(start, &self.pending)?;
            checked = true;
        }
        self.state = State::Record { start, total, checked };
        if !checked || self.pending.len() < total as usize {
            return Ok(Step::Progress);
        }
        let record = std::mem::take(&mut self.pending);
        let found = self.read_header(start, &record).and_then(|header| self.finish_record(start, header, &record));
        self.pending = record;
        found.map(Step::Assembled)
    }

    #[inline]
    fn check_length(&self, start: Lsn, length: u32) -> Result<(), WalError> {
        match length {
            0 => Err(self.end(start, EndReason::Zeroes)),
            1..24 => Err(self.end(start, EndReason::RecordLength(length))),
            _ if length > MAX_RECORD => Err(self.end(start, EndReason::RecordLength(length))),
            _ => Ok(()),
        }
    }

    #[inline]
    fn read_header(&self, start: Lsn, record: &[u8]) -> Result<RecordHeader, WalError> {
        let refuse = |reason| self.end(start, reason);
        let header = RecordHeader::parse(record).ok_or_else(|| refuse(EndReason::RecordLength(0)))?;
        let (found, id) = (header.previous, header.resource_manager);
        match self.previous {
            Some(expected) if expected != found => Err(refuse(EndReason::PreviousLink { expected, found })),
            None if found >= start => Err(refuse(EndReason::PreviousNotEarlier(found))),
            _ if ResourceManager::new(id, self.format.version).is_none() => Err(refuse(EndReason::ResourceManager(id))),
            _ => Ok(header),
        }
    }

    /// Checks a whole record, the position being behind its last byte, and moves on.
    #[inline]
    fn finish_record(&mut self, start: Lsn, header: RecordHeader, record: &[u8]) -> Result<Found, WalError> {
        let computed = RecordHeader::compute_checksum(record).unwrap_or_default();
        if computed != header.checksum {
            return Err(self.end(start, EndReason::Checksum { stored: header.checksum, computed }));
        }
        let version = self.format.version;
        let malformed = |problem| WalError::Malformed { at: start, problem };
        let resource_manager = ResourceManager::new(header.resource_manager, version)
            .ok_or_else(|| self.end(start, EndReason::ResourceManager(header.resource_manager)))?;
        let fragments = Fragments::parse(record, version, &mut self.blocks).map_err(malformed)?;
        let mut end = self.after_padding();
        let mut found = Found { header, resource_manager, fragments, place: Place { start, end, version } };
        let decoded = found.record(record, &self.blocks);
        if decoded.is_switch() {
            end = Lsn::new(end.as_u64().next_multiple_of(u64::from(self.format.segment_size.bytes())));
            found.place.end = end;
        }
        if let Some(unfinished) = self.given_up.take() {
            let named = match decoded.meaning()? {
                RecordMeaning::OverwriteContrecord { overwritten, .. } => Some(overwritten),
                _ => None,
            };
            if named != Some(unfinished) {
                return Err(malformed(RecordProblem::Overwrites { unfinished, named }));
            }
        }
        self.previous = Some(start);
        self.boundary = end;
        self.state = if end == self.position { State::Boundary } else { State::Padding(end) };
        Ok(found)
    }
}

impl Found {
    #[inline]
    pub(super) fn record<'a>(&self, bytes: &'a [u8], blocks: &'a [BlockReference]) -> DecodedRecord<'a> {
        DecodedRecord::assemble(bytes, &self.header, self.resource_manager, &self.fragments, blocks, self.place)
    }
}
