//! The thread that looks after the retention slot: it keeps WAL on the server until the repository holds it.
//!
//! The slot is not the stream's: a stream's flush position says what is durable here, which may be lost with this host,
//! and would let the server recycle WAL that the repository lacks. So the slot is advanced by SQL, to where whole segments
//! are in the repository, and WAL is streamed without it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use walkeep_proto::identity::SystemIdentifier;
use walkeep_proto::lsn::Lsn;
use walkeep_proto::replication::SlotName;

use super::status::{Shared, SlotStatus};
use super::{CURRENT_LSN, StreamError};
use crate::context::Context;
use crate::postgres::{Session, SqlError};

/// How often the slot is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// Class of the advisory lock of whoever looks after a slot, "walk" in ASCII; the lock's other half is the slot's name.
const LOCK_CLASS: u32 = 0x7761_6C6B;
/// SQLSTATE of an object that is being used (`ERRCODE_OBJECT_IN_USE`).
const IN_USE: &str = "55006";

pub(super) struct SlotKeeper<'a> {
    pub(super) context: &'a Context,
    pub(super) shared: &'a Shared,
    pub(super) system_identifier: SystemIdentifier,
    /// It needs no quotes to be escaped.
    pub(super) name: SlotName,
}

/// Why the slot is not looked after.
enum Failure {
    /// There is no session.
    Connecting(StreamError),
    /// The server refuses, or the session broke.
    Looking(anyhow::Error),
}

