//! What would make a later restore fail: looked for while there is time.

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use walkeep_chunkstore::storage::ConditionalWrites;
use walkeep_proto::timeline::TimelineHistory;
use walkeep_proto::version::MajorVersion;

use super::local_source::LocalSource;
use super::{connect, index_directory, replication};
use crate::context::Context;
use crate::daemon;
use crate::postgres::Session;
use crate::repository::Ask;
use crate::stream;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Works, but a DBA would want to know.
    Warning,
    /// Backups or restores fail or will fail.
    Problem,
}

impl Severity {
    /// The word in front of a finding.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { severity: Severity::Ok, subject, text: text.into(), remedy: None }
    }

    /// Works, but.
    pub fn warning(subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, subject, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// Fails, or will fail.
    pub fn problem(subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Problem, subject, text: text.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at repository, server, archiver, WAL and backups. What cannot be looked at is a problem, not a pass.
pub fn examine(context: &Context) -> Vec<Finding> {
    let mut findings = Vec::new();
    look(&mut findings, "repository", "see the message; check [repository] and its directory's owner", || {
        repository(context)
    });
    look(
        &mut findings,
        "mirrors",
        "see the message; check the section of the configuration and the credentials",
        || mirrors(context),
    );
    look(&mut findings, "state directory", "set [state] dir to a directory that this user may write to", || {
        state(context)
    });
    let agent = daemon::ask_status(&context.config.state.dir).ok().flatten().and_then(|status| status.stream);
    match connect(context) {
        Ok(session) => {
            let is_standby = session.value("SELECT pg_is_in_recovery()").is_ok_and(|answer| answer == "t");
            look(&mut findings, "server", "connect to the server that [cluster] pgdata or conninfo names", || {
                server(context, &session, is_standby)
            });
            look(&mut findings, "settings", "connect as a superuser or a member of pg_monitor", || {
                settings(&session, agent.as_ref().is_some_and(|stream| stream.streaming), is_standby)
            });
            look(&mut findings, "stream", "connect as a superuser or a member of pg_monitor", || {
                let settings = context.config.stream_settings()?;
                settings.map_or_else(|| Ok(Vec::new()), |settings| stream::examine(context, &session, &settings))
            });
            look(&mut findings, "archiver", "connect as a superuser or a member of pg_monitor", || archiver(&session));
            look(&mut findings, "files outside", "connect as a superuser or a member of pg_monitor", || {
                files_outside(context, &session)
            });
        }
        Err(error) => findings.push(Finding::problem(
            "server",
            format!("{error:#}"),
            "start PostgreSQL, or set [cluster] conninfo so that this user can connect",
        )),
    }
    if let Some(agent) = &agent {
        look(&mut findings, "agent", "see the message, then run `walkeep verify`", || stream::losses(context, agent));
    }
    look(&mut findings, "backups", "see the message, then run `walkeep verify`", || backups(context));
    look(&mut findings, "WAL archive", "see the message, then run `walkeep verify`", || conflicts(context));
    findings
}

/// Adds what a look gives; one that fails is itself a problem.
fn look(findings: &mut Vec<Finding>, subject: &'static str, remedy: &str, look: impl FnOnce() -> Result<Vec<Finding>>) {
    match look() {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::problem(subject, format!("{error:#}"), remedy)),
    }
}

fn repository(context: &Context) -> Result<Vec<Finding>> {
    let repository = &context.repository;
    repository.config().check_writable()?;
    // An object in the making is written and dropped: it proves the right to write and leaves nothing.
    repository.storage().writer()?.write(b"walkeep check")?;
    let identity = context.identity()?;
    let text = format!(
        "'{}' can be written to; cluster '{}' is system identifier {} of PostgreSQL {}",
        repository.location(),
        context.config.cluster_name(),
        identity.system_identifier,
        identity.major
    );
    Ok(vec![Finding::ok("repository", text)])
}

/// Mirrors: reachable, holding this repository, keeping writers apart, and kept up to date by somebody.
fn mirrors(context: &Context) -> Result<Vec<Finding>> {
    context.join_mirrors(Ask::Everything)?;
    let mut findings = Vec::new();
    for bucket in &context.storages.buckets {
        findings.push(match bucket.conditional_writes(&context.config.state.dir) {
            Some(ConditionalWrites::Proven) => {
                Finding::ok("bucket", format!("'{}' keeps two writers apart", bucket.url))
            }
            other => {
                let found = other.map_or_else(|| "nobody looked yet".to_owned(), |found| found.to_string());
                let text = format!("'{}' does not keep two writers apart: {found}", bucket.url);
                Finding::warning("bucket", text, "let no two hosts back up one cluster into it at the same time")
            }
        });
    }
    let agent = daemon::ask_status(&context.config.state.dir)?;
    let has_agent = agent.is_some();
    let status = agent.map_or_else(|| daemon::without_agent(context), Ok)?;
    for mirror in &status.mirrors {
        let (lag, url) = (&mirror.lag, &mirror.url);
        findings.push(match &lag.error {
            Some(error) => Finding::problem("mirror", format!("'{url}' fails: {error}"), "see the message"),
            None if lag.objects == 0 => Finding::ok("mirror", format!("'{url}' is up to date")),
            None => {
                let text = format!("'{url}' lacks {} objects, the oldest {} s old", lag.objects, lag.seconds);
                let remedy = if has_agent { "look again later" } else { "start `walkeep agent`: it sends them" };
                Finding::warning("mirror", text, remedy)
            }
        });
    }
    Ok(findings)
}

fn state(context: &Context) -> Result<Vec<Finding>> {
    let directory = index_directory(context);
    std::fs::create_dir_all(&directory)?;
    let probe = directory.join(".check");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)?;
    Ok(vec![Finding::ok("state directory", format!("'{}' can be written to", directory.display()))])
}

