//! The server's history: its files come first, and what it left behind is told.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::SystemIdentification;
use walkeep_proto::segment::{WalFileName, WalSegment};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::super::StreamError;
use super::super::resume::left_behind;
use super::super::status::SideBranch;
use super::connecting::answered;
use super::{Attempts, aside};
use crate::archive;
use crate::postgres::connection::Connection;

impl Attempts<'_> {
    /// Brings the history files of the server's timeline and of all its ancestors into the repository: recovery needs them
    /// before any segment of theirs.
    pub(super) async fn store_histories(
        &self,
        connection: &mut Connection,
        server: &SystemIdentification,
    ) -> Result<TimelineHistory, StreamError> {
        if server.timeline == TimelineId::FIRST {
            return Ok(TimelineHistory::without_ancestors(TimelineId::FIRST));
        }
        let newest = self.store_history(connection, server.timeline).await?;
        for switch in newest.switches().iter().filter(|switch| switch.parent != TimelineId::FIRST) {
            self.store_history(connection, switch.parent).await?;
        }
        Ok(newest)
    }

    async fn store_history(
        &self,
        connection: &mut Connection,
        timeline: TimelineId,
    ) -> Result<TimelineHistory, StreamError> {
        let file = WalFileName::History(timeline);
        let archive = self.context.archive();
        let stored = aside(|| archive.history(timeline));
        if let Some(history) = stored.map_err(|error| StreamError::Repository(error.into()))? {
            return Ok(history);
        }
        let told = answered(connection.timeline_history(timeline)).await?;
        let told = told.ok_or_else(|| StreamError::Protocol(format!("the server has no {file}")))?;
        let level = self.context.config.compression.level;
        let pushed = aside(|| archive::push_history_text(&archive, timeline, &told.content, level));
        pushed.map(|(_, history)| history).map_err(StreamError::Repository)
    }

    /// Commits that were received on a timeline which the server's history leaves before them.
    pub(super) fn note_side_branches(&self, history: &TimelineHistory, held: &BTreeSet<WalSegment>) {
        let size = self.spool.size();
        let open = self.spool.contents().unwrap_or_default().into_iter().filter(|spooled| !spooled.complete);
        let ends = open.filter_map(|spooled| {
            let open = self.spool.begin(spooled.segment).ok()?;
            Some((spooled.segment.timeline, open.lsn(open.known_end())))
        });
        let whole = held.iter().map(|segment| (segment.timeline, segment.number.end(size)));
        let mut newest: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        for (timeline, end) in whole.chain(ends) {
            let known = newest.entry(timeline).or_default();
            *known = end.max(*known);
        }
        for (timeline, held_up_to) in newest {
            let Some(left_at) = left_behind(history, timeline, held_up_to) else { continue };
            let branch = SideBranch { timeline, left_at, held_up_to, found: Timestamp::now() };
            if self.losses.add_side_branch(branch) {
                tracing::error!(
                    "the server left timeline {timeline} at {left_at}, and WAL up to {held_up_to} is here: commits in \
                     between are in the repository and not in the server"
                );
            }
        }
    }
}
