//! What a restore is to end at, and how users write it.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, Zoned};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::wal::PgTimestamp;
use walkeep_proto::wal::record::TransactionId;

/// The point at which recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryTarget {
    /// The end of the archived WAL.
    Latest,
    /// As soon as the backup is consistent.
    Immediate,
    /// Everything that was committed by then.
    Time(PgTimestamp),
    /// A position.
    Lsn(Lsn),
    /// The end of a transaction.
    Transaction(TransactionId),
    /// A restore point.
    Name(String),
}

impl fmt::Display for RecoveryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
            Self::Time(time) => write!(f, "time {}", Instant(*time)),
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Transaction(xid) => write!(f, "transaction {xid}"),
            Self::Name(name) => write!(f, "restore point '{name}'"),
        }
    }
}

/// A target time as the user wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetTime {
    /// The instant it means.
    pub instant: PgTimestamp,
    /// Whether no offset was given and UTC was assumed.
    pub assumed_utc: bool,
}

/// The text is no target time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no target time: {problem}")]
pub struct ParseTimeError {
    text: String,
    problem: String,
}

const FORM: &str = "expected YYYY-MM-DD HH:MM:SS[.ffffff] with an offset such as Z, +02 or +02:00, or a zone such as \
                    Europe/Berlin behind a blank";

impl FromStr for TargetTime {
    type Err = ParseTimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem: String| ParseTimeError { text: text.chars().take(60).collect(), problem };
        let (local, rest) = date_and_time(text).ok_or_else(|| refuse(FORM.to_owned()))?;
        let local = local.ok_or_else(|| refuse("there is no such date or time of day".to_owned()))?;
        let zone = match rest {
            "" => TimeZone::UTC,
            rest => zone(rest).map_err(refuse)?,
        };
        let zoned = match zone.to_ambiguous_zoned(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset,
            AmbiguousOffset::Gap { .. } => {
                return Err(refuse(format!("the clocks there were put forward over {local}, so it never was")));
            }
            AmbiguousOffset::Fold { before, after } => {
                let both = "the clocks there showed it twice";
                return Err(refuse(format!("{both}: give the offset, {before} or {after}")));
            }
        };
        let instant = zoned.to_timestamp(local).map_err(|_| refuse("it is out of range".to_owned()))?;
        let instant = PgTimestamp::from_unix_micros(instant.as_microsecond());
        Ok(Self { instant, assumed_utc: rest.is_empty() })
    }
}

/// Reads `YYYY-MM-DD`, `T` or a blank, `HH:MM:SS` and up to six digits of a second; gives the rest. The inner `None` is
/// a well-formed time that does not exist.
fn date_and_time(text: &str) -> Option<(Option<DateTime>, &str)> {
    let separated = |at: usize, by: &[u8]| text.as_bytes().get(at).is_some_and(|byte| by.contains(byte));
    let shape = separated(4, b"-") && separated(7, b"-") && separated(10, b"T ") && separated(13, b":");
    if !(shape && separated(16, b":")) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse::<i16>().ok())?
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let (nanoseconds, rest) = fraction(text.get(19..)?)?;
    let small = |number: i16| i8::try_from(number).unwrap_or(i8::MAX);
    let local = DateTime::new(year, small(month), small(day), small(hour), small(minute), small(second), nanoseconds);
    Some((local.ok(), rest))
}

/// The part of a second in nanoseconds, if there is one, and what follows.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let length = digits.bytes().take_while(u8::is_ascii_digit).count();
    if !(1..=6).contains(&length) {
        return None;
    }
    let (digits, rest) = digits.split_at(length);
    let scale = 10_i32.checked_pow(u32::try_from(9 - length).ok()?)?;
    Some((digits.parse::<i32>().ok()?.checked_mul(scale)?, rest))
}

/// `Z`, an offset, or a zone's name behind a blank.
fn zone(text: &str) -> Result<TimeZone, String> {
    let trimmed = text.strip_prefix(' ').unwrap_or(text);
    if matches!(trimmed, "Z" | "z" | "UTC") {
        return Ok(TimeZone::UTC);
    }
    if let Some(seconds) = offset_seconds(trimmed) {
        let offset = Offset::from_seconds(seconds).map_err(|_| format!("'{trimmed}' is no offset"))?;
        return Ok(TimeZone::fixed(offset));
    }
    // Abbreviations mean different zones in different countries, so a name must have a slash.
    let is_name = text.starts_with(' ') && trimmed.contains('/') && !trimmed.contains("..");
    if !is_name {
        return Err(FORM.to_owned());
    }
    TimeZone::get(trimmed).map_err(|_| format!("this machine knows no time zone '{trimmed}'"))
}

/// `±HH`, `±HHMM` or `±HH:MM`.
fn offset_seconds(text: &str) -> Option<i32> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits = match digits.len() {
        2 => format!("{digits}00"),
        4 => digits.to_owned(),
        5 if digits.as_bytes()[2] == b':' => digits.replacen(':', "", 1),
        _ => return None,
    };
    if digits.len() != 4 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = (digits[..2].parse::<i32>().ok()?, digits[2..].parse::<i32>().ok()?);
    // PostgreSQL's own limit is just below 16 hours.
    (hours < 16 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// An instant for people: in UTC with microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant(pub PgTimestamp);

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Timestamp::from_microsecond(self.0.unix_micros()) {
            Ok(time) => f.pad(&time.strftime("%Y-%m-%d %H:%M:%S.%6f UTC").to_string()),
            Err(_) => self.0.fmt(f),
        }
    }
}

