//! What the server's WAL summaries cover, and which truncations they name (`backup/walsummary.c`, `walsummaryfuncs.c`).

use anyhow::{Context, Result, ensure};
use walkeep_proto::identity::{BlockNumber, RelFileLocator};
use walkeep_proto::lsn::Lsn;
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::Obstacle;
use crate::postgres::Session;

/// One summary file of the server. Ordered by where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Summary {
    timeline: TimelineId,
    end: Lsn,
    start: Lsn,
}

/// WAL of one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) timeline: TimelineId,
    pub(super) from: Lsn,
    pub(super) to: Lsn,
}

/// A relation whose main fork was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncation {
    pub(super) relation: RelFileLocator,
    /// The first block that was cut off, at the shortest.
    pub(super) block: BlockNumber,
    /// Where it stands.
    pub(super) summary: Summary,
}

impl Piece {
    /// The WAL from this piece's beginning to `end`, as a history tells it, timeline by timeline; `None` where the piece is not
    /// part of that history.
    pub(super) fn until(&self, end: Lsn, history: &TimelineHistory) -> Option<Vec<Self>> {
        let left = history.end_of(self.timeline)?;
        let since = history.timelines().skip_while(|timeline| *timeline != self.timeline);
        let piece = |timeline| Self {
            timeline,
            from: history.start_of(timeline).unwrap_or(Lsn::INVALID).max(self.from),
            to: history.end_of(timeline).flatten().unwrap_or(end),
        };
        left.is_none_or(|left| self.to <= left).then(|| since.map(piece).collect())
    }

    /// A summary of exactly this piece.
    #[cfg(test)]
    pub(super) const fn as_summary(&self) -> Summary {
        Summary { timeline: self.timeline, start: self.from, end: self.to }
    }

    /// Whether the summary is of WAL of this piece.
    pub(super) fn covers(&self, summary: &Summary) -> bool {
        summary.timeline == self.timeline && summary.start < self.to && summary.end > self.from
    }

    /// Refuses a piece that the summaries leave a gap in.
    pub(super) fn check(&self, listed: &[Summary]) -> Result<()> {
        let mut covering: Vec<&Summary> = listed.iter().filter(|summary| self.covers(summary)).collect();
        covering.sort_by_key(|summary| summary.start);
        let mut reached = self.from;
        for summary in covering {
            ensure!(summary.start <= reached, self.gap(reached, summary.start));
            reached = reached.max(summary.end);
        }
        ensure!(reached >= self.to, self.gap(reached, self.to));
        Ok(())
    }

    fn gap(&self, from: Lsn, to: Lsn) -> Obstacle {
        Obstacle::NotSummarised { timeline: self.timeline.get(), from, to }
    }
}

/// All summaries that the server has, in no order.
pub(super) fn listed(session: &Session) -> Result<Vec<Summary>> {
    let rows = session.rows("SELECT tli, start_lsn, end_lsn FROM pg_available_wal_summaries()");
    let rows = rows.context("unable to ask for the server's WAL summaries")?;
    rows.iter()
        .map(|row| summary(row).with_context(|| format!("unable to understand the WAL summary {row:?}")))
        .collect()
}

/// The truncations that the summaries of these pieces name; only those of summaries that end behind `known`.
pub(super) fn truncations(session: &Session, pieces: &[Piece], known: Option<&Summary>) -> Result<Vec<Truncation>> {
    let mut truncations = Vec::new();
    for piece in pieces {
        let behind = known.filter(|known| known.timeline == piece.timeline).map_or(piece.from, |known| known.end);
        // The server also reads a summary that begins where the timeline was left, which is of WAL that was given up. Main
        // forks only: the others are never sent in part. Those that were cut off whole come whole, too.
        let rows = session.rows(&format!(
            "SELECT s.tli, s.start_lsn, s.end_lsn, c.reltablespace, c.reldatabase, c.relfilenode, min(c.relblocknumber) \
             FROM pg_available_wal_summaries() s, pg_wal_summary_contents(s.tli, s.start_lsn, s.end_lsn) c \
             WHERE s.tli = {} AND s.start_lsn <= '{}' AND s.end_lsn > '{behind}' \
             AND c.is_limit_block AND c.relforknumber = 0 AND c.relblocknumber > 0 GROUP BY 1, 2, 3, 4, 5, 6",
            piece.timeline, piece.to
        ));
        let rows = rows.context("unable to read the server's WAL summaries")?;
        for row in &rows {
            truncations.push(truncation(row).with_context(|| format!("unable to understand the truncation {row:?}"))?);
        }
    }
    Ok(truncations)
}