fn server(context: &Context, session: &Session, is_standby: bool) -> Result<Vec<Finding>> {
    let identity = context.identity()?;
    let role = if is_standby { "standby" } else { "primary" };
    let mut findings = Vec::new();
    let (text, data_checksums) = if context.config.cluster.pgdata.is_some() {
        let source = LocalSource::check(session, context.config.pgdata()?, &identity)?;
        let text = format!("'{}' is a {role} of PostgreSQL {}", source.pgdata.display(), source.major);
        (text, source.control.data_checksums())
    } else {
        let server = replication::Server::ask(session, &identity)?;
        findings.extend(summaries(session, server.major)?);
        (format!("it is a {role} of PostgreSQL {}, and sends its base backups", server.major), server.data_checksums)
    };
    findings.insert(0, Finding::ok("server", text));
    if !data_checksums {
        findings.push(Finding::warning(
            "page checksums",
            "the cluster has none: damaged pages are backed up unnoticed",
            "enable them with pg_checksums while the server is stopped",
        ));
    }
    Ok(findings)
}

/// Whether a server that sends its base backups knows what has changed.
fn summaries(session: &Session, major: MajorVersion) -> Result<Option<Finding>> {
    let name = "summarize_wal";
    if major < MajorVersion::V17 {
        return Ok(None);
    }
    let text = "off: the server sends everything at each backup, changed or not";
    Ok(Some(match session.value("SELECT current_setting('summarize_wal')")?.as_str() {
        "off" => Finding::warning(name, text, "set summarize_wal = on, and reload"),
        value => Finding::ok(name, value),
    }))
}

fn settings(session: &Session, is_streamed: bool, is_standby: bool) -> Result<Vec<Finding>> {
    let value = |name: &str| session.value(&format!("SELECT coalesce(current_setting('{name}', true), '')"));
    let mut findings = Vec::new();
    let wal_level = value("wal_level")?;
    findings.push(match wal_level.as_str() {
        "minimal" => {
            Finding::problem("wal_level", "minimal: WAL cannot be replayed", "set wal_level = replica and restart")
        }
        _ => Finding::ok("wal_level", wal_level),
    });
    if is_standby {
        findings.push(Finding::ok("archive_mode", "the server is a standby: its primary archives"));
    } else {
        findings.extend(archiving(&value, is_streamed)?);
    }
    for name in ["fsync", "full_page_writes"] {
        if value(name)? == "off" {
            let text = "off: a crash can damage the cluster, and the backup copies the damage";
            findings.push(Finding::warning(name, text, format!("set {name} = on")));
        }
    }
    Ok(findings)
}

/// Whether the primary archives, and to where.
fn archiving(value: &dyn Fn(&str) -> Result<String>, is_streamed: bool) -> Result<Vec<Finding>> {
    let mode = value("archive_mode")?;
    let mut findings = Vec::new();
    findings.push(match mode.as_str() {
        "off" if is_streamed => {
            let text = "off: WAL comes by the agent's stream alone";
            Finding::warning("archive_mode", text, "set archive_mode = on and restart: two ways are safer than one")
        }
        "off" => Finding::problem("archive_mode", "off: no WAL is archived", "set archive_mode = on and restart"),
        _ => Finding::ok("archive_mode", mode),
    });
    let (command, library) = (value("archive_command")?, value("archive_library")?);
    findings.push(if !library.is_empty() {
        Finding::problem(
            "archive_library",
            format!("'{library}' archives instead of archive_command"),
            "set archive_library = ''",
        )
    } else if command.contains("walkeep") && command.contains("archive-push") {
        Finding::ok("archive_command", command)
    } else {
        let text = format!("'{command}' does not call walkeep archive-push");
        let remedy = "run `walkeep init` again: it prints the command; then reload";
        if is_streamed {
            Finding::warning("archive_command", text, remedy)
        } else {
            Finding::problem("archive_command", text, remedy)
        }
    });
    Ok(findings)
}

