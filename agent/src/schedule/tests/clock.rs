//! A clock that is stepped.

use jiff::{SignedDuration, Timestamp};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use super::world::*;
use crate::schedule::*;

const START: &str = "2026-05-01T12:00:00Z";

fn nightly() -> Schedule {
    schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'")
}

fn hours(hours: i64) -> Event {
    Event::Step(SignedDuration::from_hours(hours))
}

fn cron(due: &str) -> Reason {
    Reason::Cron { due: at(due) }
}

#[test]
fn after_a_step_back_a_due_time_has_no_second_backup() {
    // Restarted between, so that it is the history's file that knows.
    let events = [(at("2026-05-02T04:00:00Z"), hours(-3)), (at("2026-05-02T05:00:00Z"), Event::Kill(MINUTE))];
    let world = Virtual::new(START).events(events);
    world.run(&nightly(), 3 * DAY);
    // The clock is three hours late from then on.
    let expected = [
        (at("2026-05-02T03:00:00Z"), cron("2026-05-02T03:00:00Z")),
        (at("2026-05-03T06:00:00Z"), cron("2026-05-03T03:00:00Z")),
        (at("2026-05-04T06:00:00Z"), cron("2026-05-04T03:00:00Z")),
    ];
    assert_eq!(world.started(), expected);
}

#[test]
fn after_a_step_back_what_is_announced_is_the_next_due_time_without_a_backup() {
    let (due, now) = (at("2026-05-02T03:00:00Z"), at("2026-05-02T01:00:00Z"));
    let (stop_lsn, timeline) = (Lsn::new(1), TimelineId::FIRST);
    let newest = Some(NewestBackup { started: due, stopped: due, stop_lsn, timeline });
    let facts = Facts { newest, ..Facts::default() };
    let mut history = History::default();
    history.start(Reason::Cron { due }, due);
    history.succeed("b".to_owned(), due, [due]);
    assert!(history.observe(now, &facts));
    let next = at("2026-05-03T03:00:00Z");
    let expected = Decision::NotBefore(next, Why::Planned(Reason::Cron { due: next }));
    assert_eq!(nightly().decide(now, &facts, &history), expected);
}

#[test]
fn a_step_back_over_many_due_times_repeats_none_of_them() {
    for by_name in [false, true] {
        let world = Virtual::new(START).events([(at("2026-05-21T12:00:00Z"), hours(-240))]);
        world.by_name.set(by_name);
        world.run(&nightly(), 40 * DAY);
        let mut answered = world.answered();
        let count = answered.len();
        answered.dedup();
        assert_eq!((count, answered.len(), answered.is_sorted()), (30, 30, true));
    }
}

#[test]
fn years_forward_and_back_again_cost_one_backup_and_no_waiting() {
    let years = 10 * 366 * 24;
    let events = [(at("2026-05-02T12:00:00Z"), hours(years)), (at("2026-05-02T18:00:00Z"), hours(-years))];
    for by_name in [false, true] {
        let world = Virtual::new(START).events(events.clone());
        world.by_name.set(by_name);
        world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'\nmax_age = '36h'"), 5 * DAY);
        assert_years_cost_one_backup(&world);
    }
}

fn assert_years_cost_one_backup(world: &Virtual) {
    let started: Vec<Timestamp> = world.started().iter().map(|(started, _)| *started).collect();
    let expected = [
        at("2026-05-02T03:00:00Z"),
        // The calendar's last due time of those years, within a minute of the step.
        at("2026-05-02T12:00:00Z"),
        at("2026-05-03T03:00:00Z"),
        at("2026-05-04T03:00:00Z"),
        at("2026-05-05T03:00:00Z"),
        at("2026-05-06T03:00:00Z"),
    ];
    assert_eq!(started.len(), expected.len(), "{started:?}");
    for (started, expected) in started.iter().zip(expected) {
        assert!((0..=60).contains(&started.duration_since(expected).as_secs()), "{started} for {expected}");
    }
}

#[test]
fn a_first_backup_of_the_future_does_not_silence_max_age() {
    let years = 10 * 366 * 24;
    // The clock is wrong before the agent starts.
    let events = [(at(START), hours(years)), (at("2026-05-01T14:00:00Z"), hours(-years))];
    for by_name in [false, true] {
        let world = Virtual::empty(START).events(events.clone());
        world.by_name.set(by_name);
        world.run(&schedule("max_age = '1d'\ntimezone = 'UTC'"), 5 * DAY);
        assert_age_counts_from_the_step(&world);
    }
}

fn assert_age_counts_from_the_step(world: &Virtual) {
    let started: Vec<Timestamp> = world.started().iter().map(|(started, _)| *started).collect();
    assert_eq!(started[0], at(START));
    // Its age counts from the step back, which is seen within a minute; then each backup's own start counts.
    for (started, day) in started[1..].iter().zip(1..) {
        let expected = at("2026-05-01T14:00:00Z").checked_add(SignedDuration::from_hours(24 * day)).unwrap();
        assert!((0..=300).contains(&started.duration_since(expected).as_secs()), "{started} for {expected}");
    }
    assert_eq!(started.len(), 5);
}

#[test]
fn a_step_back_during_a_pause_does_not_prolong_it_by_the_step() {
    let events = [(at("2026-05-02T03:00:30Z"), hours(-100))];
    let world = Virtual::new(START).events(events).plan(|number| (MINUTE / 6, number > 0));
    world.run(&nightly(), 3 * DAY);
    // By then the clock is at three o'clock of a night that it has not been at yet.
    let expected = [(at("2026-05-02T03:00:00Z"), cron("2026-05-02T03:00:00Z"))];
    assert_eq!(world.started()[..1], expected);
    assert_eq!(world.started()[1], (at("2026-05-02T07:00:00Z"), cron("2026-04-28T03:00:00Z")));
    // Without a calendar the pause is all that is in the way.
    let world = Virtual::empty(START).events([(at("2026-05-01T12:00:20Z"), hours(-100))]);
    let world = world.plan(|number| (MINUTE / 6, number > 0));
    world.run(&schedule("max_age = '7d'"), HOUR);
    let waited = world.started()[1].0.duration_since(at(START)).as_secs();
    assert!((70..=200).contains(&waited), "{waited}");
}

#[test]
fn steps_at_random_double_nothing_and_stop_nothing() {
    for seed in 0..campaign(8) {
        let mut dice = Dice(seed);
        let events: Vec<_> = (0..12)
            .map(|_| {
                let moment = at(START).checked_add(dice.seconds(60 * DAY)).unwrap();
                let seconds = dice.below(2 * 30 * 3600) as i64 - 30 * 3600;
                (moment, Event::Step(SignedDuration::from_secs(seconds)))
            })
            .collect();
        let world = Virtual::new(START).events(events);
        world.by_name.set(seed % 2 == 0);
        world.run(&nightly(), 60 * DAY);
        let mut answered = world.answered();
        let count = answered.len();
        answered.sort();
        answered.dedup();
        assert_eq!(answered.len(), count, "seed {seed}");
        // A step of up to 30 hours can make two days seem to be done.
        let mut last = at(START);
        for (started, _) in world.started() {
            let pause = started.duration_since(last).as_hours();
            assert!(pause <= 24 + 12 * 30, "seed {seed}: {pause} hours until {started}");
            last = started;
        }
        assert!(world.time().duration_since(last).as_hours() <= 24 * 7, "seed {seed}");
        assert!(world.looks.get() < 60 * 24 * 60 + 500, "seed {seed}: {}", world.looks.get());
    }
}
