//! Sixty days over both changes of the clock, undisturbed and with an agent that often is not there.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::world::*;
use crate::schedule::*;

/// The end of winter time on 29 March 2026, and of summer time on 25 October.
const STARTS: [&str; 2] = ["2026-02-27T00:00:00Z", "2026-09-25T00:00:00Z"];

/// The due times of sixty days at one local time, told day by day with the offsets that Berlin has: one hour in winter, two in
/// summer. The time that is skipped is due at the change.
fn berlin(start: &str, hour: i8, minute: i8) -> Vec<Timestamp> {
    let first: Date = start[..10].parse().unwrap();
    (0..60)
        .map(|day| {
            let date = first.checked_add(Span::new().days(day)).unwrap();
            let (spring, autumn): (Date, Date) = ("2026-03-29".parse().unwrap(), "2026-10-25".parse().unwrap());
            if date == spring && hour == 2 {
                return at("2026-03-29T01:00:00Z");
            }
            let after_spring = date > spring || (date == spring && hour >= 3);
            let summer = after_spring && (date < autumn || (date == autumn && hour < 3));
            let utc = date.at(hour, minute, 0, 0).to_zoned(TimeZone::UTC).unwrap().timestamp();
            utc.checked_sub(if summer { 2 * HOUR } else { HOUR }).unwrap()
        })
        .collect()
}

fn daily(hour: i8, minute: i8) -> Schedule {
    schedule(&format!("base_backup = '{minute} {hour} * * *'\ntimezone = 'Europe/Berlin'"))
}

#[test]
fn every_day_has_its_backup_at_its_minute() {
    for (hour, minute) in [(3, 0), (2, 30), (0, 0), (2, 0)] {
        for start in STARTS {
            let world = Virtual::new(start);
            world.run(&daily(hour, minute), 60 * DAY);
            let mut expected = berlin(start, hour, minute);
            // Local midnight of the first day comes before it begins in UTC.
            expected.retain(|due| *due >= at(start));
            let mut found = world.started();
            found.truncate(expected.len());
            let expected: Vec<_> = expected.into_iter().map(|due| (due, Reason::Cron { due })).collect();
            assert_eq!(found, expected, "{hour}:{minute:02}");
            assert!(world.attempts.borrow().len() <= expected.len() + 1);
        }
    }
}

#[test]
fn after_long_downtime_there_is_one_backup_and_then_the_next_due_time() {
    let back = at("2026-03-20T14:17:00Z");
    let down = Event::Kill(DAY * 15 + HOUR * 2 + MINUTE * 17);
    let world = Virtual::new("2026-03-05T06:00:00Z").events([(at("2026-03-05T12:00:00Z"), down)]);
    world.run(&daily(3, 0), 18 * DAY);
    let missed = at("2026-03-20T02:00:00Z");
    let next = at("2026-03-21T02:00:00Z");
    let expected = [(back, Reason::Cron { due: missed }), (next, Reason::Cron { due: next })];
    assert_eq!(world.started()[..2], expected);
}

#[test]
fn the_list_of_backups_is_the_truth_when_the_history_is_lost() {
    // Yesterday's backup is there, today's is not: caught up.
    let world = Virtual::new("2026-03-05T12:00:00Z");
    world.backups.borrow_mut()[0].1.started = at("2026-03-04T02:00:03Z");
    world.run(&daily(3, 0), HOUR);
    assert_eq!(world.started(), [(at("2026-03-05T12:00:00Z"), Reason::Cron { due: at("2026-03-05T02:00:00Z") })]);
    // Today's is there: nothing to catch up, with a file that makes no sense too.
    let world = Virtual::new("2026-03-05T03:00:00Z");
    std::fs::write(world.state().join("schedule.json"), "garbage").unwrap();
    world.backups.borrow_mut()[0].1.started = at("2026-03-05T02:00:03Z");
    world.run(&daily(3, 0), HOUR);
    assert_eq!(world.started(), []);
}

/// Of the time between a due time and its backup, all but a look's delay was spent where no backup could start.
pub fn assert_nothing_missed(world: &Virtual, dues: impl IntoIterator<Item = Timestamp>, context: &str) {
    let mut obstacles = world.obstacles.borrow().clone();
    obstacles.sort();
    let backups = world.backups.borrow();
    for due in dues {
        let first = backups.iter().map(|(started, _)| *started).filter(|started| *started >= due).min();
        let until = first.unwrap_or(world.time());
        let (mut from, mut free, mut met) = (due, 0, 1);
        for (start, end) in obstacles.iter().filter(|(start, end)| *end > due && *start < until) {
            free += start.duration_since(from).as_secs().max(0);
            from = from.max(*end);
            met += 1;
        }
        free += until.duration_since(from).as_secs().max(0);
        assert!(free <= met * 60, "{context}: due at {due}, {free} s went by with {met} obstacles until {until}");
    }
}

#[test]
fn restarts_and_downtime_at_any_moment_lose_no_due_time_and_double_none() {
    for seed in 0..campaign(8) {
        for (start, (hour, minute)) in STARTS.iter().zip([(3, 0), (2, 30)]) {
            let mut dice = Dice(seed);
            // Half of them while a backup may run.
            let nights = berlin(start, hour, minute);
            let events: Vec<_> = (0..40)
                .map(|number| {
                    let due = nights[dice.below(60) as usize];
                    let spread = if number % 2 == 0 { HOUR } else { DAY };
                    let moment = due.checked_add(dice.seconds(spread)).unwrap();
                    let down = [MINUTE, HOUR, 3 * DAY][dice.below(3) as usize];
                    let down = dice.seconds(down);
                    (moment, if dice.below(4) == 0 { Event::Quit(down) } else { Event::Kill(down) })
                })
                .collect();
            let world = Virtual::new(start).events(events);
            world.run(&daily(hour, minute), 60 * DAY);
            let mut answered = world.answered();
            let count = answered.len();
            answered.sort();
            answered.dedup();
            assert_eq!(count, answered.len(), "seed {seed}: a due time has two backups");
            // What was killed in its first minute pauses for the rest of it, so that minute is granted.
            for attempt in world.attempts.borrow().iter().filter(|attempt| !attempt.good) {
                world.obstacles.borrow_mut().push((attempt.started, attempt.started.checked_add(MINUTE).unwrap()));
            }
            assert_nothing_missed(&world, nights, &format!("seed {seed}"));
            assert!(count > 10, "seed {seed}: {count}");
        }
    }
}

#[test]
fn a_backup_longer_than_the_period_is_followed_by_one_for_the_latest_due_time() {
    let world = Virtual::new("2026-05-01T00:30:00Z").plan(|_| (150 * MINUTE, true));
    world.run(&schedule("base_backup = '0 * * * *'\ntimezone = 'UTC'"), DAY);
    let found = world.started();
    let expected = [
        // The newest backup is of 23:30, so midnight's is missing.
        ("2026-05-01T00:30:00Z", "2026-05-01T00:00:00Z"),
        ("2026-05-01T03:00:00Z", "2026-05-01T03:00:00Z"),
        ("2026-05-01T05:30:00Z", "2026-05-01T05:00:00Z"),
        ("2026-05-01T08:00:00Z", "2026-05-01T08:00:00Z"),
    ];
    for ((started, reason), (time, due)) in found.iter().zip(expected) {
        assert_eq!((*started, reason), (at(time), &Reason::Cron { due: at(due) }));
    }
    assert_eq!(found.len(), 10);
}
