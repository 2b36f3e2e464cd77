//! Service files: named sets of parameters (`service=NAME`, PGSERVICE).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::{ConninfoError, Origin};
use super::parameters::{Settings, is_blank};

/// Adds the parameters of the service that is asked for, below everything the connection string says.
///
/// The user's file (named by `servicefile` or PGSERVICEFILE, else `~/.pg_service.conf`) is searched first, then the
/// system's `pg_service.conf`.
pub(super) fn apply(settings: &mut Settings, environment: &Environment) -> Result<(), ConninfoError> {
    let service = match settings.get("service") {
        Some(setting) => setting.value.clone(),
        None => match environment.variable("PGSERVICE")? {
            Some(service) => service.to_owned(),
            None => return Ok(()),
        },
    };
    let named = match settings.get("servicefile") {
        Some(setting) => Some(setting.value.clone()),
        None => environment.variable("PGSERVICEFILE")?.map(str::to_owned),
    };
    let mut searched = Vec::new();
    for (path, must_exist) in files(named, environment)? {
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                if let Some(lines) = section(&text, &service) {
                    return apply_section(lines, &path, settings);
                }
                searched.push(format!("'{}' has no such section", path.display()));
            }
            Err(e) if !must_exist && matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                searched.push(format!("'{}' does not exist", path.display()));
            }
            Err(e) => return Err(ConninfoError::ServiceFile { path, reason: e.to_string() }),
        }
    }
    let searched = if searched.is_empty() { "there is no service file".to_owned() } else { searched.join(", ") };
    Err(ConninfoError::ServiceNotFound { service, searched })
}

/// The files to search, and whether each must exist.
fn files(named: Option<String>, environment: &Environment) -> Result<Vec<(PathBuf, bool)>, ConninfoError> {
    let mut files = Vec::new();
    match named {
        Some(path) => files.push((PathBuf::from(path), true)),
        None => files.extend(environment.home().map(|home| (home.join(".pg_service.conf"), false))),
    }
    match environment.variable("PGSYSCONFDIR")? {
        Some(directory) => files.push((Path::new(directory).join("pg_service.conf"), false)),
        None => {
            let directories = environment.system_directories().iter();
            files.extend(directories.map(|directory| (directory.join("pg_service.conf"), false)));
        }
    }
    Ok(files)
}

/// The lines of one section with their numbers, without comments and empty ones; `None` where it is missing.
fn section<'a>(text: &'a str, service: &str) -> Option<Vec<(usize, &'a str)>> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim_matches(is_blank)));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let opens = |line: &str| line.strip_prefix('[').and_then(|rest| rest.strip_prefix(service)).is_some_and(closes);
    lines.find(|(_, line)| opens(line))?;
    Some(lines.take_while(|(_, line)| !line.starts_with('[')).collect())
}

fn closes(rest: &str) -> bool {
    rest.starts_with(']')
}

fn apply_section(lines: Vec<(usize, &str)>, path: &Path, settings: &mut Settings) -> Result<(), ConninfoError> {
    let origin = Origin::ServiceFile(path.to_owned());
    for (number, line) in lines {
        let wrong = |reason: &str| {
            let reason = format!("line {number} {reason}");
            ConninfoError::ServiceFile { path: path.to_owned(), reason }
        };
        // Nothing is trimmed around the '=', as in libpq: values may begin with a blank.
        let (keyword, value) = match line.split_once('=') {
            Some(pair) => pair,
            None if line.starts_with("ldap") => return Err(wrong("asks for LDAP, which is not supported")),
            None => return Err(wrong("has no '='")),
        };
        match keyword {
            "service" | "servicefile" => return Err(wrong("names another service, which cannot be done here")),
            keyword if keyword.starts_with("ldap") => return Err(wrong("asks for LDAP, which is not supported")),
            _ => settings.set_default(keyword, value, &origin)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# comment\n[a]\nhost=one\r\n  port=1  \n\n# password=no\n[ab]\nhost=two\n[a]\nhost=three\n";

    fn applied(service: &str, environment: &Environment) -> Result<Settings, ConninfoError> {
        let mut settings = Settings::default();
        settings.set("service", service, &Origin::ConnectionString)?;
        apply(&mut settings, environment).map(|()| settings)
    }

    fn value(settings: &Settings, name: &str) -> Option<String> {
        settings.get(name).map(|setting| setting.value.clone())
    }

    #[test]
    fn reads_the_first_section_of_the_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        std::fs::write(&path, FILE).unwrap();
        let environment = Environment::default().with_variable("PGSERVICEFILE", path.as_os_str());
        let settings = applied("a", &environment).unwrap();
        assert_eq!(value(&settings, "host").as_deref(), Some("one"));
        assert_eq!(value(&settings, "port").as_deref(), Some("1"));
        let settings = applied("ab", &environment).unwrap();
        assert_eq!(value(&settings, "host").as_deref(), Some("two"));
        assert_eq!(value(&settings, "port"), None);
        let error = applied("b", &environment).map(drop).unwrap_err();
        assert!(matches!(&error, ConninfoError::ServiceNotFound { service, .. } if service == "b"), "{error}");
    }

    #[test]
    fn searches_the_users_file_and_then_the_systems() {
        let (home, system) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let environment = Environment::default()
            .with_home(home.path())
            .with_system_directories(vec![home.path().join("missing"), system.path().to_owned()]);
        std::fs::write(system.path().join("pg_service.conf"), "[s]\nhost=system\n[both]\nhost=system\n").unwrap();
        assert_eq!(value(&applied("s", &environment).unwrap(), "host").as_deref(), Some("system"));
        std::fs::write(home.path().join(".pg_service.conf"), "[both]\nhost=home\n").unwrap();
        assert_eq!(value(&applied("both", &environment).unwrap(), "host").as_deref(), Some("home"));
        assert_eq!(value(&applied("s", &environment).unwrap(), "host").as_deref(), Some("system"));

        let elsewhere = environment.with_variable("PGSYSCONFDIR", "/nowhere");
        let error = applied("s", &elsewhere).map(drop).unwrap_err().to_string();
        assert!(error.contains("'/nowhere/pg_service.conf' does not exist"), "{error}");
        // A file that somebody named has to be there.
        let named = elsewhere.with_variable("PGSERVICEFILE", "/nowhere/services");
        assert!(matches!(applied("s", &named).map(drop), Err(ConninfoError::ServiceFile { .. })));
    }

    #[test]
    fn names_the_line_that_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("services");
        let environment = Environment::default().with_variable("PGSERVICEFILE", path.as_os_str());
        for (line, part) in [
            ("sesame", "line 3 has no '='"),
            ("service=x", "line 3 names another service"),
            ("ldap://host/base?x=sesame", "line 3 asks for LDAP"),
            ("hots=sesame", "did you mean 'host'"),
            // libpq does not trim the keyword.
            ("host =sesame", "did you mean 'host'"),
        ] {
            std::fs::write(&path, format!("[s]\nport=1\n{line}\n")).unwrap();
            let error = applied("s", &environment).map(drop).expect_err(line).to_string();
            assert!(error.contains(part) && error.contains("services"), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
        // Lines of other sections are not looked at.
        std::fs::write(&path, "[s]\nport=1\n[t]\nsesame\n").unwrap();
        assert!(applied("s", &environment).is_ok());
    }
}
