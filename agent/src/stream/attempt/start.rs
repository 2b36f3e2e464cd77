//! Where to go on: what is held, in the repository and in the spool, and what backups need.

use std::collections::BTreeSet;

use anyhow::Result;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::SystemIdentification;
use walkeep_proto::segment::WalSegment;
use walkeep_proto::timeline::TimelineHistory;

use super::super::StreamError;
use super::super::resume::Situation;
use super::{Attempts, aside};

impl Attempts<'_> {
    /// Where the first complete segment begins that waits in the spool.
    pub(super) fn first_in_spool(&self) -> Result<Option<Lsn>> {
        let mut waiting = self.spool.contents()?.into_iter().filter(|spooled| spooled.complete);
        Ok(waiting.next().map(|spooled| spooled.segment.start(self.spool.size())))
    }

    /// Complete segments in the repository and in the spool.
    pub(super) fn held(&self) -> Result<BTreeSet<WalSegment>> {
        let inventory = self.context.archive().inventory(self.spool.size())?;
        let mut held: BTreeSet<_> = inventory.segments.into_keys().collect();
        held.extend(self.spool.contents()?.into_iter().filter(|spooled| spooled.complete).map(|s| s.segment));
        Ok(held)
    }

    pub(super) fn start(
        &self,
        history: &TimelineHistory,
        server: &SystemIdentification,
        held: &BTreeSet<WalSegment>,
    ) -> Result<WalSegment, StreamError> {
        let situation = Situation {
            history,
            size: self.spool.size(),
            server: server.position,
            held,
            lost: &self.losses.segments(self.spool.size()),
            wanted: aside(|| self.newest_backup(history)).map_err(StreamError::Repository)?,
            retained: self.shared.status().slot.restart_lsn,
        };
        situation.start().map(|start| start.segment)
    }

    /// Where the newest backup on this way begins.
    fn newest_backup(&self, history: &TimelineHistory) -> Result<Option<Lsn>> {
        let backups = self.context.repository.backups(&self.context.layout)?;
        let readable = backups.into_iter().filter_map(|listed| listed.manifest.ok());
        let (cluster, size) = (self.identity.system_identifier, self.spool.size());
        let on_way = readable.filter(|backup| backup.lies_on(history, cluster, size));
        Ok(on_way.map(|backup| backup.start_lsn).max())
    }
}
