//! PostgreSQL's `backup_manifest`, judged by `pg_verifybackup`.
//!
//! Manifests of 17 and later are version 2, which only `pg_verifybackup` 17 and later reads; the only one packaged, 18's,
//! is a damaged executable. Version 2 adds nothing but the system identifier, so they are rewritten as version 1.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::output::Output;
use crate::servers::Tools;
use crate::user::{Scratch, TestUser, write_file};

/// Runs `pg_verifybackup` on a directory that was not started yet and has its `backup_manifest`: every file is there,
/// none is too many, sizes and checksums agree. WAL is not looked at: a restored directory has none.
#[track_caller]
pub fn verify_backup(directory: &Path, extra: &[&str]) -> Output {
    let scratch = Scratch::new("manifest");
    let mut command = TestUser::get().command(Tools::verifybackup());
    command.arg("-n").arg("-m").arg(readable_manifest(directory, &scratch));
    Output::of(command.args(extra).arg(directory))
}

/// The directory's manifest, as version 1 if it is version 2.
#[track_caller]
fn readable_manifest(directory: &Path, scratch: &Scratch) -> PathBuf {
    let original = directory.join("backup_manifest");
    let text = match fs::read_to_string(&original) {
        Ok(text) => text,
        Err(e) => panic!("unable to read {}: {e}", original.display()),
    };
    if !text.contains("\"PostgreSQL-Backup-Manifest-Version\": 2") {
        return original;
    }
    let (body, checksum) = text.split_at(text.rfind("\"Manifest-Checksum\"").unwrap_or(text.len()));
    assert!(checksum.contains(&sha256(body)), "{} does not fit its own checksum", original.display());
    let mut body = body.replacen("Manifest-Version\": 2", "Manifest-Version\": 1", 1);
    if let Some(start) = body.find("\"System-Identifier\"") {
        let end = body[start..].find('\n').map_or(body.len(), |length| start + length + 1);
        body.replace_range(start..end, "");
    }
    let rewritten = scratch.path().join("backup_manifest");
    write_file(&rewritten, format!("{body}\"Manifest-Checksum\": \"{}\"}}\n", sha256(&body)));
    rewritten
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
