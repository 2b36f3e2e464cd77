//! `walkeep init`.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use walkeep_chunkstore::Error;
use walkeep_chunkstore::console::{Exit, Progress, Show, print, print_json};
use walkeep_chunkstore::mirror::{Class, Copying, Durability, MirroredStorage, missing};
use walkeep_chunkstore::repository::layout::ClusterLayout;
use walkeep_chunkstore::repository::{ClusterIdentity, Repository};
use walkeep_chunkstore::storage::{LocalStorage, Place, Storage};

use crate::backup::{identity_of, identity_of_server, read_control_file};
use crate::cli::{Cli, InitArgs};
use crate::config::{Config, DEFAULT_PATH};
use crate::postgres::{Session, conninfo_for};
use crate::repository::{self, Ask};

/// A setting that PostgreSQL needs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
struct Setting {
    name: &'static str,
    value: String,
    /// What the server has now; absent when it could not be asked.
    current: Option<String>,
    needs_restart: bool,
}

/// Creates the repository, registers the cluster, writes the configuration, and says what PostgreSQL needs.
pub fn run(cli: &Cli, args: &InitArgs) -> Result<Exit> {
    let cluster = Cluster::find(args)?;
    let now = Timestamp::now();
    let name = args.cluster.as_deref().unwrap_or("main");
    let layout = ClusterLayout::new(name)?;
    let config = wanted(args, cluster.pgdata.as_deref())?;
    let file = cli.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH));
    let keep = is_configured(&file, &config)?;
    // A file that is there knows more: how to talk to the bucket, among other things.
    let config = if keep { Config::load(Some(&file))? } else { config };
    let (repository, created) = create(&config, args.create_bucket, now)?;
    repository.register(&layout, name, &cluster.identity)?;
    if !keep {
        write_config(&file, &config)?;
    }

    let Cluster { pgdata, identity, session } = cluster;
    // Where the files are elsewhere, so is the shell that runs archive_command: WAL comes by the stream.
    let archive_command = pgdata.is_some().then(|| archive_command(cli.config.as_deref())).transpose()?;
    let mut settings = needed(archive_command.as_deref());
    if let Ok(session) = &session {
        look_up(session, &mut settings)?;
    }
    let applied =
        if args.apply { apply(session.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?, &settings)? } else { false };
    let restart = settings.iter().any(|setting| setting.needs_restart && !is_set(setting));
    if cli.json {
        print_json(&serde_json::json!({
            "repository": repository.location(), "repository_id": repository.id(), "created": created, "cluster": name,
            "system_identifier": identity.system_identifier, "config": file, "config_written": !keep,
            "settings": settings, "applied": applied, "restart_needed": restart,
        }));
    } else if !cli.quiet {
        let verb = if created { "created" } else { "found" };
        print(&format!("{verb} repository '{}' ({})\n", repository.location(), repository.id()));
        print(&format!("registered cluster '{name}': system identifier {}\n", identity.system_identifier));
        let verb = if keep { "kept" } else { "wrote" };
        print(&format!("{verb} configuration '{}'\n", file.display()));
        print(&advice(&settings, applied, restart, session.is_ok()));
    }
    Ok(Exit::Ok)
}

/// The cluster that is meant, and what could be found out about it.
struct Cluster {
    pgdata: Option<PathBuf>,
    identity: ClusterIdentity,
    session: Result<Session>,
}

impl Cluster {
    /// Looks at the data directory, whose server need not run, or else asks the server.
    fn find(args: &InitArgs) -> Result<Self> {
        let Some(pgdata) = &args.pgdata else {
            let conninfo = args.conninfo.as_deref().context("neither --pgdata nor --conninfo is given")?;
            let session = Session::connect(conninfo).context("unable to connect to PostgreSQL")?;
            return Ok(Self { pgdata: None, identity: identity_of_server(&session)?, session: Ok(session) });
        };
        let pgdata = pgdata.canonicalize().with_context(|| format!("unable to open '{}'", pgdata.display()))?;
        let identity = identity_of(&read_control_file(&pgdata)?, Timestamp::now());
        let session = open_session(args, &pgdata);
        Ok(Self { pgdata: Some(pgdata), identity, session })
    }
}

