//! The stream of WAL: a session in "copy both" mode, cut into two halves that do not wait for each other.

use anyhow::{Result, bail};
use tokio::io::{ReadHalf, WriteHalf};
use walkeep_proto::replication::{BackendMessage, FrontendMessage, NextTimeline, StandbyStatusUpdate, StreamMessage};

use super::error::{ConnectionClosed, ServerError};
use super::messages::{LARGE_READS, MessageReader, MessageWriter, SMALL_READS};
use super::query::name_of;
use super::transport::Transport;
use super::{Connection, Facts};

/// What came of a request to stream.
pub enum ReplicationStart {
    /// WAL is coming.
    Streaming(ReplicationReader, ReplicationWriter),
    /// The requested position is the very end of a timeline that the server has left: there is nothing to stream.
    EndOfTimeline {
        /// Where the server's history goes on.
        next: NextTimeline,
        /// The session, ready for the next command.
        connection: Box<Connection>,
    },
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEvent {
    /// WAL or a sign of life.
    Message(StreamMessage),
    /// The timeline has ended on this server; [`ReplicationReader::finish`] tells where its history goes on.
    EndOfTimeline,
    /// The server is shutting down, and has sent everything.
    Shutdown,
}

/// How a stream ended.
pub enum StreamEnd {
    /// By both sides' consent.
    Finished {
        /// Where the server's history goes on; none when it was the client that ended the stream.
        next: Option<NextTimeline>,
        /// The session, ready for the next command.
        connection: Box<Connection>,
    },
    /// The server has shut down.
    Shutdown,
}

/// The half that receives.
pub struct ReplicationReader {
    reader: MessageReader<ReadHalf<Transport>>,
    facts: Facts,
    /// Whether the server's side of the copy has ended.
    done: bool,
}

/// The half that reports. It never waits for the other.
pub struct ReplicationWriter {
    writer: MessageWriter<WriteHalf<Transport>>,
    done: bool,
}

/// What a walsender says outside of the data: one loop reads it all, whatever of it comes.
#[derive(Default)]
struct Outcome {
    next: Option<NextTimeline>,
    copy_done: bool,
}

enum Step {
    GoOn,
    CopyBoth,
    Ready,
    Shutdown,
}

impl Outcome {
    /// Takes one message behind START_REPLICATION. `in_copy`: whether the server had begun to stream.
    fn take(&mut self, message: BackendMessage, in_copy: bool) -> Result<Step> {
        match message {
            BackendMessage::CopyBothResponse(_) if !in_copy => return Ok(Step::CopyBoth),
            // What was on its way when we said that we are done.
            BackendMessage::CopyData(_) if in_copy && !self.copy_done => {}
            BackendMessage::CopyDone if in_copy && !self.copy_done => self.copy_done = true,
            // Inside of the copy it is a server that shuts down, and it ends the connection now.
            BackendMessage::CommandComplete(_) if in_copy && !self.copy_done => return Ok(Step::Shutdown),
            BackendMessage::CommandComplete(_) | BackendMessage::RowDescription(_) => {}
            BackendMessage::DataRow(row) => self.next = Some(NextTimeline::parse(&row)?),
            BackendMessage::ReadyForQuery(_) => return Ok(Step::Ready),
            BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
            other => bail!("the server sent {} where a stream begins or ends", name_of(&other)),
        }
        Ok(Step::GoOn)
    }
}

impl Connection {
    /// Sends START_REPLICATION (`walkeep_proto::replication::command::start_replication`).
    ///
    /// Where the server refuses, it may do so here, or only in [`ReplicationReader::next`]: a position that it has not
    /// reached is refused when the stream has begun.
    pub async fn start_replication(mut self, command: &str) -> Result<ReplicationStart> {
        self.begin()?;
        self.writer.send(FrontendMessage::Query(command)).await?;
        let mut outcome = Outcome::default();
        loop {
            match outcome.take(self.reader.next().await?, false)? {
                Step::GoOn => {}
                Step::CopyBoth => break,
                Step::Ready => {
                    let Some(next) = outcome.next else { bail!("the server neither streams nor tells why") };
                    self.ready = true;
                    return Ok(ReplicationStart::EndOfTimeline { next, connection: Box::new(self) });
                }
                Step::Shutdown => bail!(ConnectionClosed),
            }
        }
        self.reader.set_read_size(LARGE_READS);
        let reader = ReplicationReader { reader: self.reader, facts: self.facts, done: false };
        let writer = ReplicationWriter { writer: self.writer, done: false };
        Ok(ReplicationStart::Streaming(reader, writer))
    }
}

impl ReplicationReader {
    /// The next event. May be dropped and called again: nothing is lost.
    ///
    /// The WAL in it is not copied: it keeps the memory of the read that it came by, some 256 KiB, which several messages
    /// may share. Who queues events counts on that.
    ///
    /// # Errors
    /// [`ServerError`] when the server refuses to go on, [`ConnectionClosed`] when it is gone without a word.
    pub async fn next(&mut self) -> Result<StreamEvent> {
        match self.reader.next().await? {
            BackendMessage::CopyData(payload) => Ok(StreamEvent::Message(StreamMessage::decode(payload)?)),
            BackendMessage::CopyDone => {
                self.done = true;
                Ok(StreamEvent::EndOfTimeline)
            }
            BackendMessage::CommandComplete(_) => Ok(StreamEvent::Shutdown),
            BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
            other => bail!("the server sent {} inside of a stream", name_of(&other)),
        }
    }

    /// Host and address of the server, for messages.
    pub fn target(&self) -> &str {
        &self.facts.target
    }

    /// The value of a setting that the server reports by itself, also when it changes during the stream.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.reader.parameters().get(name).map(String::as_str)
    }

    /// Ends the stream: behind [`StreamEvent::EndOfTimeline`], or because we have enough.
    ///
    /// Data that is still on its way is read and forgotten.
    pub async fn finish(mut self, mut writer: ReplicationWriter) -> Result<StreamEnd> {
        let mut outcome = Outcome { next: None, copy_done: self.done };
        // The server may have to get rid of data before it reads our word.
        let drain = async {
            loop {
                match outcome.take(self.reader.next().await?, true)? {
                    Step::GoOn | Step::CopyBoth => {}
                    Step::Ready => return Ok(false),
                    Step::Shutdown => return Ok(true),
                }
            }
        };
        let drained: Result<bool> = tokio::select! {
            biased;
            drained = drain => drained,
            error = async {
                match writer.send_copy_done().await {
                    Ok(()) => std::future::pending().await,
                    Err(error) => error,
                }
            } => Err(error),
        };
        if drained? {
            return Ok(StreamEnd::Shutdown);
        }
        self.reader.set_read_size(SMALL_READS);
        let connection = Connection { reader: self.reader, writer: writer.writer, facts: self.facts, ready: true };
        Ok(StreamEnd::Finished { next: outcome.next, connection: Box::new(connection) })
    }
}

impl ReplicationWriter {
    /// Tells the server where we stand. Waits only while the socket takes nothing; dropped before it is done, the rest
    /// goes out before the next message.
    pub async fn send_status(&mut self, status: &StandbyStatusUpdate) -> Result<()> {
        if self.done {
            bail!("the stream has been ended, no status can be sent");
        }
        self.writer.send_status(status).await
    }

    /// Tells the server that we want no more. Once is enough, more does nothing.
    pub async fn send_copy_done(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.done, true) {
            return self.writer.flush().await;
        }
        self.writer.send(FrontendMessage::CopyDone).await
    }
}
