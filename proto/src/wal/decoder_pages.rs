//! The decoder at page boundaries: headers, and records that go on behind them.

use super::decoder::{KEPT_BYTES, Skipped, State, Step, WalDecoder};
use super::error::{EndReason, WalError};
use super::page::{LongHeader, PageError, WalPageHeader};
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

impl WalDecoder {
    /// Takes in `missing` bytes of the header of `length` bytes that the position is in, and enters its page.
    pub(super) fn read_page_header<'i>(
        &mut self,
        input: &mut &'i [u8],
        missing: usize,
        length: usize,
    ) -> Result<Step<'i>, WalError> {
        let page = Lsn::new(self.position.as_u64() - (length - missing) as u64);
        let bytes = self.consume(input, missing);
        let parsed = if bytes.len() == length {
            WalPageHeader::parse(bytes)
        } else {
            if missing == length {
                self.header.clear();
            }
            self.header.extend_from_slice(bytes);
            if self.header.len() < length {
                return Ok(Step::Progress);
            }
            WalPageHeader::parse(&self.header)
        };
        let at = match self.state {
            State::Record { start, .. } => start,
            _ => self.boundary,
        };
        let header = parsed.map_err(|problem| match problem {
            PageError::Zeroes => self.end(at, EndReason::Zeroes),
            problem => self.end(at, EndReason::Page { page, problem }),
        })?;
        self.check_page(&header, page, length).map_err(|reason| self.end(at, reason))?;
        if let Some(long) = header.long {
            self.check_cluster(long, page)?;
        }
        self.page_timeline = Some(header.timeline);
        self.enter_page(&header, page).map_err(|reason| self.end(at, reason))?;
        Ok(Step::Progress)
    }

    fn check_page(&self, header: &WalPageHeader, page: Lsn, length: usize) -> Result<(), EndReason> {
        if header.version != self.format.version {
            let (expected, found) = (self.format.version.wal_page_magic(), header.version.wal_page_magic());
            return Err(EndReason::PageMagic { page, expected, found });
        }
        if header.address != page {
            return Err(EndReason::PageAddress { page, found: header.address });
        }
        if header.length() != length {
            return Err(EndReason::PageHeaderKind { page });
        }
        let lowest = self.page_timeline.unwrap_or(TimelineId::FIRST);
        if header.timeline < lowest || header.timeline > self.highest_timeline {
            let highest = self.highest_timeline;
            return Err(EndReason::PageTimeline { page, found: header.timeline, lowest, highest });
        }
        Ok(())
    }

    fn check_cluster(&mut self, found: LongHeader, page: Lsn) -> Result<(), WalError> {
        let expected = *self.cluster.get_or_insert(LongHeader {
            system_identifier: found.system_identifier,
            segment_size: self.format.segment_size,
            block_size: self.format.block_size,
        });
        if expected == found {
            return Ok(());
        }
        let sizes = |long: &LongHeader| (long.block_size.bytes(), long.segment_size.bytes());
        Err(WalError::Foreign {
            page,
            expected: expected.system_identifier,
            found: found.system_identifier,
            expected_sizes: sizes(&expected),
            found_sizes: sizes(&found),
        })
    }

    /// Holds the page's word on continuation against what is unfinished.
    fn enter_page(&mut self, header: &WalPageHeader, page: Lsn) -> Result<(), EndReason> {
        let found = header.remaining;
        let continues = header.flags.starts_with_continuation();
        let remaining = match self.state {
            State::Fresh if continues => {
                let bytes = (found as usize <= KEPT_BYTES).then(Vec::new);
                self.skipped = Some(Skipped { length: found, missing: found, given_up: false, bytes });
                self.state = State::Skipping;
                return Ok(());
            }
            State::Boundary if continues => return Err(EndReason::UnexpectedContinuation { page, length: found }),
            State::Record { total, .. } => total.saturating_sub(u32::try_from(self.pending.len()).unwrap_or(u32::MAX)),
            State::Skipping => self.skipped.as_ref().map_or(0, |skipped| skipped.missing),
            _ => {
                self.state = State::Boundary;
                return Ok(());
            }
        };
        if header.flags.overwrites_continuation() {
            match (&self.state, &mut self.skipped) {
                (State::Record { start, .. }, _) => self.given_up = Some(*start),
                (_, Some(skipped)) => (skipped.missing, skipped.given_up) = (0, true),
                _ => {}
            }
            self.state = State::Boundary;
            return Ok(());
        }
        if !continues {
            return Err(EndReason::ContinuationMissing { page, remaining });
        }
        if found != remaining {
            return Err(EndReason::ContinuationLength { page, remaining, found });
        }
        Ok(())
    }

    /// Passes over the rest of a record that began before the first byte fed.
    pub(super) fn skip(&mut self, input: &mut &[u8], room: usize) {
        let missing = self.skipped.as_ref().map_or(0, |skipped| skipped.missing);
        let bytes = self.consume(input, room.min(missing as usize));
        if let Some(skipped) = &mut self.skipped {
            skipped.missing -= bytes.len() as u32;
            if let Some(kept) = &mut skipped.bytes {
                kept.extend_from_slice(bytes);
            }
            if skipped.missing > 0 {
                return;
            }
        }
        self.boundary = self.after_padding();
        self.state = State::Padding(self.boundary);
    }
}