/// The configuration that the arguments describe.
fn wanted(args: &InitArgs, pgdata: Option<&Path>) -> Result<Config> {
    let mut config = Config::default();
    config.cluster.name.clone_from(&args.cluster);
    config.cluster.pgdata = pgdata.map(Path::to_owned);
    config.cluster.conninfo.clone_from(&args.conninfo);
    match args.repo.parse::<Place>()? {
        Place::Directory(path) => config.repository.path = Some(path),
        place @ Place::Bucket(_) => config.repository.url = Some(place.to_string()),
    }
    let mirror = &mut config.mirror;
    mirror.url = args.mirror.as_ref().map(|url| Ok::<_, Error>(url.parse::<Place>()?.to_string())).transpose()?;
    mirror.durability = args.durability.as_deref().map(|level| match level {
        "mirror" => Durability::Mirror,
        _ => Durability::Local,
    });
    mirror.endpoint.clone_from(&args.s3.endpoint);
    mirror.region.clone_from(&args.s3.region);
    mirror.path_style = args.s3.path_style;
    mirror.ca_file.clone_from(&args.s3.ca_file);
    if let Some(directory) = std::env::var_os("WALKEEP_STATE_DIR") {
        config.state.dir = directory.into();
    }
    Ok(config)
}

/// Creates the repository in all its places, or finds it there. Says whether it is new.
fn create(config: &Config, create_bucket: bool, now: Timestamp) -> Result<(Repository, bool)> {
    let place = config.repository_place()?;
    if let Place::Directory(path) = &place {
        LocalStorage::create(path)?;
    }
    let storages = repository::storages(config)?;
    if create_bucket {
        storages.buckets.iter().try_for_each(|bucket| bucket.storage.create_bucket())?;
    }
    if let Some(mirrored) = storages.mirrored.as_ref().filter(|_| matches!(place, Place::Directory(_))) {
        adopt(mirrored)?;
    }
    let (repository, created) = Repository::init(Arc::clone(&storages.storage), now)?;
    storages.join(repository.config(), &config.state.dir, Ask::Everything)?;
    Ok((repository, created))
}

/// An empty directory becomes part of the repository that its mirror holds already: another host of the same cluster, or
/// this one after its disk was lost.
fn adopt(mirrored: &MirroredStorage) -> Result<()> {
    let key = walkeep_chunkstore::repository::layout::config()?;
    if mirrored.size(&key)?.is_some() {
        return Ok(());
    }
    for remote in mirrored.remotes() {
        match remote.storage.get(&key, 1 << 20) {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
            Ok(text) => {
                let copying = Copying {
                    from: &*remote.storage,
                    to: mirrored,
                    threads: 1,
                    progress: &Progress::start("adopting", 0, Show::Nothing),
                };
                copying.run(&missing(&*remote.storage, mirrored, &[Class::Description])?)?;
                mirrored.put_if_absent(&key, &text)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether the file is there with the same meaning. One that means something else is not touched.
fn is_configured(file: &Path, wanted: &Config) -> Result<bool> {
    if !file.exists() {
        return Ok(false);
    }
    let present = Config::load(Some(file))?;
    let places = |config: &Config| -> Result<Vec<Place>> {
        let mirrors = config.mirrors()?.into_iter().map(|mirror| mirror.place);
        Ok(std::iter::once(config.repository_place()?).chain(mirrors).collect())
    };
    let (here, there) = (places(&present)?, places(wanted)?);
    let same = present.cluster_name() == wanted.cluster_name()
        && present.cluster.pgdata == wanted.cluster.pgdata
        // Without a data directory nothing else says which server is meant.
        && (wanted.cluster.pgdata.is_some() || present.cluster.conninfo == wanted.cluster.conninfo)
        && here.starts_with(&there);
    if same {
        return Ok(true);
    }
    let problem = "it configures another cluster or repository; name another file with --config, or edit it".to_owned();
    let object = format!("configuration '{}'", file.display());
    Err(Error::Conflict { object, problem }.into())
}

fn write_config(file: &Path, config: &Config) -> Result<()> {
    // Sections without a key are left out: whoever appends one that the documentation shows would name it twice.
    let mut sections = toml::Table::try_from(config).context("unable to write the configuration")?;
    sections.retain(|_, section| section.as_table().is_none_or(|keys| !keys.is_empty()));
    let text = toml::to_string(&sections).context("unable to write the configuration")?;
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("unable to create '{}'", directory.display()))?;
    }
    // It may hold a password.
    let mut options = std::fs::OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o640).open(file);
    created
        .and_then(|mut created| created.write_all(text.as_bytes()))
        .with_context(|| format!("unable to write '{}'", file.display()))
}

fn open_session(args: &InitArgs, pgdata: &Path) -> Result<Session> {
    let conninfo = args.conninfo.clone().map_or_else(|| conninfo_for(pgdata), Ok)?;
    Session::connect(&conninfo)
}

/// What to put into `archive_command`: the plain form where the shell finds this program and its configuration.
fn archive_command(config: Option<&Path>) -> Result<String> {
    let program = std::env::current_exe().context("unable to find this program's own path")?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path)
        .find_map(|directory| directory.join("walkeep").canonicalize().ok())
        .is_some_and(|found| Some(found) == program.canonicalize().ok());
    let program = if in_path { "walkeep".to_owned() } else { shell_quote(&program.display().to_string()) };
    let config = match config {
        Some(path) if path != Path::new(DEFAULT_PATH) => {
            let path = std::path::absolute(path).context("unable to make the configuration's path absolute")?;
            format!(" --config {}", shell_quote(&path.display().to_string()))
        }
        _ => String::new(),
    };
    Ok(format!("{program}{config} archive-push %p"))
}

