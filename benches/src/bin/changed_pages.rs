//! `changed_pages BEFORE AFTER`: the least that a backup after `BEFORE` could store.
//!
//! Both are data directories of one cluster whose server is stopped. Every page of `AFTER` that differs from the page at
//! the same place in `BEFORE` is compressed, nothing else, in frames of 128 KiB at zstd level 1. The files are those that a
//! base backup takes. Prints `pages= changed= bytes= stored=`; the limit that `scripts/bench` measures against.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use walkeep_proto::data_directory::{Treatment, exclusion};

/// Bytes compared at a time: what PostgreSQL writes at a time.
const PAGE: usize = 8192;
/// Bytes compressed at a time.
const FRAME: usize = 128 << 10;
/// zstd level, as a backup's default.
const LEVEL: i32 = 1;

/// What was found so far, and the frame that is being filled.
struct Changes {
    compressor: zstd::bulk::Compressor<'static>,
    frame: Vec<u8>,
    pages: u64,
    changed: u64,
    bytes: u64,
    stored: u64,
}

impl Changes {
    fn new() -> io::Result<Self> {
        let compressor = zstd::bulk::Compressor::new(LEVEL)?;
        Ok(Self { compressor, frame: Vec::with_capacity(FRAME), pages: 0, changed: 0, bytes: 0, stored: 0 })
    }

    /// Takes the same page of both directories; the older is shorter or empty where the file was.
    fn page(&mut self, before: &[u8], after: &[u8]) -> io::Result<()> {
        self.pages += 1;
        if before == after {
            return Ok(());
        }
        self.changed += 1;
        self.bytes += after.len() as u64;
        self.frame.extend_from_slice(after);
        if self.frame.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stored += self.compressor.compress(&self.frame)?.len() as u64;
        self.frame.clear();
        Ok(())
    }

    fn file(&mut self, before: &Path, after: &Path) -> io::Result<()> {
        let mut old = File::open(before).ok();
        let mut new = File::open(after)?;
        let (mut old_block, mut new_block) = (vec![0; FRAME], vec![0; FRAME]);
        loop {
            let length = fill(&mut new, &mut new_block)?;
            if length == 0 {
                return Ok(());
            }
            let old_length = old.as_mut().map_or(Ok(0), |file| fill(file, &mut old_block))?;
            for (index, page) in new_block[..length].chunks(PAGE).enumerate() {
                let start = (index * PAGE).min(old_length);
                let end = (start + page.len()).min(old_length);
                self.page(&old_block[start..end], page)?;
            }
        }
    }
}

/// Reads until the block is full or the file ends.
fn fill(file: &mut File, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < block.len() {
        match file.read(&mut block[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

/// The files of a base backup below `root`, in order of path, relative to it.
fn files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let entry = entry?;
            let relative = directory.join(entry.file_name());
            let kind = entry.file_type()?;
            if exclusion(&relative.to_string_lossy(), kind.is_dir()) != Treatment::Copy {
                continue;
            }
            if kind.is_dir() {
                open.push(relative);
            } else if kind.is_file() {
                found.push(relative);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(before), Some(after), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        return Err("usage: changed_pages BEFORE AFTER".into());
    };
    let mut changes = Changes::new()?;
    for file in files(&after)? {
        changes.file(&before.join(&file), &after.join(&file))?;
    }
    changes.flush()?;
    let Changes { pages, changed, bytes, stored, .. } = changes;
    writeln!(io::stdout(), "pages={pages} changed={changed} bytes={bytes} stored={stored}")?;
    Ok(())
}
