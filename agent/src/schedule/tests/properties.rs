//! Whatever is set and whatever happens: never two at a time, never twice for one due time, nothing missed, no busy loop.

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;

use super::days::assert_nothing_missed;
use super::world::*;
use crate::schedule::*;

const START: &str = "2026-03-20T11:11:11Z";
const LENGTH: u64 = 14 * 86_400;

#[derive(Clone, Debug)]
struct Case {
    cron: Option<&'static str>,
    zone: &'static str,
    max_age: Option<u64>,
    max_wal: Option<u64>,
    deadline: u64,
    /// Seconds and success of each attempt, again and again.
    plan: Vec<(u64, bool)>,
    events: Vec<(u64, Event)>,
    by_name: bool,
}

impl Case {
    fn schedule(&self) -> Schedule {
        let mut text = format!("timezone = '{}'\ndeadline = '{}s'\n", self.zone, self.deadline);
        text.extend(self.cron.map(|cron| format!("base_backup = '{cron}'\n")));
        text.extend(self.max_age.map(|seconds| format!("max_age = '{seconds}s'\n")));
        text.extend(self.max_wal.map(|bytes| format!("max_wal = {bytes}\n")));
        schedule(&text)
    }

    fn run(&self) -> Virtual {
        let plan = self.plan.clone();
        let attempt = move |number: usize| {
            let (seconds, works) = plan[number % plan.len()];
            (MINUTE / 60 * seconds as u32, works)
        };
        let moment = |second: u64| Timestamp::from_second(at(START).as_second() + second as i64).unwrap();
        let events = self.events.iter().map(|(second, event)| (moment(*second), event.clone()));
        let world = Virtual::new(START).plan(attempt).events(events);
        world.by_name.set(self.by_name);
        world.run(&self.schedule(), DAY * 14);
        world
    }

    /// When a backup became too old before the next one started.
    fn ages(&self, world: &Virtual) -> Vec<Timestamp> {
        let Some(age) = self.max_age else { return Vec::new() };
        let mut started: Vec<_> = world.backups.borrow().iter().map(|(started, _)| *started).collect();
        started.sort();
        let age = SignedDuration::from_secs(age as i64);
        let too_old = |started: &Timestamp| started.checked_add(age).unwrap().max(at(START));
        let next = started.iter().skip(1).copied().chain([world.time()]);
        started.iter().map(too_old).zip(next).filter(|(due, next)| due <= next).map(|(due, _)| due).collect()
    }

    /// The due times of the whole case.
    fn dues(&self) -> Vec<Timestamp> {
        let Some(cron) = self.cron else { return Vec::new() };
        let calendar = Calendar::new(cron, jiff::tz::TimeZone::get(self.zone).unwrap()).unwrap();
        let next = |due: &Timestamp| calendar.next_after(*due);
        let end = at(START).checked_add(DAY * 14).unwrap();
        std::iter::successors(calendar.next_after(at(START)), next).take_while(|due| *due < end).collect()
    }
}

fn event(steps: bool) -> impl Strategy<Value = Event> {
    let time = prop_oneof![Just(MINUTE / 60), Just(MINUTE * 3), Just(HOUR), Just(DAY)];
    let step = prop_oneof![-90_000_i64..90_000, -5_i64..5, Just(10 * 365 * 86_400), Just(-10 * 365 * 86_400)];
    let plain = prop_oneof![
        time.clone().prop_map(Event::Kill),
        time.clone().prop_map(Event::Quit),
        time.clone().prop_map(Event::ByHand),
        time.prop_map(Event::Blind),
        Just(Event::Switch),
        Just(Event::Gap),
        (0_u64..1 << 33).prop_map(Event::Wal),
        Just(Event::Wake),
    ];
    prop_oneof![
        4 => plain,
        u32::from(steps) => step.prop_map(|seconds| Event::Step(SignedDuration::from_secs(seconds))),
    ]
}

