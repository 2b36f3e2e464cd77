//! `BASE_BACKUP`: one session that sends a whole cluster.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use walkeep_proto::identity::Oid;
use walkeep_proto::replication::base_backup::{
    ArchiveCompression, BackupMessage, BackupPosition, BackupTablespace, BaseBackupOptions, UPLOAD_MANIFEST,
    has_one_copy, parse_archive_name,
};
use walkeep_proto::replication::{BackendMessage, FrontendMessage, ServerMessage, SqlState};
use walkeep_proto::version::MajorVersion;

use super::Connection;
use super::error::ServerError;
use super::messages::LARGE_READS;
use super::query::name_of;

/// Tablespaces that one cluster may have here.
const MOST_TABLESPACES: usize = 100_000;
/// Bytes of a manifest in one message.
const UPLOADED_AT_ONCE: usize = 64 << 10;

/// What a base backup consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPart {
    /// The archive of a tablespace begins; of the data directory where there is no OID.
    Archive(Option<Oid>, ArchiveCompression),
    /// The manifest begins.
    Manifest,
    /// The next bytes of what has begun.
    Data(Bytes),
}

/// A base backup that is being received.
pub struct BaseBackup {
    connection: Connection,
    /// Where it begins.
    pub start: BackupPosition,
    /// What it holds; the data directory last.
    pub tablespaces: Vec<BackupTablespace>,
    one_copy: bool,
    /// Archives that have begun.
    archives: usize,
    manifest: bool,
    /// Versions before 15: the copy that was opened, and not told of yet.
    opened: bool,
    ended: bool,
}

/// How a base backup ended.
#[derive(Clone, Debug)]
pub struct BackupEnd {
    /// Where it ends.
    pub position: BackupPosition,
    /// The server's complaint about page checksums, which comes behind complete data.
    pub damage: Option<ServerMessage>,
    /// The first warnings of the server.
    pub warnings: Vec<ServerMessage>,
}

impl Connection {
    /// Gives the server the manifest of an earlier backup, for an incremental one in the same session.
    ///
    /// # Errors
    /// [`ServerError`] when the server refuses.
    pub async fn upload_manifest(&mut self, manifest: &[u8]) -> Result<()> {
        self.begin()?;
        self.writer.send(FrontendMessage::Query(UPLOAD_MANIFEST)).await?;
        match self.reader.next().await? {
            BackendMessage::CopyInResponse(_) => {
                for piece in manifest.chunks(UPLOADED_AT_ONCE) {
                    self.writer.send(FrontendMessage::CopyData(piece)).await?;
                }
                self.writer.send(FrontendMessage::CopyDone).await?;
            }
            BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
            other => bail!("the server sent {} where it should take a manifest", name_of(&other)),
        }
        loop {
            match self.reader.next().await? {
                BackendMessage::CommandComplete(_) => {}
                BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
                BackendMessage::ReadyForQuery(_) => break,
                other => bail!("the server answered a manifest with {}", name_of(&other)),
            }
        }
        self.ready = true;
        Ok(())
    }

    /// Starts a base backup: returns when the server has made its checkpoint and begins to send.
    ///
    /// # Errors
    /// [`ServerError`] when the server refuses.
    pub async fn base_backup(mut self, options: &BaseBackupOptions, version: MajorVersion) -> Result<BaseBackup> {
        self.begin()?;
        self.reader.keep_warnings();
        self.writer.send(FrontendMessage::Query(&options.command(version))).await?;
        let (mut results, mut start, mut tablespaces) = (0, None, Vec::new());
        loop {
            match self.reader.next().await? {
                BackendMessage::RowDescription(_) => results += 1,
                BackendMessage::DataRow(row) if results == 1 => start = Some(BackupPosition::parse(&row)?),
                BackendMessage::DataRow(row) if results == 2 && tablespaces.len() < MOST_TABLESPACES => {
                    tablespaces.push(BackupTablespace::parse(&row)?);
                }
                BackendMessage::CommandComplete(_) => {}
                BackendMessage::CopyOutResponse(_) => break,
                BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
                other => bail!("the server sent {} where a base backup begins", name_of(&other)),
            }
        }
        let start = start.context("the server does not say where the backup begins")?;
        let is_last = |index: usize| index + 1 == tablespaces.len();
        ensure!(
            !tablespaces.is_empty() && tablespaces.iter().enumerate().all(|(i, t)| t.place.is_none() == is_last(i)),
            "the server's list of tablespaces does not end with the data directory"
        );
        self.reader.set_read_size(LARGE_READS);
        let one_copy = has_one_copy(version);
        Ok(BaseBackup {
            connection: self,
            start,
            tablespaces,
            one_copy,
            archives: 0,
            manifest: false,
            opened: !one_copy,
            ended: false,
        })
    }
}

