//! Passwords, and the file that holds them (`~/.pgpass`).

use std::fmt;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A password: `Debug` says nothing about it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Wraps a secret.
    pub fn new(secret: impl Into<Vec<u8>>) -> Self {
        Self(secret.into())
    }

    /// The secret. It may be in any encoding: a password file's bytes are taken as they are.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// The lines of a password file, `host:port:database:user:password`.
pub(super) struct PasswordFile {
    bytes: Vec<u8>,
}

/// What a password is looked up by.
pub(super) struct Login<'a> {
    /// Host name as written, else its address; a socket directory; `localhost` for the default socket.
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) database: &'a str,
    pub(super) user: &'a str,
}

impl PasswordFile {
    /// Reads the file; one that is missing is empty. As in libpq, a file that others could read is not used, and
    /// neither is one that cannot be read: the second value says why.
    pub(super) fn read(path: &Path) -> (Self, Option<String>) {
        match read_private(path) {
            Ok(bytes) => (Self { bytes }, None),
            Err(None) => (Self { bytes: Vec::new() }, None),
            Err(Some(reason)) => {
                let warning = format!("password file '{}' is not used: {reason}", path.display());
                (Self { bytes: Vec::new() }, Some(warning))
            }
        }
    }

    /// The password of the first line that fits.
    pub(super) fn find(&self, login: &Login<'_>) -> Option<Password> {
        let port = login.port.to_string();
        let fields = [login.host, &port, login.database, login.user];
        self.bytes.split(|byte| *byte == b'\n').find_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.starts_with(b"#") {
                return None;
            }
            let rest = fields.iter().try_fold(line, |rest, field| after_field(rest, field.as_bytes()))?;
            Some(Password(unescape(rest)))
        })
    }
}

/// The content of a file only its owner can read. `Err(None)` if it does not exist.
fn read_private(path: &Path) -> Result<Vec<u8>, Option<String>> {
    // A named pipe without a writer would block here for ever, so the kind is looked at before opening.
    let metadata = match std::fs::metadata(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Err(None),
        other => other.map_err(|e| Some(e.to_string()))?,
    };
    if !metadata.is_file() {
        return Err(Some("it is not a plain file".to_owned()));
    }
    let mut file = std::fs::File::open(path).map_err(|e| Some(e.to_string()))?;
    let mode = file.metadata().map_err(|e| Some(e.to_string()))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Some(format!("its permissions are {mode:04o}, others could read it; they should be 0600 or less")));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|e| Some(e.to_string()))?;
    Ok(bytes)
}

/// What follows the first field of a line, if that field is `*` or stands for this text.
fn after_field<'a>(line: &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    if let Some(rest) = line.strip_prefix(b"*:") {
        return Some(rest);
    }
    let mut text = text.iter();
    let mut rest = line;
    loop {
        let (byte, after) = rest.split_first()?;
        let (byte, after) = match byte {
            b':' => return text.next().is_none().then_some(after),
            b'\\' => after.split_first()?,
            _ => (byte, after),
        };
        if text.next() != Some(byte) {
            return None;
        }
        rest = after;
    }
}

/// The last field: it ends at a colon without a backslash, and a backslash at the very end is itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut password = Vec::new();
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after.split_first()) {
            (b':', _) => break,
            (b'\\', Some(escaped)) => escaped,
            _ => (byte, after),
        };
        password.push(*byte);
        rest = after;
    }
    password
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn find(text: &[u8], host: &str, port: u16, database: &str, user: &str) -> Option<Vec<u8>> {
        let file = PasswordFile { bytes: text.to_vec() };
        file.find(&Login { host, port, database, user }).map(|password| password.0)
    }

    #[test]
    fn finds_the_first_line_that_fits() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"h:5432:d:u:one", Some(b"one")),
            (b"h:5432:d:u:one\nh:5432:d:u:two\n", Some(b"one")),
            (b"h:5432:d:u:one\r\n", Some(b"one")),
            (b"g:5432:d:u:no\n\n#h:5432:d:u:no\n*:*:*:*:any", Some(b"any")),
            (b"h:*:d:*:some", Some(b"some")),
            (b"h:5433:d:u:no", None),
            (b"h:5432:e:u:no", None),
            (b"h:5432:d:v:no", None),
            // A prefix is not enough, nor is a star that is not alone.
            (b"hh:5432:d:u:no", None),
            (b":5432:d:u:no", None),
            (b"h*:5432:d:u:no", None),
            (b"h:5432:d:u", None),
            (b"", None),
            // Escapes in fields and in the password; text after the password is dropped.
            (b"\\h:5432:d:u:a\\:b\\\\c", Some(b"a:b\\c")),
            (b"h:5432:d:u:one:rest", Some(b"one")),
            (b"h:5432:d:u:\\", Some(b"\\")),
            (b"h:5432:d:u:", Some(b"")),
            (b"h:5432:d:u:\xff\xfe", Some(b"\xff\xfe")),
            (b"\\*:5432:d:u:no", None),
        ];
        for (text, expected) in cases {
            let found = find(text, "h", 5432, "d", "u");
            assert_eq!(found.as_deref(), *expected, "{}", String::from_utf8_lossy(text));
        }
        assert_eq!(find(b"a\\:b:1:c\\\\d:*:x", "a:b", 1, "c\\d", "u").as_deref(), Some(b"x".as_slice()));
        assert_eq!(find(b"\\*:1:*:*:x", "*", 1, "d", "u").as_deref(), Some(b"x".as_slice()));
    }

    #[test]
    fn reads_only_what_nobody_else_can_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        let login = Login { host: "h", port: 1, database: "d", user: "u" };
        let (file, warning) = PasswordFile::read(&path);
        assert!(file.find(&login).is_none() && warning.is_none());

        std::fs::write(&path, "*:*:*:*:sesame").unwrap();
        for (mode, used) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o610, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let (file, warning) = PasswordFile::read(&path);
            assert_eq!(file.find(&login).is_some(), used, "{mode:o}");
            assert_eq!(warning.is_none(), used, "{mode:o}");
            if let Some(warning) = warning {
                assert!(warning.contains(&format!("{mode:04o}")) && !warning.contains("sesame"), "{warning}");
            }
        }
        let (_, warning) = PasswordFile::read(directory.path());
        assert!(warning.unwrap().contains("not a plain file"));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Password::new("sesame")), "Password");
    }

    proptest! {
        #[test]
        fn escaped_fields_are_found_again(
            host in "[^\0\r\n]{1,9}", database in "[^\0\r\n]{1,9}", user in "[^\0\r\n]{1,9}", password in "[^\0\r\n]*",
        ) {
            let escape = |text: &str| text.replace('\\', r"\\").replace(':', r"\:").replace('*', r"\*");
            let line = format!("{}:7:{}:{}:{}", escape(&host), escape(&database), escape(&user), escape(&password));
            prop_assume!(!line.starts_with('#'));
            prop_assert_eq!(find(line.as_bytes(), &host, 7, &database, &user), Some(password.into_bytes()));
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(prop::sample::select(&b":\\*#\nhd\xff"[..]), 0..40)) {
            let _ = find(&bytes, "h", 7, "d", "h");
        }
    }
}
