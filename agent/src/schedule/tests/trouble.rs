//! Reasons beside the calendar, and base backups that fail.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use parking_lot::Mutex;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::TimelineId;

use super::world::*;
use crate::schedule::*;

const START: &str = "2026-05-01T12:00:00Z";

fn minutes_after_start(world: &Virtual) -> Vec<(i64, &'static str)> {
    let minutes = |time: Timestamp| time.duration_since(at(START)).as_mins();
    world.started().iter().map(|(time, reason)| (minutes(*time), reason.kind())).collect()
}

#[test]
fn the_first_backup_is_taken_at_once() {
    let world = Virtual::empty(START);
    world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'"), DAY);
    assert_eq!(minutes_after_start(&world), [(0, "first_backup"), (15 * 60, "cron")]);
}

#[test]
fn nothing_is_taken_without_settings() {
    let world = Virtual::empty(START).events([(at("2026-05-01T13:00:00Z"), Event::Switch)]);
    world.run(&schedule(""), DAY);
    assert_eq!((world.attempts.borrow().len(), world.looks.get()), (0, 0));
}

#[test]
fn age_counts_from_the_start_of_the_newest_backup_whoever_took_it() {
    let by_hand = (at("2026-05-05T00:00:00Z"), Event::ByHand(HOUR));
    let world = Virtual::new(START).events([by_hand]);
    world.run(&schedule("max_age = '2d'"), 7 * DAY);
    // The backup that is there is an hour old; the one by hand comes before the next is due.
    assert_eq!(minutes_after_start(&world), [(47 * 60, "max_age"), (47 * 60 + 84 * 60 - 47 * 60 + 48 * 60, "max_age")]);
}

#[test]
fn wal_counts_from_the_end_of_the_newest_backup() {
    let wal = |time: &str, gib: u64| (at(time), Event::Wal(gib << 30));
    let events = [
        wal("2026-05-01T13:00:00Z", 30),
        wal("2026-05-01T14:00:00Z", 19),
        wal("2026-05-01T15:00:00Z", 1),
        wal("2026-05-01T16:00:00Z", 49),
    ];
    let world = Virtual::new(START).events(events);
    world.run(&schedule("max_wal = '50GiB'"), DAY);
    assert_eq!(minutes_after_start(&world), [(180, "max_wal")]);
}

#[test]
fn a_timeline_switch_and_a_gap_are_answered_at_once_and_once() {
    let events = [(at("2026-05-01T13:00:20Z"), Event::Switch), (at("2026-05-01T15:00:40Z"), Event::Gap)];
    let world = Virtual::new(START).events(events);
    world.run(&schedule("max_age = '7d'"), DAY);
    let (from, to) = (TimelineId::FIRST, TimelineId::new(2).unwrap());
    let end = Lsn::new((1 << 30) + (16 << 20));
    let expected = [
        (at("2026-05-01T13:00:20Z"), Reason::TimelineSwitch { from, to }),
        (at("2026-05-01T15:00:40Z"), Reason::Gap { end }),
    ];
    assert_eq!(world.started(), expected);
}

#[test]
fn five_failovers_in_a_row_end_with_a_backup_of_the_last() {
    let switches = (0..5).map(|number| (at(START).checked_add(MINUTE * 15 * number).unwrap(), Event::Switch));
    let world = Virtual::new(START).events(switches);
    world.run(&schedule("max_age = '7d'"), DAY);
    // While the first is taken three more come, and a fifth during the second.
    let last = world.backups.borrow().last().unwrap().1;
    assert_eq!(last.timeline.get(), 6);
    assert!(world.attempts.borrow().len() <= 3);
}

#[test]
fn a_gap_that_no_backup_closes_does_not_lead_to_one_backup_after_the_other() {
    // Each backup seems to end before the gap: facts that are wrong.
    let world = Virtual::new(START).plan(|_| (MINUTE, true)).events([(at("2026-05-01T13:00:00Z"), Event::Gap)]);
    let stuck = Stuck(&world);
    world.run_as(&stuck, &schedule("max_age = '365d'"), 2 * DAY);
    let started = minutes_after_start(&world);
    assert!(started.len() < 60, "{} backups", started.len());
    assert_eq!(started[..5], [(60, "gap"), (62, "gap"), (65, "gap"), (70, "gap"), (79, "gap")]);
}

