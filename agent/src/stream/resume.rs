//! Where streaming goes on: a pure decision from what is held and what the server is.

use std::collections::BTreeSet;

use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::StreamError;

/// Everything that the decision depends on.
#[derive(Clone, Debug)]
pub struct Situation<'a> {
    /// The history of the server's timeline: the way along which WAL must be unbroken.
    pub history: &'a TimelineHistory,
    /// Bytes per segment.
    pub size: WalSegmentSize,
    /// Up to where the server has WAL.
    pub server: Lsn,
    /// Complete segments: in the repository, or durable here.
    pub held: &'a BTreeSet<WalSegment>,
    /// Segments that are known to be lost: waiting for them is of no use.
    pub lost: &'a BTreeSet<WalSegment>,
    /// Where the WAL that is wanted begins: the newest backup's start, if there is one on this way.
    pub wanted: Option<Lsn>,
    /// The oldest position that the retention slot keeps.
    pub retained: Option<Lsn>,
}

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The segment at whose first byte streaming starts.
    pub segment: WalSegment,
}

impl Situation<'_> {
    /// The segment to start at: the first of the way that is neither held nor lost.
    ///
    /// One rule for every case, a timeline switch and a failover among them: the segment in which a timeline was left
    /// belongs to the one that goes on, from its beginning (`WalSndSegmentOpen`), and recovery reads it there.
    pub fn start(&self) -> Result<Start, StreamError> {
        let current = self.size.segment_at(self.server);
        let mut number = self.first();
        while self.is_settled(number) {
            number = number.next();
        }
        if number.start(self.size) > self.server {
            let timeline = self.history.timeline();
            // The server's last segment may be complete here: it was switched, and nothing was written since.
            if number == current.next() || number.start(self.size) == self.server {
                return Ok(Start { segment: self.on_way(number) });
            }
            return Err(StreamError::Behind { timeline, server: self.server, held: number.start(self.size) });
        }
        Ok(Start { segment: self.on_way(number) })
    }

    /// Where looking begins.
    fn first(&self) -> SegmentNumber {
        if let Some(wanted) = self.wanted {
            return self.size.segment_at(wanted);
        }
        // Without a backup nothing before matters: what is newest is followed, else what the slot keeps.
        let on_way = |segment: &&WalSegment| self.on_way(segment.number) == **segment;
        let newest = self.held.iter().filter(on_way).map(|segment| segment.number).max();
        let retained = self.retained.map(|lsn| self.size.segment_at(lsn));
        newest.or(retained).unwrap_or_else(|| self.size.segment_at(self.server))
    }

    fn is_settled(&self, number: SegmentNumber) -> bool {
        let segment = self.on_way(number);
        self.held.contains(&segment) || self.lost.contains(&segment)
    }

    fn on_way(&self, number: SegmentNumber) -> WalSegment {
        walkeep_chunkstore::wal::segment_on(self.history, number, self.size)
    }
}

