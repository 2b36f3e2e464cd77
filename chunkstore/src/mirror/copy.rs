//! Copying objects from one storage to another, each checked against its name on the way.

use parking_lot::Mutex;

use super::Class;
use crate::console::Progress;
use crate::error::{Error, Result};
use crate::parallel::for_each;
use crate::repository::layout::{CLUSTERS, CONFIG, INDEX, NODES, PACKS, WalObjectName, hash16};
use crate::storage::{ObjectInfo, ObjectKey, Put, Storage};

/// Bytes read at a time.
const STRIDE: u64 = 8 << 20;

/// What one storage has and the other lacks, in the order in which it is to be copied.
#[derive(Clone, Debug, Default)]
pub struct Missing {
    /// Objects by class.
    pub objects: Vec<(Class, ObjectInfo)>,
    /// Objects that both have under one name with different sizes. That is damage to one of them, except for WAL: two
    /// writers may have compressed one content differently.
    pub different: Vec<(ObjectKey, u64, u64)>,
    /// Objects that both have.
    pub present: u64,
}

impl Missing {
    /// Bytes to be copied.
    pub fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, info)| info.size).sum()
    }
}

/// Compares two storages. Roots of backups are listed first: what they refer to was there before them, so it is in the
/// later listings, whatever is written meanwhile.
pub fn missing(from: &dyn Storage, to: &dyn Storage, classes: &[Class]) -> Result<Missing> {
    let mut missing = Missing::default();
    let mut compare = |listed: Vec<ObjectInfo>, there: Vec<ObjectInfo>| {
        for info in listed {
            let Some(class) = Class::of(&info.key).filter(|class| classes.contains(class)) else { continue };
            // Listings are in order of their keys.
            match there.binary_search_by(|other| other.key.cmp(&info.key)).ok().and_then(|at| there.get(at)) {
                None => missing.objects.push((class, info)),
                Some(other) => {
                    missing.present += 1;
                    if other.size != info.size && is_written_once(&info.key) {
                        missing.different.push((info.key, info.size, other.size));
                    }
                }
            }
        }
    };
    for prefix in [CLUSTERS, INDEX, PACKS, NODES, "keys/", CONFIG] {
        let wanted = match prefix {
            CLUSTERS => classes.iter().any(|class| matches!(class, Class::Description | Class::Wal | Class::Backups)),
            INDEX => classes.contains(&Class::Index),
            PACKS | NODES => classes.contains(&Class::Packs),
            _ => classes.contains(&Class::Description),
        };
        if wanted {
            let listed = from.list(prefix)?;
            compare(listed, to.list(prefix)?);
        }
    }
    missing.objects.sort_by(|a, b| (a.0, &a.1.key).cmp(&(b.0, &b.1.key)));
    Ok(missing)
}

/// Whether nobody ever writes other bytes under this name: what later versions may add is left to them.
fn is_written_once(key: &ObjectKey) -> bool {
    match Class::of(key) {
        Some(Class::Packs | Class::Wal | Class::Backups) => true,
        Some(Class::Index) => key.as_str().starts_with(INDEX),
        Some(Class::Description) => key.as_str().starts_with(CLUSTERS),
        None => false,
    }
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CopyReport {
    /// Objects that are new.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How to copy.
pub struct Copying<'a> {
    /// Whence.
    pub from: &'a dyn Storage,
    /// Where to.
    pub to: &'a dyn Storage,
    /// Objects under way at once.
    pub threads: usize,
    /// Is told about every object.
    pub progress: &'a Progress,
}

impl Copying<'_> {
    /// Copies objects class by class: the next begins when all of one are durable.
    pub fn run(&self, missing: &Missing) -> Result<CopyReport> {
        let report = Mutex::new(CopyReport::default());
        for class in missing.objects.chunk_by(|a, b| a.0 == b.0) {
            self.copy_class(class, &report)?;
        }
        Ok(report.into_inner())
    }

    fn copy_class(&self, objects: &[(Class, ObjectInfo)], report: &Mutex<CopyReport>) -> Result<()> {
        for_each(objects, self.threads, |(_, info)| {
            let copied = unless_dropped(self.from, &info.key, copy_object(self.from, self.to, info))?;
            self.progress.add(info.size);
            if copied.is_none() {
                return Ok(());
            }
            let mut report = report.lock();
            report.objects += 1;
            report.bytes += info.size;
            Ok(())
        })
    }
}