/// Facts that never notice a new backup.
struct Stuck<'a>(&'a Virtual);

impl World for Stuck<'_> {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn facts(&self) -> Result<Facts> {
        let first = self.0.backups.borrow()[0].1;
        Ok(Facts { newest: Some(first), ..self.0.facts()? })
    }

    fn back_up(&self, reason: &Reason, deadline: Duration) -> Result<BackupOutcome> {
        self.0.back_up(reason, deadline)
    }

    fn wait(&self, time: Duration) -> bool {
        self.0.wait(time)
    }
}

#[test]
fn failures_are_tried_again_after_growing_pauses_until_one_works() {
    let world = Virtual::empty(START).plan(|number| (MINUTE, number >= 9));
    world.run(&schedule("max_age = '7d'"), DAY);
    let started: Vec<i64> = minutes_after_start(&world).iter().map(|(minute, _)| *minute).collect();
    let pauses: Vec<i64> = started.windows(2).map(|pair| pair[1] - pair[0] - 1).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    // Restarts do not shorten them.
    let restarts =
        (1..200).map(|number| (at(START).checked_add(MINUTE * 7 * number).unwrap(), Event::Kill(MINUTE / 2)));
    let world = Virtual::empty(START).plan(|_| (MINUTE, false)).events(restarts);
    world.run(&schedule("max_age = '7d'"), DAY);
    let attempts = world.attempts.borrow().len();
    assert!((20..=36).contains(&attempts), "{attempts} attempts in a day");
}

#[test]
fn a_failing_reason_does_not_hold_up_another() {
    let gap = (at("2026-05-02T03:00:30Z"), Event::Gap);
    let world = Virtual::new(START).plan(|number| (Duration::from_secs(10), number > 0)).events([gap]);
    world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'"), DAY);
    let started = world.started();
    assert_eq!((started[0].0, started[0].1.kind()), (at("2026-05-02T03:00:00Z"), "cron"));
    assert_eq!((started[1].0, started[1].1.kind()), (at("2026-05-02T03:00:30Z"), "gap"));
    // That backup answers the due time as well.
    assert_eq!(started.len(), 2);
}

#[test]
fn a_run_that_a_kill_cut_short_is_repeated() {
    let world = Virtual::new(START).events([(at("2026-05-02T03:20:00Z"), Event::Kill(5 * MINUTE))]);
    let schedule = schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'");
    world.run(&schedule, DAY);
    let due = at("2026-05-02T03:00:00Z");
    assert_eq!(world.started(), [due, at("2026-05-02T03:25:00Z")].map(|time| (time, Reason::Cron { due })));
    let status = Runner::new(schedule, &world, world.state()).status();
    let results: Vec<_> = status.history.iter().map(|run| run.result.to_string()).collect();
    assert_eq!(results, ["ok: backup 1", "interrupted"]);
    assert_eq!(status.last.unwrap().duration(), Some(40 * MINUTE));
}

#[test]
fn a_backup_that_kills_the_agent_does_so_ever_more_rarely() {
    // The agent dies 10 seconds into each attempt and is started a second later.
    let world = Virtual::empty(START).plan(|_| (HOUR, true));
    let kills =
        (0..86_400 / 10).map(|number| (at(START).checked_add(MINUTE / 6 * number).unwrap(), Event::Kill(MINUTE / 60)));
    let world = world.events(kills);
    world.run(&schedule("max_age = '7d'"), DAY);
    let attempts = world.attempts.borrow().len();
    assert!((20..=36).contains(&attempts), "{attempts} attempts in a day");
}

#[test]
fn a_stop_in_the_middle_of_a_run_is_no_failure() {
    let world = Virtual::new(START).events([(at("2026-05-02T03:00:10Z"), Event::Quit(MINUTE / 6))]);
    world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'"), DAY);
    let due = at("2026-05-02T03:00:00Z");
    assert_eq!(world.started(), [due, at("2026-05-02T03:00:20Z")].map(|time| (time, Reason::Cron { due })));
}

#[test]
fn the_deadline_is_handed_on_and_ends_what_takes_too_long() {
    let world = Virtual::new(START).plan(|number| (if number == 0 { 30 * HOUR } else { HOUR }, true));
    world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'\ndeadline = '90m'"), DAY);
    let attempts = world.attempts.borrow();
    assert!(attempts.iter().all(|attempt| attempt.deadline == 90 * MINUTE));
    assert_eq!(attempts[0].ended, at("2026-05-02T04:30:00Z"));
    assert_eq!((attempts[1].started, attempts[1].good), (at("2026-05-02T04:31:00Z"), true));
}

