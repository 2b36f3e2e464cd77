//! A cursor over the big-endian fields of one message. Every read past the end is an error that names the message.

use bytes::{Buf, Bytes};

use super::error::WireError;

/// What is left to read of one message.
#[derive(Debug)]
pub(super) struct Fields {
    message: &'static str,
    bytes: Bytes,
}

impl Fields {
    pub(super) const fn new(message: &'static str, bytes: Bytes) -> Self {
        Self { message, bytes }
    }

    pub(super) const fn malformed(&self, problem: &'static str) -> WireError {
        WireError::malformed(self.message, problem)
    }

    fn need(&self, count: usize) -> Result<(), WireError> {
        if self.bytes.len() >= count { Ok(()) } else { Err(self.malformed("it ends before its last field")) }
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    /// A byte that is 0 or 1.
    pub(super) fn flag(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("a flag is neither 0 nor 1")),
        }
    }

    /// A count of fields; PostgreSQL's counts are signed, and not negative.
    pub(super) fn count16(&mut self) -> Result<u16, WireError> {
        self.need(2)?;
        u16::try_from(self.bytes.get_i16()).map_err(|_| self.malformed("a count is negative"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, WireError> {
        self.need(2)?;
        Ok(self.bytes.get_u16())
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.need(4)?;
        Ok(self.bytes.get_i32())
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.need(8)?;
        Ok(self.bytes.get_u64())
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.need(8)?;
        Ok(self.bytes.get_i64())
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        self.need(N)?;
        let mut array = [0; N];
        self.bytes.copy_to_slice(&mut array);
        Ok(array)
    }

    pub(super) fn skip(&mut self, count: usize) -> Result<(), WireError> {
        self.need(count)?;
        self.bytes.advance(count);
        Ok(())
    }

    /// The next `count` bytes, without a copy.
    pub(super) fn take(&mut self, count: usize) -> Result<Bytes, WireError> {
        self.need(count)?;
        Ok(self.bytes.split_to(count))
    }

    /// The bytes up to the next zero byte, which is skipped.
    pub(super) fn c_string(&mut self) -> Result<Bytes, WireError> {
        let end = self.bytes.iter().position(|byte| *byte == 0);
        let end = end.ok_or_else(|| self.malformed("a text has no end"))?;
        let text = self.bytes.split_to(end);
        self.bytes.advance(1);
        Ok(text)
    }

    /// A text for people or for comparison: a server that has not yet switched to UTF-8 may send other bytes.
    pub(super) fn text(&mut self) -> Result<String, WireError> {
        Ok(String::from_utf8_lossy(&self.c_string()?).into_owned())
    }

    /// Everything that is left.
    pub(super) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The message must end here.
    pub(super) const fn finish(&self) -> Result<(), WireError> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed("bytes follow its last field")) }
    }
}
