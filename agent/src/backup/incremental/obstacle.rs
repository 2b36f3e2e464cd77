//! Why a server sends everything.

use std::time::Duration;

use jiff::Timestamp;
use walkeep_proto::lsn::Lsn;

/// Why the server sends everything.
#[derive(Debug, thiserror::Error)]
pub(super) enum Obstacle {
    #[error("summarize_wal is off")]
    Off,
    #[error("[schedule] full_read_every is {} s, and {}", every.as_secs(), match last {
        Some(last) => format!("everything was read last at {last}"),
        None => "no earlier backup is known that has read everything".to_owned(),
    })]
    FullReadDue { every: Duration, last: Option<Timestamp> },
    #[error("backup {parent} is of the time when data_checksums was {was}, now it is {is}")]
    ChecksumsChanged { parent: String, was: bool, is: bool },
    #[error("backup {parent} has {total} damaged pages and names {named} of them")]
    DamageUnknown { parent: String, total: u64, named: usize },
    #[error(
        "backup {parent} ends at {stop} on timeline {timeline}, which is not in the history of the server's timeline {servers}"
    )]
    AnotherHistory { parent: String, stop: Lsn, timeline: u32, servers: u32 },
    #[error("the WAL of timeline {timeline} is not summarised from {from} to {to}")]
    NotSummarised { timeline: u32, from: Lsn, to: Lsn },
    #[error("'{0}' was truncated while the backup began")]
    Truncated(String),
    #[error("backup {0} has file lists that cannot be read")]
    Unreadable(String),
    #[error("segments of {pages} pages of {page_size} bytes exceed 4 GiB, behind which servers mistake blocks")]
    LongSegments { pages: u32, page_size: u32 },
    #[error("WAL segment {segment} has two contents: the cluster went back, or there are two of them")]
    TwoPasts { segment: String },
    #[error("the backup starts on timeline {start}, the server is on {server}")]
    OtherTimeline { start: u32, server: u32 },
}

impl Obstacle {
    /// Whether it is as the operator has arranged it.
    const fn is_arranged(&self) -> bool {
        matches!(self, Self::Off | Self::FullReadDue { .. })
    }
}

/// The server will not, or cannot, send only what has changed.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct NotIncremental(anyhow::Error);

impl NotIncremental {
    /// For this reason.
    pub fn of(why: impl Into<anyhow::Error>) -> Self {
        Self(why.into())
    }
}

/// Says why the server sends everything.
pub fn tell(why: &anyhow::Error) {
    let inner = why.downcast_ref::<NotIncremental>().map_or(why, |not| &not.0);
    if inner.downcast_ref().is_some_and(Obstacle::is_arranged) {
        tracing::info!("the server sends everything: {why:#}");
    } else {
        tracing::warn!("the server sends everything: {why:#}");
    }
}
