//! Every object of a small repository, damaged in every way: a restore gives the exact bytes or an error, and never panics.

// Helpers of tests may fail as loudly as tests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod synthetic;

use std::ops::Range;
use std::sync::Arc;

use synthetic::cluster::{fill, options, read_tree, restore};
use synthetic::files::Tree;
use walkeep_chunkstore::repository::Repository;
use walkeep_chunkstore::storage::{MemoryStorage, ObjectInfo, ObjectKey, ObjectWriter, Put, Storage};
use walkeep_chunkstore::{Error, Result};
use walkeep_restore::failure::exit_and_hints;

/// What is done to an object.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    Emptied,
    /// Cut to this many thousandths of its length.
    Cut(u64),
    /// One bit changed at this many thousandths of its length.
    Flipped(u64, u8),
    /// Zeroes from this many thousandths on.
    Zeroed(u64),
    /// Twice, one behind the other.
    Doubled,
}

/// Shows one object damaged.
#[derive(Clone, Debug)]
struct Damaged {
    inner: MemoryStorage,
    key: ObjectKey,
    content: Option<Vec<u8>>,
    parallel_reads: usize,
}

impl Damaged {
    fn new(inner: &MemoryStorage, info: &ObjectInfo, damage: Damage, parallel_reads: usize) -> Self {
        let mut bytes = inner.get(&info.key, u64::MAX).unwrap();
        let length = bytes.len() as u64;
        let at = |thousandths: u64| usize::try_from(length * thousandths / 1000).unwrap().min(bytes.len() - 1);
        let content = match damage {
            Damage::Deleted => None,
            Damage::Emptied => Some(Vec::new()),
            Damage::Cut(part) => Some(bytes[..at(part)].to_vec()),
            Damage::Zeroed(part) => {
                let at = at(part);
                bytes[at..].fill(0);
                Some(bytes)
            }
            Damage::Doubled => Some([bytes.clone(), bytes].concat()),
            Damage::Flipped(part, bit) => {
                let at = at(part);
                bytes[at] ^= 1 << bit;
                Some(bytes)
            }
        };
        Self { inner: inner.clone(), key: info.key.clone(), content, parallel_reads }
    }
}

impl Storage for Damaged {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn writer(&self) -> Result<Box<dyn ObjectWriter>> {
        self.inner.writer()
    }

    fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>> {
        if *key != self.key {
            return self.inner.get_range(key, range);
        }
        let content = self.content.as_ref().ok_or_else(|| Error::not_found(format_args!("'{key}'")))?;
        let bytes = content.get(range.start as usize..range.end as usize);
        bytes.map(<[u8]>::to_vec).ok_or_else(|| Error::damaged(key, "shorter than asked for"))
    }

    fn size(&self, key: &ObjectKey) -> Result<Option<u64>> {
        if *key == self.key { Ok(self.content.as_ref().map(|c| c.len() as u64)) } else { self.inner.size(key) }
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let mut listed = self.inner.list(prefix)?;
        listed.retain_mut(|info| {
            if info.key != self.key {
                return true;
            }
            info.size = self.content.as_ref().map_or(0, |content| content.len() as u64);
            self.content.is_some()
        });
        Ok(listed)
    }

    fn parallel_reads(&self) -> usize {
        self.parallel_reads
    }

    fn overwrite(&self, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
        self.inner.overwrite(key, bytes)
    }

    fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.inner.delete(key)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<()> {
        self.inner.make_durable(key)
    }
}

const _: fn(Put) = drop;

/// Restores into a new directory that is removed again.
fn outcome(storage: impl Storage + 'static) -> anyhow::Result<(Tree, Tree)> {
    let directory = tempfile::tempdir()?;
    let (data, tablespace) = (directory.path().join("data"), directory.path().join("tablespace"));
    let repository = Arc::new(Repository::open(Arc::new(storage))?);
    restore(&repository, &options(&data, &tablespace))?;
    let (mut data, tablespace) = (read_tree(&data), read_tree(&tablespace));
    // It names the temporary directory.
    data.remove("tablespace_map");
    data.remove("backup_manifest");
    Ok((data, tablespace))
}

#[test]
fn damage_is_an_error_or_does_no_harm() {
    damage_everything(1);
}

#[test]
fn damage_is_an_error_or_does_no_harm_behind_a_network() {
    damage_everything(16);
}

fn damage_everything(parallel_reads: usize) {
    let storage = MemoryStorage::new();
    let index = tempfile::tempdir().unwrap();
    fill(storage.clone(), index.path(), std::path::Path::new("/nowhere/at/all"));
    let expected = outcome(storage.clone()).unwrap();
    let mut damages =
        vec![Damage::Deleted, Damage::Emptied, Damage::Cut(0), Damage::Cut(500), Damage::Cut(999), Damage::Doubled];
    damages.extend([0, 300, 900].map(Damage::Zeroed));
    damages.extend([0, 1, 5, 100, 250, 500, 750, 900, 990, 999].map(|at| Damage::Flipped(at, (at % 8) as u8)));
    let (mut restored, mut refused) = (0, 0);
    for info in storage.list("").unwrap() {
        for damage in &damages {
            match outcome(Damaged::new(&storage, &info, *damage, parallel_reads)) {
                Ok(found) => {
                    assert!(found == expected, "{damage:?} of '{}' gave wrong data", info.key);
                    restored += 1;
                }
                Err(error) => {
                    let (exit, _) = exit_and_hints(&error);
                    assert!((1..=8).contains(&exit.code()), "{damage:?} of '{}': {error:#}", info.key);
                    refused += 1;
                }
            }
        }
        let object = info.key.as_str();
        let needed = object.starts_with("packs/") || object.contains("/backups/") || object == "walkeep.json";
        let gone = outcome(Damaged::new(&storage, &info, Damage::Deleted, parallel_reads));
        assert!(!needed || gone.is_err(), "'{object}' is needed");
    }
    assert!(restored > 0 && refused > 50, "{restored} restored, {refused} refused");
}

#[test]
fn a_newer_format_is_named() {
    let storage = MemoryStorage::new();
    let index = tempfile::tempdir().unwrap();
    fill(storage.clone(), index.path(), std::path::Path::new("/nowhere/at/all"));
    let config = ObjectKey::new("walkeep.json").unwrap();
    let text = String::from_utf8(storage.get(&config, u64::MAX).unwrap()).unwrap();
    storage.overwrite(&config, text.replace("\"format\": 1", "\"format\": 2").as_bytes()).unwrap();
    let error = outcome(storage).unwrap_err();
    assert_eq!(exit_and_hints(&error).0.code(), 3);
    assert!(error.to_string().contains("needs a newer Walkeep"), "{error}");
}
