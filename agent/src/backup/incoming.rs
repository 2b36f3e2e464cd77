//! A base backup on its way from the server: a thread receives, the copy takes what has come.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use walkeep_chunkstore::repository::ClusterIdentity;
use walkeep_proto::identity::Oid;
use walkeep_proto::replication::base_backup::{
    ArchiveCompression, BackupPosition, BackupTablespace, BaseBackupOptions,
};

use super::local_source::another_cluster;
use super::{LOOK, LeaseKeeper};
use crate::postgres::connection::{BackupEnd, BackupPart, BaseBackup, Connection, Purpose};
use crate::postgres::conninfo::Conninfo;
use crate::stop_flag::StopFlag;

/// Batches between socket and copy.
const BATCHES: usize = 4;
/// Messages of data in a batch, some 32 KiB each: to wake another thread for every one costs as much as to receive it.
const BATCH: usize = 16;

/// What comes next.
pub enum Event {
    /// The server begins to send; always the first.
    Begun(Begun),
    /// An archive begins: that of a tablespace, or of the data directory.
    Archive(Option<Oid>, ArchiveCompression),
    /// The manifest begins.
    Manifest,
    /// The next bytes of what has begun.
    Data(Vec<Bytes>),
    /// Everything has come.
    End(BackupEnd),
}

/// What the server is asked for.
#[derive(Clone)]
pub struct Wanted {
    /// The command.
    pub options: BaseBackupOptions,
    /// For an incremental backup, the manifest of the earlier one.
    pub manifest: Option<Bytes>,
}

/// What the server says before it sends.
pub struct Begun {
    /// Where the backup begins.
    pub start: BackupPosition,
    /// What it holds; the data directory last.
    pub tablespaces: Vec<BackupTablespace>,
}

/// A base backup that is being received.
pub struct Incoming<'k> {
    keeper: &'k LeaseKeeper<'k>,
    events: Option<Receiver<Result<Event>>>,
    /// What was looked at and is still to be taken.
    ahead: Option<Event>,
    stop: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
}

impl<'k> Incoming<'k> {
    /// Connects, and returns when the server begins to send. Blocks for as long as its checkpoint takes, and its summarizer;
    /// `keeper` is asked now and then, whenever the server is waited for.
    ///
    /// # Errors
    /// A conflict where the server is another cluster's: it is asked before it sends anything.
    pub fn start(
        conninfo: Conninfo,
        wanted: Wanted,
        cluster: &ClusterIdentity,
        keeper: &'k LeaseKeeper<'k>,
    ) -> Result<(Self, Begun)> {
        let cluster = cluster.clone();
        let (sender, events) = bounded(BATCHES);
        let stop = Arc::new(StopFlag::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("base backup".to_owned()).spawn(move || {
            if let Err(error) = receive(&conninfo, wanted, &cluster, &stopped, &sender) {
                // Nobody wants to know when the copy has failed.
                let _ = sender.send(Err(error));
            }
        });
        let thread = thread.context("unable to start the thread that receives the backup")?;
        let incoming = Self { keeper, events: Some(events), ahead: None, stop, thread: Some(thread) };
        match incoming.receive()? {
            Event::Begun(begun) => Ok((incoming, begun)),
            _ => bail!("the server's data came before its beginning"),
        }
    }

    /// Waits for what comes next.
    pub fn next(&mut self) -> Result<Event> {
        match self.ahead.take() {
            Some(event) => Ok(event),
            None => self.receive(),
        }
    }

    /// Gives back what is for somebody else.
    pub fn put_back(&mut self, event: Event) {
        self.ahead = Some(event);
    }

    fn receive(&self) -> Result<Event> {
        let events = self.events.as_ref().context("the backup is over")?;
        loop {
            match events.recv_timeout(LOOK) {
                Ok(event) => return event,
                Err(RecvTimeoutError::Timeout) => self.keeper.check()?,
                Err(RecvTimeoutError::Disconnected) => bail!("the thread that receives the backup died"),
            }
        }
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        self.stop.stop();
        // The thread may wait for room.
        self.events = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn receive(
    conninfo: &Conninfo,
    wanted: Wanted,
    cluster: &ClusterIdentity,
    stop: &StopFlag,
    sender: &Sender<Result<Event>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("unable to start receiving")?;
    let received = runtime.block_on(async {
        let mut backup = match stop.unless(begin(conninfo, wanted, cluster)).await {
            Some(backup) => backup?,
            None => return Ok(()),
        };
        let begun = Begun { start: backup.start, tablespaces: backup.tablespaces.clone() };
        if sender.send(Ok(Event::Begun(begun))).is_err() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(part) = stop.unless(backup.next()).await.transpose()?.flatten() {
            let next = match part {
                BackupPart::Data(data) => {
                    batch.push(data);
                    None
                }
                BackupPart::Archive(tablespace, compression) => Some(Event::Archive(tablespace, compression)),
                BackupPart::Manifest => Some(Event::Manifest),
            };
            let full = batch.len() >= BATCH || next.is_some() && !batch.is_empty();
            let data = full.then(|| Event::Data(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))));
            if data.into_iter().chain(next).any(|event| sender.send(Ok(event)).is_err()) {
                return Ok(());
            }
        }
        let _ = sender.send(Ok(Event::Data(batch)));
        if let Some(end) = stop.unless(backup.finish()).await.transpose()? {
            let _ = sender.send(Ok(Event::End(end)));
        }
        Ok(())
    });
    // A name may still be looked up, which nobody can interrupt.
    runtime.shutdown_background();
    received
}

async fn begin(conninfo: &Conninfo, wanted: Wanted, cluster: &ClusterIdentity) -> Result<BaseBackup> {
    let connection = Connection::connect(conninfo, Purpose::PhysicalReplication).await;
    let mut connection = connection.context("unable to open a replication connection")?;
    let (found, expected) = (connection.identify_system().await?.system_identifier, cluster.system_identifier);
    if found != expected {
        return Err(another_cluster(format!(
            "the server has system identifier {found}, the repository holds {expected}"
        )));
    }
    if let Some(manifest) = wanted.manifest {
        connection.upload_manifest(&manifest).await.context("unable to tell the server of the earlier backup")?;
    }
    connection.base_backup(&wanted.options, cluster.major).await.context("unable to start the base backup")
}