fn summary(row: &[Option<String>]) -> Option<Summary> {
    let [Some(timeline), Some(start), Some(end), ..] = row else { return None };
    Some(Summary { timeline: timeline.parse().ok()?, start: start.parse().ok()?, end: end.parse().ok()? })
}

fn truncation(row: &[Option<String>]) -> Option<Truncation> {
    let [_, _, _, Some(tablespace), Some(database), Some(relation), Some(block)] = row else { return None };
    let [tablespace, database, relation] = [tablespace, database, relation].map(|oid| oid.parse().ok());
    let relation = RelFileLocator { tablespace: tablespace?, database: database?, relation: relation? };
    Some(Truncation { relation, block: block.parse().ok()?, summary: summary(row)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(start: u64, end: u64) -> Summary {
        Summary { timeline: TimelineId::FIRST, start: Lsn::new(start), end: Lsn::new(end) }
    }

    fn outcome(from: u64, to: u64, listed: &[Summary]) -> Result<(), String> {
        let piece = Piece { timeline: TimelineId::FIRST, from: Lsn::new(from), to: Lsn::new(to) };
        piece.check(listed).map_err(|error| error.to_string())
    }

    #[test]
    fn a_gap_is_found_wherever_it_is() {
        let listed = [summary(40, 60), summary(10, 40), summary(70, 90)];
        assert_eq!(outcome(10, 60, &listed), Ok(()));
        assert_eq!(outcome(15, 55, &listed), Ok(()));
        assert_eq!(outcome(75, 80, &listed), Ok(()));
        assert_eq!(outcome(20, 20, &listed), Ok(()));
        assert_eq!(outcome(50, 80, &listed).unwrap_err(), "the WAL of timeline 1 is not summarised from 0/3C to 0/46");
        assert!(outcome(5, 30, &listed).unwrap_err().ends_with("from 0/5 to 0/A"));
        assert!(outcome(75, 100, &listed).unwrap_err().ends_with("from 0/5A to 0/64"));
        assert!(outcome(60, 70, &listed).unwrap_err().ends_with("from 0/3C to 0/46"));
        let elsewhere = Summary { timeline: TimelineId::new(2).unwrap(), ..summary(0, 100) };
        assert!(outcome(10, 60, &[elsewhere]).is_err());
    }

    #[test]
    fn wal_goes_on_where_the_history_says() {
        let timeline = |number| TimelineId::new(number).unwrap();
        let history = TimelineHistory::parse(timeline(4), b"1 0/30 x\n3 0/50 y\n").unwrap();
        let piece = |number, from, to| Piece { timeline: timeline(number), from: Lsn::new(from), to: Lsn::new(to) };
        let end = Lsn::new(0x90);
        let all = vec![piece(1, 0x10, 0x30), piece(3, 0x30, 0x50), piece(4, 0x50, 0x90)];
        assert_eq!(piece(1, 0x10, 0x20).until(end, &history), Some(all));
        assert_eq!(piece(3, 0x35, 0x50).until(end, &history), Some(vec![piece(3, 0x35, 0x50), piece(4, 0x50, 0x90)]));
        assert_eq!(piece(4, 0x60, 0x70).until(end, &history), Some(vec![piece(4, 0x60, 0x90)]));
        // A branch that was left before the backup ended, and one that was never part of it.
        assert_eq!(piece(1, 0x10, 0x31).until(end, &history), None);
        assert_eq!(piece(2, 0x10, 0x20).until(end, &history), None);
    }

    #[test]
    fn rows_are_truncations() {
        let row = |values: &[&str]| -> Vec<Option<String>> { values.iter().map(|v| Some((*v).to_owned())).collect() };
        let found = truncation(&row(&["1", "0/28", "0/90", "1663", "5", "16384", "1600"])).unwrap();
        assert_eq!((found.block, found.summary), (1600, summary(0x28, 0x90)));
        assert_eq!(found.relation, RelFileLocator { tablespace: 1663, database: 5, relation: 16_384 });
        assert_eq!(truncation(&row(&["1", "0/28", "0/90", "1663", "5", "16384", "-1"])), None);
        assert_eq!(truncation(&[None, None]), None);
    }
}
