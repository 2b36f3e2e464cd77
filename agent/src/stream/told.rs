//! What is told: one place that decides it, for all threads that may meet the same cause.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a cause that lasts is told again.
const REMINDER: Duration = Duration::from_secs(600);
/// Causes that are remembered; of more, those that were met longest ago are told anew.
const REMEMBERED: usize = 64;

/// Causes of failures, and when each was told. They may alternate, and several threads may meet one.
#[derive(Debug, Default)]
pub(super) struct Told {
    causes: BTreeMap<String, Cause>,
}

#[derive(Clone, Copy, Debug)]
struct Cause {
    told: Instant,
    met: Instant,
}

impl Told {
    /// A cause was met at `now`. True if it is to be told: it is new, or was told long ago.
    pub(super) fn meet(&mut self, cause: &str, now: Instant) -> bool {
        if let Some(known) = self.causes.get_mut(cause) {
            known.met = now;
            let is_due = now.duration_since(known.told) >= REMINDER;
            if is_due {
                known.told = now;
            }
            return is_due;
        }
        if self.causes.len() >= REMEMBERED
            && let Some(oldest) = self.causes.iter().min_by_key(|(_, cause)| cause.met).map(|(text, _)| text.clone())
        {
            self.causes.remove(&oldest);
        }
        self.causes.insert(cause.to_owned(), Cause { told: now, met: now });
        true
    }

    /// Things have gone well since then: causes that were not met meanwhile are over.
    pub(super) fn well_since(&mut self, since: Instant) {
        self.causes.retain(|_, cause| cause.met >= since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_alternate_are_told_once_and_remembered_of() {
        let (mut told, begun) = (Told::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(told.meet("refused", at(0)));
        assert!(told.meet("silent", at(1)));
        for second in 2..600 {
            assert!(!told.meet(["refused", "silent"][second as usize % 2], at(second)), "{second}");
        }
        assert!(told.meet("refused", at(600)));
        assert!(told.meet("silent", at(601)));
        assert!(!told.meet("refused", at(602)));
    }

    #[test]
    fn what_was_not_met_while_all_went_well_is_over() {
        let (mut told, begun) = (Told::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(told.meet("stream", at(0)) && told.meet("slot", at(0)));
        // WAL comes in from second 10 on, and the slot still cannot be had.
        assert!(!told.meet("slot", at(20)));
        told.well_since(at(10));
        assert!(!told.meet("slot", at(50)));
        assert!(told.meet("stream", at(50)));
    }

    #[test]
    fn they_do_not_pile_up() {
        let (mut told, begun) = (Told::default(), Instant::now());
        for number in 0..1000 {
            assert!(told.meet(&number.to_string(), begun + Duration::from_millis(number)));
        }
        assert_eq!(told.causes.len(), REMEMBERED);
        assert!(!told.meet("999", begun + Duration::from_secs(2)));
    }
}