impl SlotKeeper<'_> {
    /// Works until the stream is stopped.
    pub(super) fn run(&self) {
        let (mut session, mut unconnected) = (None, None);
        self.shared.update(|status| status.slot.name = self.name.to_string());
        loop {
            let looked = self.connected(&mut session);
            let looked = looked.and_then(|session| self.look(session).map_err(Failure::Looking));
            if self.shared.is_stopped() {
                return;
            }
            if let Err(failure) = looked {
                session = None;
                self.learn(&failure, &mut unconnected);
            }
            if self.shared.wait_for_stop(EVERY) {
                return;
            }
        }
    }

    /// Says what happened, unless it is what the stream says: it has its turn first, for it is what matters more.
    fn learn(&self, failure: &Failure, unconnected: &mut Option<String>) {
        let cause = match failure {
            Failure::Connecting(error) => error.cause(),
            Failure::Looking(error) => format!("{error:#}"),
        };
        self.shared.update(|status| status.slot.error = Some(cause.clone()));
        let has_turn = match failure {
            Failure::Connecting(_) => unconnected.replace(cause.clone()).as_ref() == Some(&cause),
            Failure::Looking(_) => true,
        };
        if has_turn && self.shared.met(&cause) {
            tracing::warn!("slot '{}' is not looked after: {cause}", self.name);
        }
    }

    fn connected<'a>(&self, session: &'a mut Option<Session>) -> Result<&'a Session, Failure> {
        if session.as_ref().is_none_or(Session::is_lost) {
            *session = None;
            let new = self.connect().map_err(Failure::Connecting)?;
            self.claim(&new).map_err(Failure::Looking)?;
            *session = Some(new);
        }
        Ok(session.as_ref().expect("it was opened above"))
    }

    /// A session with the repository's cluster: a slot that nobody advances would fill another one's disk.
    fn connect(&self) -> Result<Session, StreamError> {
        let session = super::session(self.context, self.shared)?;
        let asked = session.value("SELECT system_identifier FROM pg_control_system()");
        let found = asked.and_then(|text| Ok(text.parse()?)).map_err(StreamError::of_connection)?;
        let expected = self.system_identifier;
        if found == expected { Ok(session) } else { Err(StreamError::WrongCluster { expected, found }) }
    }

    /// Keeps a second agent away from the slot as long as the session lives: two repositories with one slot would each lose
    /// what the other has stored already.
    fn claim(&self, session: &Session) -> Result<()> {
        let key = format!("{LOCK_CLASS}, hashtext('{}')", self.name);
        if session.value(&format!("SELECT pg_try_advisory_lock({key})"))? == "t" {
            return Ok(());
        }
        let holders = session.rows(&format!(
            "SELECT pid, coalesce(host(client_addr), 'this host') FROM pg_locks JOIN pg_stat_activity USING (pid) \
             WHERE locktype = 'advisory' AND granted AND classid = {LOCK_CLASS} \
             AND objid = (hashtext('{}')::bigint & 4294967295)::oid",
            self.name
        ))?;
        let shown = |row: &Vec<Option<String>>| match row.as_slice() {
            [Some(process), Some(host)] => format!(", as server process {process}, from {host}"),
            _ => String::new(),
        };
        let holder = holders.first().map(shown).unwrap_or_default();
        bail!("another agent looks after it{holder}; give each agent a [stream] slot of its own, or end one")
    }

    fn look(&self, session: &Session) -> Result<()> {
        let mut slot = match self.read(session)? {
            Some(slot) if slot.wal_status.as_deref() == Some("lost") => {
                self.shared.update(|status| status.slot.clone_from(&slot));
                tracing::error!(
                    "slot '{}' is lost: the server has removed WAL that it kept; it is made anew",
                    self.name
                );
                self.shared.failed_aside("slot_lost", &format!("slot '{}' was lost", self.name));
                session.execute(&format!("SELECT pg_drop_replication_slot('{}')", self.name))?;
                self.create(session)?
            }
            Some(slot) => slot,
            None => self.create(session)?,
        };
        // Without a stream, what is known of the repository may be of another server's WAL: one that was restored, or that
        // took over and lacks some, begins again before that position, and must keep what it begins with.
        let status = self.shared.status();
        if status.streaming && slot.restart_lsn.is_some_and(|restart| restart < status.archived_lsn) {
            self.advance(session, status.archived_lsn)?;
            slot = self.read(session)?.unwrap_or(slot);
        }
        self.shared.update(|status| status.slot = slot);
        Ok(())
    }

    fn read(&self, session: &Session) -> Result<Option<SlotStatus>> {
        let rows = session.rows(&format!(
            "SELECT restart_lsn, wal_status, safe_wal_size, \
             CASE WHEN restart_lsn IS NULL THEN 0 ELSE greatest(0, pg_wal_lsn_diff({CURRENT_LSN}, restart_lsn)) END \
             FROM pg_replication_slots WHERE slot_name = '{}' AND slot_type = 'physical'",
            self.name
        ))?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let field = |index: usize| row.get(index).cloned().flatten();
        let restart_lsn = field(0).map(|lsn| lsn.parse::<Lsn>()).transpose().context("unable to read restart_lsn")?;
        let number = |index| field(index).and_then(|text| text.parse::<i64>().ok());
        Ok(Some(SlotStatus {
            name: self.name.to_string(),
            restart_lsn,
            wal_status: field(1),
            safe_bytes: number(2),
            retained_bytes: number(3).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or_default(),
            error: None,
        }))
    }

    fn create(&self, session: &Session) -> Result<SlotStatus> {
        session
            .execute(&format!("SELECT pg_create_physical_replication_slot('{}', true)", self.name))
            .with_context(|| format!("unable to create replication slot '{}'", self.name))?;
        tracing::info!("replication slot '{}' is created", self.name);
        self.read(session)?.with_context(|| format!("replication slot '{}' is gone again", self.name))
    }

    fn advance(&self, session: &Session, to: Lsn) -> Result<()> {
        let advanced = session.execute(&format!("SELECT pg_replication_slot_advance('{}', '{to}')", self.name));
        advanced.or_else(|error| match error.downcast_ref::<SqlError>() {
            // Somebody streams with it. It is advanced next time, and WAL is kept until then.
            Some(sql) if sql.code.as_deref() == Some(IN_USE) => Ok(()),
            _ => Err(error).with_context(|| format!("unable to advance replication slot '{}' to {to}", self.name)),
        })
    }
}
