//! Page checksums, computed a second time: the judge must not share code with what it judges, and no `pg_checksums`
//! is packaged for every major.

use std::fs;
use std::path::{Path, PathBuf};

const PAGE: usize = 8192;
const SEGMENT_PAGES: u32 = 131_072;
const SUMS: usize = 32;
const PRIME: u32 = 16_777_619;

/// PostgreSQL's `checksumBaseOffsets` (`storage/checksum_impl.h`).
const BASE_OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a look at every page of a stopped cluster found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageReport {
    /// Pages whose checksum was computed.
    pub pages: u64,
    /// Pages that were never initialised and have none.
    pub new_pages: u64,
    /// One line per page whose checksum is wrong, and per file whose size is no multiple of a page.
    pub failures: Vec<String>,
}

/// The checksum of a page (8 KiB) that is block `block` of its relation fork.
pub fn page_checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASE_OFFSETS;
    let mut mix = |lane: usize, value: u32| {
        let mixed = sums[lane] ^ value;
        sums[lane] = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    };
    for (index, word) in page.chunks_exact(4).enumerate() {
        let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        // The checksum itself, at bytes 8 and 9, counts as zero.
        mix(index % SUMS, if index == 2 { value & 0xFFFF_0000 } else { value });
    }
    for _ in 0..2 {
        (0..SUMS).for_each(|lane| mix(lane, 0));
    }
    let sum = sums.iter().fold(0, |all, sum| all ^ sum) ^ block;
    u16::try_from(sum % 65_535 + 1).expect("at most 65535")
}

/// Verifies every page of every relation below `data`, tablespaces included. The cluster must be stopped.
pub fn scan_pages(data: &Path) -> PageReport {
    let mut report = PageReport::default();
    for directory in ["base", "global", "pg_tblspc"] {
        for file in files_below(&data.join(directory)) {
            if let Some(segment) = relation_segment(&file) {
                scan_file(&file, segment, &mut report);
            }
        }
    }
    report
}

fn scan_file(file: &Path, segment: u32, report: &mut PageReport) {
    let bytes = fs::read(file).unwrap_or_else(|e| panic!("unable to read {}: {e}", file.display()));
    let pages = bytes.chunks_exact(PAGE);
    if !pages.remainder().is_empty() {
        report.failures.push(format!("{}: {} bytes are no whole pages", file.display(), bytes.len()));
    }
    for (block, page) in (segment * SEGMENT_PAGES..).zip(pages) {
        if u16::from_le_bytes([page[14], page[15]]) == 0 {
            report.new_pages += 1;
            continue;
        }
        report.pages += 1;
        let (stored, computed) = (u16::from_le_bytes([page[8], page[9]]), page_checksum(page, block));
        if stored != computed {
            report
                .failures
                .push(format!("{}: block {block}: stored {stored:04X}, computed {computed:04X}", file.display()));
        }
    }
}

/// The segment number of a relation file (`16384`, `16384_fsm.2`, `16384.1`), or `None` if the file is none.
fn relation_segment(file: &Path) -> Option<u32> {
    let name = file.file_name()?.to_str()?;
    let (name, segment) = match name.split_once('.') {
        Some((name, segment)) => (name, segment.parse().ok()?),
        None => (name, 0),
    };
    let (number, fork) = name.split_once('_').unwrap_or((name, "main"));
    (number.bytes().all(|b| b.is_ascii_digit()) && ["main", "fsm", "vm", "init"].contains(&fork)).then_some(segment)
}

/// Every file below a directory, symbolic links followed, as tablespaces are.
pub(crate) fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("unable to list {}: {e}", directory.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
