//! A base backup on its way from the server: a thread receives, the copy takes what has come.

use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use crossbeam_channel::{Receiver, Sender, bounded};
use walkeep_proto::replication::base_backup::{BackupPosition, BackupTablespace, BaseBackupOptions};
use walkeep_proto::version::MajorVersion;

use crate::postgres::connection::{BackupEnd, BackupPart, BaseBackup, Connection, Purpose};
use crate::postgres::conninfo::Conninfo;
use crate::stop_flag::StopFlag;

/// Messages between socket and copy; each holds at most some 32 KiB of the server's data, and the read it came by.
const MESSAGES: usize = 64;

/// What comes next.
pub enum Event {
    /// The server begins to send; always the first.
    Begun(Begun),
    /// A part of the backup.
    Part(BackupPart),
    /// Everything has come.
    End(BackupEnd),
}

/// What the server says before it sends.
pub struct Begun {
    /// Where the backup begins.
    pub start: BackupPosition,
    /// What it holds; the data directory last.
    pub tablespaces: Vec<BackupTablespace>,
}

/// A base backup that is being received.
pub struct Incoming {
    events: Option<Receiver<Result<Event>>>,
    /// What was looked at and is still to be taken.
    ahead: Option<Event>,
    stop: Arc<StopFlag>,
    thread: Option<JoinHandle<()>>,
}

impl Incoming {
    /// Connects, and returns when the server begins to send. Blocks for as long as its checkpoint takes.
    pub fn start(conninfo: Conninfo, options: BaseBackupOptions, version: MajorVersion) -> Result<(Self, Begun)> {
        let (sender, events) = bounded(MESSAGES);
        let stop = Arc::new(StopFlag::default());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("base backup".to_owned()).spawn(move || {
            if let Err(error) = receive(&conninfo, &options, version, &stopped, &sender) {
                // Nobody wants to know when the copy has failed.
                let _ = sender.send(Err(error));
            }
        });
        let thread = thread.context("unable to start the thread that receives the backup")?;
        let incoming = Self { events: Some(events), ahead: None, stop, thread: Some(thread) };
        match incoming.receive()? {
            Event::Begun(begun) => Ok((incoming, begun)),
            Event::Part(_) | Event::End(_) => bail!("the server's data came before its beginning"),
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
        let event = self.events.as_ref().and_then(|events| events.recv().ok());
        event.context("the thread that receives the backup died")?
    }
}

impl Drop for Incoming {
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
    options: &BaseBackupOptions,
    version: MajorVersion,
    stop: &StopFlag,
    sender: &Sender<Result<Event>>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("unable to start receiving")?;
    let received = runtime.block_on(async {
        let mut backup = match stop.unless(begin(conninfo, options, version)).await {
            Some(backup) => backup?,
            None => return Ok(()),
        };
        let begun = Begun { start: backup.start, tablespaces: backup.tablespaces.clone() };
        if sender.send(Ok(Event::Begun(begun))).is_err() {
            return Ok(());
        }
        while let Some(part) = stop.unless(backup.next()).await.transpose()?.flatten() {
            if sender.send(Ok(Event::Part(part))).is_err() {
                return Ok(());
            }
        }
        if let Some(end) = stop.unless(backup.finish()).await.transpose()? {
            let _ = sender.send(Ok(Event::End(end)));
        }
        Ok(())
    });
    // A name may still be looked up, which nobody can interrupt.
    runtime.shutdown_background();
    received
}

async fn begin(conninfo: &Conninfo, options: &BaseBackupOptions, version: MajorVersion) -> Result<BaseBackup> {
    let connection = Connection::connect(conninfo, Purpose::PhysicalReplication).await;
    let connection = connection.context("unable to open a replication connection")?;
    connection.base_backup(options, version).await.context("unable to start the base backup")
}