/// A word for `sh`; `%` is doubled because PostgreSQL replaces it.
fn shell_quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+%".contains(c);
    let text = text.replace('%', "%%");
    if text.chars().all(plain) {
        return text;
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn needed(archive_command: Option<&str>) -> Vec<Setting> {
    let setting =
        |name, value: &str, needs_restart| Setting { name, value: value.to_owned(), current: None, needs_restart };
    let mut settings = vec![setting("wal_level", "replica", true)];
    if let Some(command) = archive_command {
        settings.extend([setting("archive_mode", "on", true), setting("archive_command", command, false)]);
    }
    settings
}

fn look_up(session: &Session, settings: &mut [Setting]) -> Result<()> {
    for setting in settings {
        setting.current = Some(session.value(&format!("SELECT current_setting('{}')", setting.name))?);
    }
    Ok(())
}

/// Whether the server's value serves as well as the wanted one.
fn is_set(setting: &Setting) -> bool {
    match (setting.name, setting.current.as_deref()) {
        ("wal_level", Some(current)) => current == "replica" || current == "logical",
        ("archive_mode", Some(current)) => current == "on" || current == "always",
        // The configuration may also reach it through WALKEEP_CONFIG in the server's environment.
        (_, Some(current)) => current.contains("walkeep") && current.contains("archive-push %p"),
        (_, None) => false,
    }
}

/// Sets what is not set yet. Says whether anything was.
fn apply(session: &Session, settings: &[Setting]) -> Result<bool> {
    let wanted: Vec<&Setting> = settings.iter().filter(|setting| !is_set(setting)).collect();
    for setting in &wanted {
        session
            .execute(&format!("ALTER SYSTEM SET {} = {}", setting.name, quoted(&setting.value)))
            .with_context(|| format!("unable to set {}", setting.name))?;
    }
    session.execute("SELECT pg_reload_conf()")?;
    Ok(!wanted.is_empty())
}

/// A value as SQL and postgresql.conf write it.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn advice(settings: &[Setting], applied: bool, restart: bool, asked: bool) -> String {
    let missing: Vec<&Setting> = settings.iter().filter(|setting| !is_set(setting)).collect();
    let mut text = String::new();
    if missing.is_empty() {
        text.push_str("PostgreSQL's settings are as they should be\n");
    } else if applied {
        text.push_str("set with ALTER SYSTEM:\n");
    } else {
        text.push_str("add to postgresql.conf (or run this again with --apply):\n");
    }
    for setting in missing {
        text.push_str(&format!("  {} = {}\n", setting.name, quoted(&setting.value)));
    }
    if restart {
        text.push_str("then restart PostgreSQL\n");
    }
    if !asked {
        text.push_str("the server could not be asked for its present settings\n");
    }
    if !settings.iter().any(|setting| setting.name == "archive_command") {
        text.push_str("WAL comes by the stream of `walkeep agent`: start it first\n");
    }
    text.push_str("next: `walkeep check`, then `walkeep backup`\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_can_be_appended_to_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("walkeep.toml");
        let mut config = Config::default();
        config.repository.path = Some("/srv/walkeep".into());
        write_config(&file, &config).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let appended = "[schedule]\nmax_age = '36h'\n[mirror]\nlocal_window = '7d'\n[stream]\nsynchronous = true\n\
                        [metrics]\nlisten = '127.0.0.1:9187'\n[limits]\njobs = 1\n";
        std::fs::write(&file, format!("{text}\n{appended}")).unwrap();
        let read = Config::load(Some(&file)).unwrap();
        assert_eq!(read.repository, config.repository);
        assert_eq!(read.stream.synchronous, Some(true));
    }

    #[test]
    fn words_for_the_shell_keep_their_meaning() {
        assert_eq!(shell_quote("/usr/bin/walkeep"), "/usr/bin/walkeep");
        assert_eq!(shell_quote("/a b/100%"), "\"/a b/100%%\"");
        assert_eq!(shell_quote("/a$b"), "\"/a\\$b\"");
    }
}