/// What the newest WAL of a timeline that was left tells: whether the server went on without some of it.
pub fn left_behind(history: &TimelineHistory, timeline: TimelineId, held_up_to: Lsn) -> Option<Lsn> {
    match history.end_of(timeline) {
        Some(Some(end)) if held_up_to > end => Some(end),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 1 << 20;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn segment(on: u32, number: u64) -> WalSegment {
        WalSegment { timeline: timeline(on), number: SegmentNumber::new(number) }
    }

    struct Case {
        history: TimelineHistory,
        held: BTreeSet<WalSegment>,
        lost: BTreeSet<WalSegment>,
        wanted: Option<u64>,
        retained: Option<u64>,
        server: u64,
    }

    impl Case {
        fn new(on: u32, history: &str) -> Self {
            let history = TimelineHistory::parse(timeline(on), history.as_bytes()).unwrap();
            let (held, lost) = (BTreeSet::new(), BTreeSet::new());
            Self { history, held, lost, wanted: None, retained: None, server: 20 * u64::from(SIZE) + 100 }
        }

        fn hold(mut self, on: u32, numbers: std::ops::RangeInclusive<u64>) -> Self {
            self.held.extend(numbers.map(|number| segment(on, number)));
            self
        }

        fn start(&self) -> Result<WalSegment, StreamError> {
            let lsn = |number: u64| Lsn::new(number * u64::from(SIZE) + 40);
            let situation = Situation {
                history: &self.history,
                size: WalSegmentSize::new(SIZE).unwrap(),
                server: Lsn::new(self.server),
                held: &self.held,
                lost: &self.lost,
                wanted: self.wanted.map(lsn),
                retained: self.retained.map(lsn),
            };
            situation.start().map(|start| start.segment)
        }
    }

    #[test]
    fn a_first_start_takes_what_the_slot_keeps() {
        let mut case = Case::new(1, "");
        assert_eq!(case.start().unwrap(), segment(1, 20));
        case.retained = Some(18);
        assert_eq!(case.start().unwrap(), segment(1, 18));
        // The server may still have what its slot does not keep; it says so if not.
        case = case.hold(1, 10..=14);
        assert_eq!(case.start().unwrap(), segment(1, 15));
    }

    #[test]
    fn a_hole_behind_the_backup_is_filled() {
        let mut case = Case::new(1, "").hold(1, 3..=9).hold(1, 12..=14);
        assert_eq!(case.start().unwrap(), segment(1, 15), "no backup needs what is before");
        case.wanted = Some(5);
        assert_eq!(case.start().unwrap(), segment(1, 10));
        case.lost.extend([segment(1, 10), segment(1, 11)]);
        assert_eq!(case.start().unwrap(), segment(1, 15), "what is lost is not asked for again");
    }

    #[test]
    fn the_way_leads_over_ancestors() {
        // Timeline 4 left 1 within segment 9: that segment is the new one's, from its beginning.
        let history = format!("1\t0/{:X}\tx\n", 9 * SIZE + 5000);
        let mut case = Case::new(4, &history).hold(1, 3..=9);
        case.wanted = Some(3);
        assert_eq!(case.start().unwrap(), segment(4, 9));
        let mut case = Case::new(4, &history).hold(1, 3..=7);
        case.wanted = Some(3);
        assert_eq!(case.start().unwrap(), segment(1, 8), "the old one's end first");
        // What the old one wrote of that segment does not stand for it.
        let mut case = Case::new(4, &history).hold(1, 3..=9).hold(4, 9..=11);
        case.wanted = Some(3);
        assert_eq!(case.start().unwrap(), segment(4, 12));
        // Left at the very end of segment 8: all of it is the old one's.
        let mut case = Case::new(4, &format!("1\t0/{:X}\tx\n", 9 * SIZE)).hold(1, 3..=7);
        case.wanted = Some(3);
        assert_eq!(case.start().unwrap(), segment(1, 8));
        assert_eq!(case.hold(1, 8..=8).start().unwrap(), segment(4, 9));
    }

    #[test]
    fn a_server_behind_is_no_source() {
        let mut case = Case::new(1, "").hold(1, 3..=30);
        case.wanted = Some(3);
        assert!(matches!(case.start(), Err(StreamError::Behind { .. })));
        case.server = 31 * u64::from(SIZE);
        assert_eq!(case.start().unwrap(), segment(1, 31), "it stands just behind its last segment");
    }

    #[test]
    fn wal_that_the_new_primary_lacks_is_noticed() {
        let history = TimelineHistory::parse(timeline(2), b"1\t0/500000\tx\n").unwrap();
        assert_eq!(left_behind(&history, timeline(1), Lsn::new(0x50_0000)), None);
        assert_eq!(left_behind(&history, timeline(1), Lsn::new(0x50_0008)), Some(Lsn::new(0x50_0000)));
        assert_eq!(left_behind(&history, timeline(2), Lsn::new(0x90_0000)), None);
    }
}