#[test]
fn a_backup_by_hand_is_waited_for_and_counts() {
    // One that started before the due time does not answer it, one that started after it does.
    let events = [(at("2026-05-02T02:50:00Z"), Event::ByHand(HOUR)), (at("2026-05-03T02:59:50Z"), Event::Blind(HOUR))];
    let by_hand = (at("2026-05-03T03:30:00Z"), Event::ByHand(HOUR));
    let world = Virtual::new(START).events(events.into_iter().chain([by_hand]));
    world.run(&schedule("base_backup = '0 3 * * *'\ntimezone = 'UTC'"), 2 * DAY);
    let due = at("2026-05-02T03:00:00Z");
    assert_eq!(world.started(), [(at("2026-05-02T03:50:00Z"), Reason::Cron { due })]);
}

#[test]
fn facts_that_cannot_be_had_are_asked_for_once_a_minute_and_shown() {
    let world = Virtual::empty(START).events([(at(START), Event::Blind(HOUR))]);
    world.run(&schedule("max_age = '7d'"), HOUR / 2);
    assert!((29..=32).contains(&world.looks.get()) && world.attempts.borrow().is_empty());
    world.run(&schedule("max_age = '7d'"), HOUR);
    assert_eq!(minutes_after_start(&world), [(60, "first_backup")]);
}

/// A world for a second thread: each call of `back_up` reports itself, then waits for its outcome.
struct Held {
    entered: Mutex<Sender<()>>,
    outcome: Mutex<Receiver<Result<BackupOutcome>>>,
    stop: Mutex<Receiver<()>>,
}

impl World for Held {
    fn now(&self) -> Timestamp {
        at(START)
    }

    fn facts(&self) -> Result<Facts> {
        Ok(Facts::default())
    }

    fn back_up(&self, _: &Reason, _: Duration) -> Result<BackupOutcome> {
        self.entered.lock().send(())?;
        self.outcome.lock().recv()?
    }

    fn wait(&self, time: Duration) -> bool {
        time > Duration::ZERO && self.stop.lock().recv().is_ok()
    }
}

#[test]
fn status_answers_while_a_backup_runs() {
    let directory = tempfile::tempdir().unwrap();
    let ((entered, has_entered), (finish, outcome), (stop, stopped)) = (channel(), channel(), channel());
    let world = Held { entered: entered.into(), outcome: outcome.into(), stop: stopped.into() };
    let runner = Runner::new(schedule("max_age = '7d'"), world, directory.path());
    assert_eq!(runner.status().to_string(), "next when needed");
    std::thread::scope(|scope| {
        scope.spawn(|| runner.run());
        has_entered.recv().unwrap();
        let status = runner.status();
        assert!(status.running.is_some() && !status.overdue && status.last.is_none());
        assert!(status.to_string().starts_with("running since 2026-05-01T12:00:00Z (there is no base backup yet)"));
        finish.send(Err(anyhow::anyhow!("the disk is full"))).unwrap();
        stop.send(()).unwrap();
    });
    let status = runner.status();
    let text = status.to_string();
    assert!(text.starts_with("next at 2026-05-01T12:01:00Z (there is no base backup yet; tried once)"), "{text}");
    assert!(text.ends_with("last at 2026-05-01T12:00:00Z: failed: the disk is full"), "{text}");
    let json = serde_json::to_string(&status).unwrap();
    assert_eq!(serde_json::from_str::<ScheduleStatus>(&json).unwrap(), status);
}

#[test]
fn a_history_that_cannot_be_kept_is_shown_and_stops_nothing() {
    let world = Virtual::empty(START);
    // The place of the file is taken by a directory that is not empty.
    std::fs::create_dir_all(world.state().join("schedule.json/x")).unwrap();
    let settings = schedule("max_age = '1d'");
    let runner = Runner::new(settings.clone(), &world, world.state());
    assert!(runner.status().problem.unwrap().starts_with("unable to read schedule history"));
    world.run(&settings, 3 * DAY);
    assert_eq!(world.attempts.borrow().len(), 3);
}