impl BaseBackup {
    /// The next part; `None` when all have come. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// [`ServerError`] when the server gives up, [`super::ConnectionClosed`] when it is gone without a word.
    pub async fn next(&mut self) -> Result<Option<BackupPart>> {
        loop {
            if std::mem::take(&mut self.opened) {
                return self.opened_part().map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            match self.connection.reader.next().await? {
                BackendMessage::CopyData(payload) if self.one_copy => match BackupMessage::decode(payload)? {
                    BackupMessage::Archive { name, .. } => return self.named_archive(&name).map(Some),
                    BackupMessage::Manifest => return self.begin_manifest().map(Some),
                    BackupMessage::Data(data) => {
                        ensure!(self.archives > 0, "the server sends data before it names an archive");
                        return Ok(Some(BackupPart::Data(data)));
                    }
                    BackupMessage::Progress(_) => {}
                },
                BackendMessage::CopyData(payload) => return Ok(Some(BackupPart::Data(payload))),
                BackendMessage::CopyDone if self.one_copy => self.ended = true,
                BackendMessage::CopyDone => {
                    // The manifest is the last copy.
                    self.ended = self.manifest;
                }
                BackendMessage::CopyOutResponse(_) if !self.one_copy => self.opened = true,
                BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
                other => bail!("the server sent {} inside of a base backup", name_of(&other)),
            }
        }
    }

    /// Before 15: archives come in the order of the rows, the manifest behind them.
    fn opened_part(&mut self) -> Result<BackupPart> {
        match self.tablespaces.get(self.archives) {
            Some(tablespace) => {
                self.archives += 1;
                let oid = tablespace.place.as_ref().map(|(oid, _)| *oid);
                Ok(BackupPart::Archive(oid, ArchiveCompression::None))
            }
            None => self.begin_manifest(),
        }
    }

    /// Since 15: archives have names, and come in the order of the rows as well.
    fn named_archive(&mut self, name: &str) -> Result<BackupPart> {
        let Some((oid, compression)) = parse_archive_name(name) else {
            bail!("the server sends an archive called '{}'", name.escape_debug());
        };
        let expected = self.tablespaces.get(self.archives).map(|t| t.place.as_ref().map(|(oid, _)| *oid));
        ensure!(expected == Some(oid), "the server sends the archive '{name}' out of turn");
        self.archives += 1;
        Ok(BackupPart::Archive(oid, compression))
    }

    fn begin_manifest(&mut self) -> Result<BackupPart> {
        let (expected, manifest) = (self.tablespaces.len(), std::mem::replace(&mut self.manifest, true));
        ensure!(
            self.archives == expected && !manifest,
            "the server sends a manifest behind {} of {expected} archives",
            self.archives
        );
        Ok(BackupPart::Manifest)
    }

    /// What the server says behind the data. A backup is whole only when this has come.
    ///
    /// # Errors
    /// [`ServerError`] for any complaint but the one about page checksums: then everything has been sent.
    pub async fn finish(mut self) -> Result<BackupEnd> {
        ensure!(self.ended && self.manifest, "the base backup is not received to its end");
        let (mut position, mut damage) = (None, None);
        loop {
            match self.connection.reader.next().await? {
                BackendMessage::RowDescription(_) | BackendMessage::CommandComplete(_) => {}
                BackendMessage::DataRow(row) => position = Some(BackupPosition::parse(&row)?),
                BackendMessage::ErrorResponse(error)
                    if error.code == SqlState::DATA_CORRUPTED && position.is_some() =>
                {
                    damage = Some(error);
                }
                BackendMessage::ErrorResponse(error) => bail!(ServerError(error)),
                BackendMessage::ReadyForQuery(_) => break,
                other => bail!("the server sent {} where a base backup ends", name_of(&other)),
            }
        }
        let position = position.context("the server does not say where the backup ends")?;
        let warnings = self.connection.reader.take_warnings();
        self.connection.close().await;
        Ok(BackupEnd { position, damage, warnings })
    }
}
