//! The loop around the decoder that callers write.

use std::ops::ControlFlow;

use super::decoder::{State, Step, WalDecoder};
use super::error::WalError;
use super::record::DecodedRecord;

/// The records in one portion of WAL.
#[derive(Debug)]
pub struct Records<'d, 'i> {
    decoder: &'d mut WalDecoder,
    input: &'i [u8],
}

impl<'d, 'i> Records<'d, 'i> {
    pub(super) const fn new(decoder: &'d mut WalDecoder, input: &'i [u8]) -> Self {
        Self { decoder, input }
    }

    /// The next record, or `None` when the portion is used up and more must be fed.
    #[inline]
    pub fn next_record(&mut self) -> Result<Option<DecodedRecord<'_>>, WalError> {
        loop {
            match self.decoder.step(&mut self.input) {
                Ok(Step::Progress) => {}
                Ok(Step::Starved) => return Ok(None),
                Ok(Step::Whole(bytes, found)) => return Ok(Some(found.record(bytes, &self.decoder.blocks))),
                Ok(Step::Assembled(found)) => {
                    return Ok(Some(found.record(&self.decoder.pending, &self.decoder.blocks)));
                }
                Err(error) => {
                    self.decoder.state = State::Failed(error.clone());
                    return Err(error);
                }
            }
        }
    }

    /// Shows every record to `visit` until it breaks off or the portion is used up. What `visit` breaks off with is
    /// returned; the decoder then stands behind that record.
    pub fn for_each_record<B>(
        &mut self,
        mut visit: impl FnMut(&DecodedRecord<'_>) -> Result<ControlFlow<B>, WalError>,
    ) -> Result<Option<B>, WalError> {
        while let Some(record) = self.next_record()? {
            if let ControlFlow::Break(found) = visit(&record)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What has not been read of the portion.
    pub const fn unread(&self) -> &[u8] {
        self.input
    }
}