impl Instant {
    /// The instant by the clock on this machine's wall, if that is another one.
    pub fn local(self) -> Option<String> {
        let time = Timestamp::from_microsecond(self.0.unix_micros()).ok()?;
        let zoned: Zoned = time.to_zoned(TimeZone::system());
        (zoned.offset() != Offset::UTC).then(|| zoned.strftime("%Y-%m-%d %H:%M:%S.%6f%:z").to_string())
    }
}

/// Reads a transaction number: 32 bits, or 64 as `pg_current_xact_id()` gives it, of which recovery compares the lower half.
pub fn parse_xid(text: &str) -> Result<TransactionId, String> {
    let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let number = digits.then(|| text.parse::<u64>().ok()).flatten();
    // 0 to 2 are no transactions that could end.
    let xid = number.map(|number| (number & u64::from(u32::MAX)) as u32).filter(|xid| *xid >= 3);
    xid.ok_or_else(|| format!("'{}' is no transaction number", text.chars().take(40).collect::<String>()))
}

/// Reads a restore point's name.
pub fn parse_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a restore point's name is not empty".to_owned()),
        1..64 => Ok(text.to_owned()),
        length => Err(format!("a restore point's name has at most 63 bytes, this one has {length}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Result<String, String> {
        let parsed: Result<TargetTime, _> = text.parse();
        parsed.map(|time| Instant(time.instant).to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn offsets_are_obeyed() {
        for text in [
            "2026-11-21T10:30:00Z",
            "2026-11-21 10:30:00Z",
            "2026-11-21 10:30:00 UTC",
            "2026-11-21 12:30:00+02",
            "2026-11-21 12:30:00 +02:00",
            "2026-11-21T16:00:00.000000+0530",
            "2026-11-21 07:00:00-03:30",
            "2026-11-21 10:30:00.0",
        ] {
            assert_eq!(time(text).as_deref(), Ok("2026-11-21 10:30:00.000000 UTC"), "{text}");
        }
        assert_eq!(time("2026-11-21 10:30:00.25Z").as_deref(), Ok("2026-11-21 10:30:00.250000 UTC"));
        assert!("2026-11-21 10:30:00".parse::<TargetTime>().unwrap().assumed_utc);
        assert!(!"2026-11-21 10:30:00+00".parse::<TargetTime>().unwrap().assumed_utc);
    }

    #[test]
    fn nothing_else_is_a_time() {
        for text in [
            "",
            "now",
            "tomorrow",
            "epoch",
            "infinity",
            "2026-11-21",
            "2026-11-21 10:30",
            "2026-11-21 10:30:00 PM",
            "2026-11-21 13am",
            "2026-11-21 10:30:00 CET",
            "2026-11-21 10:30:00+2",
            "2026-11-21 10:30:00+02:0",
            "2026-11-21 10:30:00+16:00",
            "2026-11-21 10:30:00+01:60",
            "2026-11-21 10:30:00Zx",
            "2026-11-21 10:30:00Z ",
            "2026-11-21 10:30:00.1234567Z",
            "2026-11-21 10:30:00.Z",
            "2026-02-29 10:30:00Z",
            "2026-11-21 24:00:00Z",
            "2026-11-21 23:59:60Z",
            "+026-11-21 10:30:00Z",
            "2026/11/21 10:30:00Z",
            "2026-11-21  10:30:00Z",
            "2026-11-21 10:30:00 ../../etc/passwd",
            "2026-11-2é 10:30:00Z",
        ] {
            assert!(time(text).is_err(), "{text:?} became {:?}", time(text));
        }
    }

    #[test]
    fn zones_are_obeyed_except_where_the_clock_was_changed() {
        if TimeZone::get("Europe/Berlin").is_err() {
            return;
        }
        assert_eq!(time("2026-07-01 12:00:00 Europe/Berlin").as_deref(), Ok("2026-07-01 10:00:00.000000 UTC"));
        insta::assert_snapshot!(
            time("2026-10-25 02:30:00 Europe/Berlin").unwrap_err(),
            @"'2026-10-25 02:30:00 Europe/Berlin' is no target time: the clocks there showed it twice: give the offset, +02 or +01"
        );
        assert!(time("2026-03-29 02:30:00 Europe/Berlin").unwrap_err().contains("never was"));
        assert!(time("2026-03-29 02:30:00 Europe/Nowhere").unwrap_err().contains("no time zone"));
    }

    #[test]
    fn transaction_numbers() {
        assert_eq!(parse_xid("742"), Ok(742));
        assert_eq!(parse_xid("4294968038"), Ok(742));
        for text in ["", "0", "2", "-5", "742x", " 742", "0x10", "99999999999999999999"] {
            assert!(parse_xid(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_an_error(text: String) {
            let _ = text.parse::<TargetTime>();
        }
        #[test]
        fn almost_times_are_times_or_errors(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}[.0-9+: ZA-z/-]{0,12}") {
            let _ = text.parse::<TargetTime>();
        }
        #[test]
        fn what_is_shown_can_be_read(micros in -2_000_000_000_000_000i64..7_000_000_000_000_000) {
            let instant = PgTimestamp::new(micros);
            let read: TargetTime = Instant(instant).to_string().parse().unwrap();
            prop_assert_eq!(read.instant, instant);
        }
    }
}
