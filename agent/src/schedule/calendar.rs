//! A cron expression read in a time zone: which moments it names.
//!
//! The crate `croner` searches civil dates and times only; what a change of the clock does to them is decided here, in one
//! place: a time that the clock skips counts at the moment of the change, a time that it shows twice counts the first
//! time. Thus each time of the expression is one moment, and moments never go back where civil times go on.

use anyhow::{Result, bail};
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, Direction};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// The moments of one cron expression in one time zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
}

impl Calendar {
    /// Reads an expression of five fields: minute, hour, day of month, month, day of week; or `@daily` and the like.
    ///
    /// Seconds are refused, and so is an expression that names no day that ever comes, like 30 February.
    pub fn new(expression: &str, zone: TimeZone) -> Result<Self> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        if !expression.trim_start().starts_with('@') && expression.split_whitespace().count() != 5 {
            bail!("expected five fields, minute, hour, day of month, month, day of week, like '0 3 * * *'");
        }
        let cron = parser.parse(expression)?;
        let calendar = Self { cron, zone };
        if calendar.next_after(Timestamp::UNIX_EPOCH).is_none() {
            bail!("it names no day that ever comes");
        }
        Ok(calendar)
    }

    /// The first moment later than this one.
    pub fn next_after(&self, moment: Timestamp) -> Option<Timestamp> {
        let mut local = self.zone.to_datetime(moment);
        // More than one turn only in the second pass of a repeated hour, whose times count in the first.
        loop {
            local = self.search(local, false, Direction::Forward)?;
            let found = self.moment(local)?;
            if found > moment {
                return Some(found);
            }
        }
    }

    /// The last moment that is not later than this one.
    pub fn latest_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let here = self.zone.to_datetime(moment);
        let mut local = self.search(self.latest_passed(here, moment)?, true, Direction::Backward)?;
        loop {
            let found = self.moment(local)?;
            if found <= moment {
                return Some(found);
            }
            local = self.search(local, false, Direction::Backward)?;
        }
    }

    /// A civil time behind which all lie ahead: in the second pass of a repeated hour the first has passed as a whole.
    fn latest_passed(&self, here: DateTime, moment: Timestamp) -> Option<DateTime> {
        match self.zone.to_ambiguous_timestamp(here).offset() {
            AmbiguousOffset::Fold { before, after } if self.zone.to_offset(moment) == after => {
                let repeated = SignedDuration::from_secs((before.seconds() - after.seconds()).into());
                here.checked_add(repeated).ok()
            }
            _ => Some(here),
        }
    }

    fn search(&self, from: DateTime, inclusive: bool, direction: Direction) -> Option<DateTime> {
        let from = from.to_zoned(TimeZone::UTC).ok()?;
        let found = match direction {
            Direction::Forward => self.cron.find_next_occurrence(&from, inclusive),
            Direction::Backward => self.cron.find_previous_occurrence(&from, inclusive),
        };
        Some(found.ok()?.datetime())
    }

    /// The moment at which a civil time counts.
    fn moment(&self, local: DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { before, after } => {
                // The change lies between the two readings of a time that it skips.
                let (earliest, latest) = (after.to_timestamp(local).ok()?, before.to_timestamp(local).ok()?);
                let change = self.zone.following(earliest).next().map(|change| change.timestamp());
                Some(change.map_or(latest, |change| change.min(latest)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn calendar(expression: &str, zone: &str) -> Calendar {
        Calendar::new(expression, TimeZone::get(zone).unwrap()).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn following(calendar: &Calendar, from: &str, count: usize) -> Vec<String> {
        let next = |moment: &Timestamp| calendar.next_after(*moment);
        std::iter::successors(Some(at(from)), next).skip(1).take(count).map(|moment| moment.to_string()).collect()
    }

    #[test]
    fn a_time_that_is_skipped_counts_once_at_the_change() {
        let half_past_two = calendar("30 2 * * *", "Europe/Berlin");
        let expected = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        assert_eq!(following(&half_past_two, "2026-03-27T12:00:00Z", 3), expected);
        // Four times that are skipped, and the one at the change itself: one moment.
        let quarters = calendar("*/15 2,3 * * *", "Europe/Berlin");
        let expected = ["2026-03-29T01:00:00Z", "2026-03-29T01:15:00Z"];
        assert_eq!(following(&quarters, "2026-03-29T00:00:00Z", 2), expected);
        // At midnight, half an hour, and a whole day.
        assert_eq!(
            following(&calendar("0 0 * * *", "America/Santiago"), "2026-09-05T12:00:00Z", 2),
            ["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"]
        );
        assert_eq!(
            following(&calendar("10 2 * * *", "Australia/Lord_Howe"), "2026-10-03T12:00:00Z", 2),
            ["2026-10-03T15:30:00Z", "2026-10-04T15:10:00Z"]
        );
        assert_eq!(
            following(&calendar("0 3 * * *", "Pacific/Apia"), "2011-12-29T14:00:00Z", 3),
            ["2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z", "2011-12-31T13:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_counts_the_first_time() {
        let half_past_two = calendar("30 2 * * *", "Europe/Berlin");
        let expected = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        assert_eq!(following(&half_past_two, "2026-10-24T12:00:00Z", 2), expected);
        // From within the second pass.
        assert_eq!(following(&half_past_two, "2026-10-25T01:10:00Z", 1), ["2026-10-26T01:30:00Z"]);
        assert_eq!(half_past_two.latest_until(at("2026-10-25T01:10:00Z")), Some(at("2026-10-25T00:30:00Z")));
        let late = calendar("50 2 * * *", "Europe/Berlin");
        assert_eq!(late.latest_until(at("2026-10-25T01:10:00Z")), Some(at("2026-10-25T00:50:00Z")));
        assert_eq!(late.latest_until(at("2026-10-25T00:49:59Z")), Some(at("2026-10-24T00:50:00Z")));
    }

    #[test]
    fn the_last_of_december_is_a_last_day() {
        let calendar = calendar("0 3 L * *", "UTC");
        assert_eq!(following(&calendar, "2026-12-02T00:00:00Z", 2), ["2026-12-31T03:00:00Z", "2027-01-31T03:00:00Z"]);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for (wrong, said) in [
            ("", "five fields"),
            ("0 3 * *", "five fields"),
            ("0 0 3 * * *", "five fields"),
            ("0 3 * * * Europe/Berlin", "five fields"),
            ("@reboot", ""),
            ("61 3 * * *", "out of bounds"),
            ("0 0 30 2 *", "no day that ever comes"),
        ] {
            let error = Calendar::new(wrong, TimeZone::UTC).unwrap_err().to_string();
            assert!(error.contains(said), "{wrong}: {error}");
        }
        Calendar::new(" @daily ", TimeZone::UTC).unwrap();
        Calendar::new("*/10 1-5 * JAN,jul mon-fri", TimeZone::UTC).unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[@0-9*/,#LW?+ a-zA-Z\\-]{0,30}|\\PC{0,20}") {
            let _ = Calendar::new(&text, TimeZone::UTC);
        }

        /// Both searches see one and the same ascending row of moments, whatever the zone.
        #[test]
        fn searches_forward_and_back_agree(
            expression in prop::sample::select(vec!["0 3 * * *", "30 2 * * *", "*/7 * * * *", "0 */6 * * 1-5", "15 0 1,L * *"]),
            zone in prop::sample::select(
                vec!["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Santiago", "Asia/Kathmandu", "Africa/Casablanca"]
            ),
            second in 1_750_000_000_i64..1_850_000_000,
        ) {
            let calendar = calendar(expression, zone);
            let moment = Timestamp::from_second(second).unwrap();
            let next = calendar.next_after(moment).unwrap();
            let latest = calendar.latest_until(moment).unwrap();
            prop_assert!(latest <= moment && moment < next);
            prop_assert_eq!(calendar.next_after(latest), Some(next));
            prop_assert_eq!(calendar.latest_until(next), Some(next));
            let before = next.checked_sub(SignedDuration::from_nanos(1)).unwrap();
            prop_assert_eq!(calendar.latest_until(before), Some(latest));
        }
    }
}
