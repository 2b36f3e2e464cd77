//! A backup without its WAL cannot be restored: archiving is proven before the copy, the WAL itself before the commit.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use walkeep_chunkstore::wal::WalArchive;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::segment::{SegmentNumber, WalFileName, WalSegment, WalSegmentSize};
use walkeep_proto::timeline::{TimelineHistory, TimelineId};

use super::LeaseKeeper;
use super::session::StoppedBackup;
use crate::postgres::Session;

/// How often the repository is asked for a segment that is on its way.
const POLL: Duration = Duration::from_millis(5);
/// A bucket is asked less and less often, down to this: each question is a request that costs.
const SLOWEST_POLL: Duration = Duration::from_secs(1);

/// A segment did not arrive: the archive is broken.
#[derive(Debug, thiserror::Error)]
#[error("WAL segment {segment} was not archived within {} s{detail}", waited.as_secs())]
pub struct NotArchived {
    /// File name of the segment.
    pub segment: String,
    /// How long it was waited for.
    pub waited: Duration,
    /// What the archiver itself reports.
    pub detail: String,
}

/// PostgreSQL is not set up to archive: nothing needs to be waited for to know that.
#[derive(Debug, thiserror::Error)]
#[error("{name} is {value}: {consequence}")]
pub struct NotConfigured {
    name: &'static str,
    value: String,
    consequence: &'static str,
}

/// Looks at the settings without which no segment will ever arrive. What an agent streams needs no archiver, nor does a
/// standby, whose primary archives.
pub fn check_settings(session: &Session, is_archived_elsewhere: bool) -> Result<()> {
    let row = session.row("SELECT current_setting('wal_level'), current_setting('archive_mode')")?;
    for (value, refused, name, consequence) in [
        (&row[0], "minimal", "wal_level", "such WAL cannot be replayed"),
        (&row[1], "off", "archive_mode", "no WAL is archived, and a backup without its WAL cannot be restored"),
    ] {
        if value == refused && !(is_archived_elsewhere && name == "archive_mode") {
            return Err(NotConfigured { name, value: value.clone(), consequence }.into());
        }
    }
    Ok(())
}

/// Fills and closes the current segment. Its arrival will prove that archiving works.
pub fn switch_segment(session: &Session, size: WalSegmentSize) -> Result<WalFileName> {
    // A segment without a record is not switched; the restore point is one.
    session.execute("SELECT pg_create_restore_point('walkeep archive check')")?;
    let switched = session.value("SELECT pg_switch_wal()")?.parse().context("unable to understand pg_switch_wal")?;
    // The control file learns of a new timeline only at a checkpoint; the insert position is on it at once.
    let current = session.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")?;
    let WalFileName::Segment(current) = current.parse().context("unable to understand pg_walfile_name")? else {
        anyhow::bail!("pg_walfile_name gave '{current}'");
    };
    file_name(WalSegment { timeline: current.timeline, number: size.segment_before(switched) }, size)
}

fn file_name(segment: WalSegment, size: WalSegmentSize) -> Result<WalFileName> {
    segment.file_name(size).parse().context("unable to name a segment")
}

/// Waits until a segment that was closed is in the repository.
pub fn wait_for_probe(
    archive: &WalArchive,
    keeper: &LeaseKeeper<'_>,
    probe: WalFileName,
    limit: Duration,
) -> Result<()> {
    let (is_there, is_closed) = (|| Ok(archive.contains(&probe)?), true);
    wait_for(archive, keeper, &probe, limit, is_closed, &is_there)
        .context("unable to start copying, archiving does not work")
}

/// The segment that a standby's backup starts in, if its primary has closed it: it must be archived, or on its way.
pub fn closed_by_primary(
    session: &Session,
    start: Lsn,
    timeline: TimelineId,
    size: WalSegmentSize,
) -> Result<Option<WalFileName>> {
    // Nothing where it has just been promoted: that is told at the end.
    let replayed = session.value("SELECT pg_last_wal_replay_lsn()")?;
    if replayed.is_empty() {
        return Ok(None);
    }
    let replayed: Lsn = replayed.parse().context("unable to understand the standby's position")?;
    let number = size.segment_at(start);
    let is_closed = number < size.segment_at(replayed);
    is_closed.then(|| file_name(WalSegment { timeline, number }, size)).transpose()
}

