//! WAL as it is written: a physical replication client that keeps the repository within seconds of the server.
//!
//! `receive` takes WAL from the socket; `disk` makes it durable in the `spool`, which is what the server is told;
//! `store` takes it from there into the repository, whole segments as they complete and the open one's tail every few
//! seconds; `slot` keeps the server from removing what the repository lacks. Queues between them are bounded, and none
//! waits for a later one, except that a full disk stops receiving.
//!
//! Where streaming begins is decided anew at each connection, from what is held and what the server is: `resume`.
//! Nothing else is remembered but losses (`record`).

mod attempt;
mod checks;
mod damage;
mod disk;
mod error;
#[cfg(test)]
mod made_wal;
mod open_segment;
mod receive;
mod record;
mod resume;
mod slot;
mod spool;
mod status;
mod store;
mod sweep;
mod told;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::lsn::Lsn;

use crate::archive::SegmentLedger;
use crate::config::StreamSettings;
use crate::context::Context;
use crate::postgres::Session;
use crate::postgres::conninfo::Conninfo;
use crate::repository::Ask;
use crate::supervise::supervised;
use attempt::Attempts;
use record::Losses;
use slot::SlotKeeper;
use spool::Spool;
use status::Shared;
use store::Store;
use sweep::Sweep;

pub use checks::{examine, losses};
pub use error::StreamError;
pub use status::{Gap, SideBranch, SlotStatus, StreamStatus};

/// Pause before the repository is asked again who the cluster is.
const RETRY: Duration = Duration::from_secs(5);
/// In SQL: up to where the server has WAL.
const CURRENT_LSN: &str = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END";

/// The stream of the configured cluster.
pub struct Stream {
    shared: Arc<Shared>,
    settings: StreamSettings,
    ledger: Arc<SegmentLedger>,
}

impl Stream {
    /// Nothing runs yet. What it stores is remembered in `stored`.
    pub fn new(settings: StreamSettings, ledger: Arc<SegmentLedger>) -> Self {
        Self { shared: Arc::default(), settings, ledger }
    }

    /// How far it is.
    pub fn status(&self) -> StreamStatus {
        self.shared.status()
    }

    /// Up to where WAL was in the repository at this moment, as far as it is remembered.
    pub fn stored_before(&self, moment: Timestamp) -> Option<Lsn> {
        self.shared.stored_before(moment)
    }

    /// Works until [`Stream::stop`].
    pub fn run(&self, context: &Context) {
        let Some((identity, spool)) = self.prepare(context) else { return };
        let (spool, sweep) = (Arc::new(spool), Arc::<Sweep>::default());
        let losses = Losses::load(directory(context), Arc::clone(&self.shared));
        let store = Store {
            losses: &losses,
            spool: Arc::clone(&spool),
            shared: Arc::clone(&self.shared),
            archive: context.archive(),
            identity: identity.clone(),
            level: context.config.compression.level,
            ledger: Arc::clone(&self.ledger),
            tail_interval: self.settings.tail_interval,
            sweep: Arc::clone(&sweep),
        };
        let slot = self.settings.slot.clone().map(|name| {
            let system_identifier = identity.system_identifier;
            SlotKeeper { context, shared: &self.shared, system_identifier, name }
        });
        let attempts = Attempts {
            context,
            settings: &self.settings,
            shared: &self.shared,
            spool,
            identity,
            store: &store,
            losses: &losses,
        };
        let wait = |time| self.shared.wait_for_stop(time);
        std::thread::scope(|scope| {
            let storing = scope.spawn(|| supervised("the thread that stores WAL", wait, || store.run()));
            scope.spawn(|| {
                let sweep = || sweep.run(&store.archive, store.spool.size(), &self.shared);
                supervised("the thread that removes tails", wait, sweep);
            });
            if let Some(slot) = &slot {
                scope.spawn(|| supervised("the slot's thread", wait, || slot.run()));
            }
            supervised("the thread that receives WAL", wait, || attempts.run());
            // What was received last is durable now: it is stored before the agent ends.
            self.shared.received_all();
            if storing.join().is_err() {
                tracing::error!("the thread that stores WAL could not be ended");
            }
            sweep.stop();
        });
    }

    /// Ends [`Stream::run`] when what was received is stored.
    pub fn stop(&self) {
        self.shared.stop.stop();
    }

    /// Who the cluster is, and its spool; `None` when the end comes first.
    fn prepare(&self, context: &Context) -> Option<(ClusterIdentity, Spool)> {
        loop {
            match self.open(context) {
                Ok(opened) => return Some(opened),
                Err(error) => {
                    let error = StreamError::Repository(error);
                    if self.shared.failed(&error) {
                        tracing::error!("unable to stream WAL: {error}");
                    }
                }
            }
            if self.shared.wait_for_stop(RETRY) {
                return None;
            }
        }
    }

    fn open(&self, context: &Context) -> Result<(ClusterIdentity, Spool)> {
        if context.storages.waits_for_mirror() {
            context.join_mirrors(Ask::WhatIsUnknown)?;
        }
        let identity = context.identity()?;
        let spool = Spool::open(directory(context), identity.wal_segment_size)?;
        Ok((identity, spool))
    }
}

/// How to connect to the cluster now.
fn conninfo(context: &Context) -> Result<Conninfo, StreamError> {
    let text = context.config.conninfo().map_err(StreamError::of_connection)?;
    Conninfo::resolve(&text).map_err(|error| StreamError::of_connection(error.into()))
}

/// A SQL session beside the stream, which the end of the agent interrupts.
fn session(context: &Context, shared: &Shared) -> Result<Session, StreamError> {
    Session::connect_until(conninfo(context)?, Arc::clone(&shared.stop)).map_err(StreamError::of_connection)
}

/// Where the cluster's spool is.
fn directory(context: &Context) -> PathBuf {
    context.config.state.dir.join("stream").join(context.config.cluster_name())
}