fn case(steps: bool) -> impl Strategy<Value = Case> {
    let cron =
        select(vec!["0 3 * * *", "30 2 * * *", "0 */6 * * *", "*/20 * * * *", "* * * * *", "0 2 * * 0", "15 1 L * *"]);
    let seconds = prop_oneof![Just(0_u64), 1_u64..100, 100_u64..20_000];
    (
        prop::option::of(cron),
        select(vec!["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"]),
        prop::option::of(prop_oneof![1_u64..100, 1000_u64..1_000_000]),
        prop::option::of(prop_oneof![1_u64..100, 1_u64 << 20..1 << 36]),
        select(vec![1_u64, 600, 86_400]),
        prop::collection::vec((seconds, prop::bool::weighted(0.7)), 1..6),
        prop::collection::vec((0..LENGTH, event(steps)), 0..60),
        any::<bool>(),
    )
        .prop_map(|(cron, zone, max_age, max_wal, deadline, plan, events, by_name)| Case {
            cron,
            zone,
            max_age,
            max_wal,
            deadline,
            plan,
            events,
            by_name,
        })
}

fn assert_no_due_time_is_answered_twice(world: &Virtual) {
    let mut answered = world.answered();
    let count = answered.len();
    answered.sort();
    answered.dedup();
    assert_eq!(answered.len(), count);
}

/// A look each minute, and a few more for each thing that happens.
fn assert_no_busy_loop(case: &Case, world: &Virtual) {
    let attempts = world.attempts.borrow().len() as u64;
    let happened = attempts * 3 + case.events.len() as u64 * 4 + case.dues().len() as u64 * 2;
    let most = LENGTH / 60 + happened + 10;
    assert!(world.looks.get() <= most, "{} looks, {attempts} attempts, at most {most} expected", world.looks.get());
}

/// Between two attempts for one kind of reason a minute passes at least, unless the first answered its due time or the agent
/// was stopped in it.
fn assert_pauses(world: &Virtual) {
    let attempts = world.attempts.borrow();
    for (number, first) in attempts.iter().enumerate() {
        let Some(next) = attempts[number + 1..].iter().find(|next| next.reason.kind() == first.reason.kind()) else {
            continue;
        };
        let between = &attempts[number + 1..];
        let until = between.iter().position(|attempt| attempt.started == next.started).unwrap_or(0);
        let helped = first.good && first.reason.kind() == "cron" || between[..until].iter().any(|attempt| attempt.good);
        let pause = next.started.duration_since(first.started).as_secs();
        assert!(helped || pause >= 60, "{pause} s between {first:?} and {next:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: campaign(24) as u32, ..ProptestConfig::default() })]

    #[test]
    fn with_a_steady_clock_nothing_is_missed_doubled_or_hurried(case in case(false)) {
        let world = case.run();
        assert_no_due_time_is_answered_twice(&world);
        assert_no_busy_loop(&case, &world);
        let stopped = case.events.iter().any(|(_, event)| matches!(event, Event::Quit(_)));
        if !stopped {
            assert_pauses(&world);
        }
        // What is due may have to wait for a pause: after a failure up to an hour, after a success a minute.
        for attempt in world.attempts.borrow().iter() {
            let pause = if attempt.good { MINUTE } else { HOUR };
            world.obstacles.borrow_mut().push((attempt.ended, attempt.ended.checked_add(pause).unwrap()));
        }
        assert_nothing_missed(&world, case.dues(), "calendar");
        assert_nothing_missed(&world, case.ages(&world), "max_age");
    }

    #[test]
    fn with_a_stepped_clock_nothing_is_doubled_or_hurried(case in case(true)) {
        let world = case.run();
        if case.cron != Some("* * * * *") && case.cron != Some("*/20 * * * *") {
            // Of these more due times are settled in a day than are remembered.
            assert_no_due_time_is_answered_twice(&world);
        }
        assert_no_busy_loop(&case, &world);
    }
}