fn archiver(session: &Session) -> Result<Vec<Finding>> {
    let row = session.row(
        "SELECT coalesce(last_archived_wal, ''), coalesce(last_failed_wal, ''), \
         coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false), \
         (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') FROM pg_stat_archiver",
    )?;
    let [archived, failed, failing, ready] = row.as_slice() else { anyhow::bail!("{} columns, expected 4", row.len()) };
    let mut findings = vec![if failing == "t" {
        let remedy = "read the server's log: the error of archive_command stands there";
        Finding::problem("archiver", format!("archiving {failed} fails"), remedy)
    } else if archived.is_empty() {
        Finding::ok("archiver", "nothing was archived yet")
    } else {
        Finding::ok("archiver", format!("last archived {archived}"))
    }];
    if ready.parse().unwrap_or(0) > 16 {
        let remedy = "look at the archiver's speed and the repository's free space";
        findings.push(Finding::warning("archive backlog", format!("{ready} segments wait to be archived"), remedy));
    }
    Ok(findings)
}

/// Configuration that a restored data directory would miss.
fn files_outside(context: &Context, session: &Session) -> Result<Vec<Finding>> {
    let pgdata = match &context.config.cluster.pgdata {
        Some(pgdata) => pgdata.canonicalize()?,
        None => session.value("SELECT current_setting('data_directory')")?.into(),
    };
    let mut findings = Vec::new();
    for name in ["config_file", "hba_file", "ident_file"] {
        let path = session.value(&format!("SELECT current_setting('{name}')"))?;
        if !std::path::Path::new(&path).starts_with(&pgdata) {
            let remedy = "keep it with your configuration management: a restore does not bring it back";
            findings.push(Finding::warning(
                name,
                format!("'{path}' lies outside the data directory and is not backed up"),
                remedy,
            ));
        }
    }
    Ok(findings)
}

fn backups(context: &Context) -> Result<Vec<Finding>> {
    let (mut findings, mut newest) = (Vec::new(), None);
    for backup in context.repository.backups(&context.layout)? {
        match backup.manifest {
            Ok(manifest) => newest = Some(manifest),
            Err(error) => {
                let text = format!("'{}' cannot be read: {error}", backup.id);
                findings.push(Finding::problem("backup", text, "run `walkeep verify`, and take a new backup"));
            }
        }
    }
    let Some(newest) = newest else {
        findings.push(Finding::problem("backups", "there is none: nothing can be restored", "run `walkeep backup`"));
        return Ok(findings);
    };
    let hours = Timestamp::now().duration_since(newest.stopped).as_hours();
    let text = format!("the newest is {}, {hours} hours old", newest.id);
    findings.push(if hours < 24 * 7 {
        Finding::ok("backups", text)
    } else {
        Finding::warning("backups", text, "run `walkeep backup`")
    });

    let archive = context.archive();
    let size = newest.wal_segment_size;
    let inventory = archive.inventory(size)?;
    let history = archive.history(newest.timeline)?;
    let history = history.unwrap_or_else(|| TimelineHistory::without_ancestors(newest.timeline));
    let first = size.segment_at(newest.start_lsn);
    let last_known = inventory.segments.keys().filter(|s| s.timeline == newest.timeline).map(|s| s.number).max();
    let gap = last_known.and_then(|last| inventory.first_missing(&history, first, last, size));
    findings.push(match gap {
        Some(segment) => Finding::problem(
            "WAL",
            format!("segment {} after the newest backup is missing", segment.file_name(size)),
            "take a new backup: nothing can be restored from this one beyond the gap",
        ),
        None => Finding::ok(
            "WAL",
            format!("without a gap from the newest backup on, {} segments in all", inventory.segments.len()),
        ),
    });
    Ok(findings)
}

/// WAL files that were pushed with two contents: two servers write the same timeline.
fn conflicts(context: &Context) -> Result<Vec<Finding>> {
    let size = context.identity()?.wal_segment_size;
    let inventory = context.archive().inventory(size)?;
    let remedy = "find the second server that writes the same timeline and stop it";
    let mut findings = Vec::new();
    if let Some(conflict) = inventory.conflicts.first() {
        let text =
            format!("{} WAL files were pushed with a second content, as '{conflict}'", inventory.conflicts.len());
        findings.push(Finding::problem("WAL conflict", text, remedy));
    }
    let disputed: Vec<_> = inventory.segments.iter().filter(|(_, stored)| !stored.rivals.is_empty()).collect();
    if let Some((segment, stored)) = disputed.first() {
        let text = format!(
            "{} segments are there with several contents and are served to nobody: {} as '{}' and '{}'",
            disputed.len(),
            segment.file_name(size),
            stored.key,
            stored.rivals[0]
        );
        findings.push(Finding::problem("WAL conflict", text, remedy));
    }
    Ok(findings)
}
