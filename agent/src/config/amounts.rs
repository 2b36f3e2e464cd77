//! Bytes and lengths of time as people write them.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Bytes per second: a number, or one with KiB, MiB or GiB behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BytesText", into = "u64")]
pub struct ByteRate(std::num::NonZeroU64);

impl ByteRate {
    /// The number.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl From<ByteRate> for u64 {
    fn from(rate: ByteRate) -> Self {
        rate.bytes()
    }
}

impl TryFrom<BytesText> for ByteRate {
    type Error = String;

    fn try_from(rate: BytesText) -> Result<Self, String> {
        rate.above_0("/s").map(Self).ok_or_else(|| "expected bytes per second above 0, like 50MiB".to_owned())
    }
}

/// Bytes: a number, or one with KiB, MiB, GiB or TiB behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BytesText", into = "u64")]
pub struct ByteCount(std::num::NonZeroU64);

impl ByteCount {
    /// The number.
    pub fn bytes(self) -> u64 {
        self.0.get()
    }
}

impl From<ByteCount> for u64 {
    fn from(count: ByteCount) -> Self {
        count.bytes()
    }
}

impl TryFrom<BytesText> for ByteCount {
    type Error = String;

    fn try_from(count: BytesText) -> Result<Self, String> {
        count.above_0("").map(Self).ok_or_else(|| "expected bytes above 0, like 50GiB".to_owned())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum BytesText {
    Number(u64),
    Text(String),
}

impl BytesText {
    /// The number of bytes; `suffix` may stand behind the unit.
    fn above_0(&self, suffix: &str) -> Option<std::num::NonZeroU64> {
        let bytes = match self {
            Self::Number(bytes) => *bytes,
            Self::Text(text) => {
                let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let unit = unit.trim();
                let unit: u64 = match unit.strip_suffix(suffix).unwrap_or(unit) {
                    "" | "B" => 1,
                    "KiB" | "K" => 1 << 10,
                    "MiB" | "M" => 1 << 20,
                    "GiB" | "G" => 1 << 30,
                    "TiB" | "T" => 1 << 40,
                    _ => return None,
                };
                number.parse::<u64>().ok()?.checked_mul(unit)?
            }
        };
        std::num::NonZeroU64::new(bytes)
    }
}

/// A length of time like `7d` or `36h`; months and years have no length of their own. `key` is the one it stands at, with
/// its section: `[schedule] max_age`.
pub fn length_of_time(key: &str, text: &str) -> Result<Duration> {
    let length =
        text.parse::<jiff::Span>().and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()));
    let wrong = || ConfigError(format!("{key} '{text}' is no length of time: expected one like '7d'"));
    Ok(length.ok().and_then(|length| Duration::try_from(length).ok()).ok_or_else(wrong)?)
}