/// Waits until the WAL that recovery needs to become consistent is in the repository. The last segment of a standby's
/// backup may be a tail: a standby cannot have its primary close it, and an idle primary does not.
pub fn wait_for_range(
    archive: &WalArchive,
    keeper: &LeaseKeeper<'_>,
    backup: &StoppedBackup,
    size: WalSegmentSize,
    may_end_in_tail: bool,
    limit: Duration,
) -> Result<()> {
    let last = size.segment_before(backup.stop_lsn);
    let mut number: SegmentNumber = size.segment_at(backup.start_lsn);
    while number <= last {
        let segment = WalSegment { timeline: backup.timeline, number };
        let file = file_name(segment, size)?;
        let is_there = || {
            Ok(archive.contains(&file)?
                || may_end_in_tail
                    && number == last
                    && archive.tail_end(segment, size)?.is_some_and(|end| end >= backup.stop_lsn))
        };
        wait_for(archive, keeper, &file, limit, number < last, &is_there)
            .context("unable to commit the backup, its WAL is missing")?;
        number = number.next();
    }
    Ok(())
}

/// Waits as long as the archiver gets on: a backlog takes its time, a broken archive does not move.
fn wait_for(
    archive: &WalArchive,
    keeper: &LeaseKeeper<'_>,
    file: &WalFileName,
    limit: Duration,
    is_closed: bool,
    is_there: &dyn Fn() -> Result<bool>,
) -> Result<()> {
    if is_there()? {
        return Ok(());
    }
    let session = keeper.session;
    let mut archived = last_archived(session, archive)?;
    let mut moved = Instant::now();
    let is_remote = archive.repository().storage().parallel_reads() > 1;
    let mut pause = if is_remote { POLL * 10 } else { POLL };
    while !is_there()? {
        keeper.check()?;
        let waited = moved.elapsed();
        if waited >= limit {
            let last = last_archived(session, archive)?;
            if last == archived {
                let detail = archiver_report(session, is_closed).unwrap_or_default();
                return Err(NotArchived { segment: file.to_string(), waited, detail }.into());
            }
            archived = last;
            moved = Instant::now();
        }
        std::thread::sleep(pause);
        if is_remote {
            pause = (pause * 2).min(SLOWEST_POLL);
        }
    }
    Ok(())
}

/// The file that the archiver stored last; empty before its first. A standby knows nothing of its primary's: there it is how
/// many objects the archive has.
fn last_archived(session: &Session, archive: &WalArchive) -> Result<String> {
    if session.value("SELECT pg_is_in_recovery()")? == "t" {
        return Ok(archive.repository().storage().list(&archive.layout().wal())?.len().to_string());
    }
    session.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")
}

/// What `pg_stat_archiver` says about the last failure, if there was one after the last success; on a standby, what to do
/// about a segment that its primary has closed, or has not.
fn archiver_report(session: &Session, is_closed: bool) -> Result<String> {
    if session.value("SELECT pg_is_in_recovery()")? == "t" {
        let advice = if is_closed {
            "its primary has closed this segment; see to archiving there; what is older than its archiving is not needed after \
             a CHECKPOINT there and then here"
        } else {
            "its primary archives; run `SELECT pg_switch_wal()` there, or have the agent stream"
        };
        return Ok(format!(": the server is a standby, {advice}"));
    }
    let row = session.row(
        "SELECT coalesce(last_failed_wal, ''), coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false) FROM pg_stat_archiver",
    )?;
    Ok(match row.as_slice() {
        [wal, failing] if failing == "t" => format!(": archive_command fails, last for {wal}; see the server's log"),
        _ => String::new(),
    })
}

/// Makes sure that the repository can follow the backup's timeline back to its origin. `store` brings a timeline's history
/// from the server into the repository, and gives nothing where the server has none.
pub fn store_histories(
    archive: &WalArchive,
    timeline: TimelineId,
    store: &dyn Fn(TimelineId) -> Result<Option<TimelineHistory>>,
) -> Result<()> {
    if timeline == TimelineId::FIRST {
        return Ok(());
    }
    let stored = |timeline| match archive.history(timeline)? {
        Some(history) => Ok(Some(history)),
        None => store(timeline),
    };
    let newest = stored(timeline)?.with_context(|| format!("the server has no history of its timeline {timeline}"))?;
    for switch in newest.switches().iter().filter(|switch| switch.parent != TimelineId::FIRST) {
        // Recovery reads the newest one, which names all ancestors; a server that was rebuilt from another one lacks theirs.
        if stored(switch.parent)?.is_none() {
            tracing::warn!("neither server nor repository has the history of timeline {}", switch.parent);
        }
    }
    Ok(())
}
