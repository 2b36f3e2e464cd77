//! PostgreSQL's points in time.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in time as WAL records carry it (`TimestampTz`): microseconds since 2000-01-01 00:00:00 UTC.
///
/// Text form is RFC 3339 in UTC; PostgreSQL's two infinities and years beyond 9999 are named, not invented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PgTimestamp(i64);

/// Microseconds from 1970-01-01 to 2000-01-01.
const EPOCH_DISTANCE: i64 = 946_684_800_000_000;

impl PgTimestamp {
    /// The point `micros` microseconds after 2000-01-01 UTC.
    pub const fn new(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since 2000-01-01 UTC.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The point `micros` microseconds after 1970-01-01 UTC; saturates at the ends of the number space.
    pub const fn from_unix_micros(micros: i64) -> Self {
        Self(micros.saturating_sub(EPOCH_DISTANCE))
    }

    /// The point `seconds` seconds after 1970-01-01 UTC (PostgreSQL's `pg_time_t`); saturates.
    pub const fn from_unix_seconds(seconds: i64) -> Self {
        Self::from_unix_micros(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since 1970-01-01 UTC; saturates at the ends of the number space.
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_DISTANCE)
    }
}

impl fmt::Display for PgTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            i64::MAX => return f.write_str("infinity"),
            i64::MIN => return f.write_str("-infinity"),
            _ => {}
        }
        match jiff::Timestamp::from_microsecond(self.unix_micros()) {
            Ok(time) => time.fmt(f),
            Err(_) => write!(f, "{} microseconds from 2000-01-01T00:00:00Z", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_epoch_is_the_year_2000() {
        assert_eq!(PgTimestamp::new(0).to_string(), "2000-01-01T00:00:00Z");
        assert_eq!(PgTimestamp::new(1).to_string(), "2000-01-01T00:00:00.000001Z");
        assert_eq!(PgTimestamp::from_unix_seconds(946_684_800), PgTimestamp::new(0));
        assert_eq!(PgTimestamp::new(-1).unix_micros(), 946_684_799_999_999);
        assert_eq!(PgTimestamp::new(i64::MAX).to_string(), "infinity");
    }

    proptest! {
        #[test]
        fn every_number_has_a_text(micros: i64) {
            prop_assert!(!PgTimestamp::new(micros).to_string().is_empty());
        }
        #[test]
        fn unix_and_postgresql_time_agree(micros in -(1i64 << 60)..(1i64 << 60)) {
            prop_assert_eq!(PgTimestamp::from_unix_micros(micros).unix_micros(), micros);
        }
    }
}