/// What became of an object that was to be read from `from`; `None` if it is a tail that was dropped meanwhile. Tails are
/// the only objects that go at any time: what supersedes them is there.
pub(super) fn unless_dropped<T>(from: &dyn Storage, key: &ObjectKey, outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if error.is_not_found() && is_tail(key) && from.size(key)?.is_none() => Ok(None),
        outcome => outcome.map(Some),
    }
}

pub(super) fn is_tail(key: &ObjectKey) -> bool {
    Class::of(key) == Some(Class::Wal) && matches!(WalObjectName::parse(key.name()), Some(WalObjectName::Tail { .. }))
}

/// Copies one object; its bytes must fit its name where the name is their hash. Durable on return.
pub fn copy_object(from: &dyn Storage, to: &dyn Storage, info: &ObjectInfo) -> Result<Put> {
    if let Some(path) = from.local_file(&info.key) {
        check_name(&info.key, || read_through(from, info, |_| Ok(())))?;
        return to.put_file(&info.key, &path);
    }
    let mut writer = to.writer()?;
    check_name(&info.key, || read_through(from, info, |bytes| writer.write(bytes)))?;
    writer.publish(&info.key)
}

/// Reads an object piece by piece and gives the hash of its bytes.
fn read_through(
    from: &dyn Storage,
    info: &ObjectInfo,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < info.size {
        let end = (at + STRIDE).min(info.size);
        let bytes = from.get_range(&info.key, at..end)?;
        hasher.update(&bytes);
        each(&bytes)?;
        at = end;
    }
    Ok(hasher.finalize())
}

fn check_name(key: &ObjectKey, hash: impl FnOnce() -> Result<blake3::Hash>) -> Result<()> {
    let found = hash()?;
    let (named, found) = match Class::of(key) {
        Some(Class::Packs) => (key.name(), found.to_hex().to_string()),
        // `index/<ulid>-<hash>`
        Some(Class::Index) if key.as_str().starts_with(INDEX) => {
            (key.name().rsplit('-').next().unwrap_or_default(), hash16(found.as_bytes()))
        }
        _ => return Ok(()),
    };
    if named == found {
        Ok(())
    } else {
        Err(Error::damaged(key, format_args!("its bytes have hash {found}, its name says {named}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::Show;
    use crate::storage::MemoryStorage;

    fn put(storage: &MemoryStorage, key: &str, bytes: &[u8]) {
        storage.put_if_absent(&ObjectKey::new(key).unwrap(), bytes).unwrap();
    }

    fn pack(bytes: &[u8]) -> String {
        format!("packs/00/{}", blake3::hash(bytes))
    }

    #[test]
    fn what_is_missing_is_copied_in_order_and_nothing_else() {
        let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
        put(&from, "clusters/a/backups/1", b"root");
        put(&from, &pack(b"data"), b"data");
        put(&from, &pack(b"both"), b"both");
        put(&to, &pack(b"both"), b"both");
        put(&from, "leases/backup/x", b"lease");
        put(&from, "walkeep.json", b"{}");
        let found = missing(&from, &to, &Class::ALL).unwrap();
        let classes: Vec<Class> = found.objects.iter().map(|(class, _)| *class).collect();
        assert_eq!(classes, [Class::Description, Class::Packs, Class::Backups]);
        assert_eq!((found.present, found.bytes()), (1, 10));
        let progress = Progress::start("copying", 0, Show::Nothing);
        let report = Copying { from: &from, to: &to, threads: 2, progress: &progress }.run(&found).unwrap();
        assert_eq!(report, CopyReport { objects: 3, bytes: 10 });
        assert!(missing(&from, &to, &Class::ALL).unwrap().objects.is_empty());
        assert!(to.list("leases/").unwrap().is_empty());
    }

    #[test]
    fn bytes_that_do_not_fit_their_name_are_not_copied() {
        let (from, to) = (MemoryStorage::new(), MemoryStorage::new());
        put(&from, &pack(b"data"), b"dat4");
        let info = from.list("").unwrap().remove(0);
        let error = copy_object(&from, &to, &info).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(to.list("").unwrap().is_empty());
    }
}
