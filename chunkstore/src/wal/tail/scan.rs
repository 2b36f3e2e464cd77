//! What a tail says, as recovery will read it: with zeros behind it.

use walkeep_proto::segment::{WalSegment, WalSegmentSize};
use walkeep_proto::wal::segment_scan::SegmentEnd;
use walkeep_proto::wal::{ScanContext, SegmentHeader, SegmentScan, WalError, scan_segment};

/// A tail's bytes with as many zeros behind them as recovery reads before it knows that records end there.
pub(crate) fn padded(mut bytes: Vec<u8>, size: WalSegmentSize) -> Result<Vec<u8>, WalError> {
    let name = || "tail".to_owned();
    let header = SegmentHeader::parse(&bytes).map_err(|problem| WalError::Header { name: name(), problem })?;
    let page = header.wal_block_size.bytes() as usize;
    let length = (bytes.len().next_multiple_of(page) + page).min(size.bytes() as usize);
    bytes.resize(length.max(bytes.len()), 0);
    Ok(bytes)
}

/// What a tail says: the records up to the last that is whole when zeros follow, as recovery will see them.
///
/// Its end is [`SegmentEnd::Short`] at the end of that record, `Full` or `Switch` if nothing of the segment is missing after
/// all, and `Stopped` only if something else than the end of the tail is in the way. A record that begins in an earlier
/// segment counts as whole only when all its bytes are here.
pub(crate) fn scan_tail(bytes: &[u8], segment: WalSegment, size: WalSegmentSize) -> Result<SegmentScan, WalError> {
    let context = ScanContext { segment, segment_size: size, system_identifier: None };
    let as_stored = scan_segment(bytes, &context)?;
    let goes_on = as_stored.continuation.as_ref().is_some_and(|rest| rest.missing > 0);
    if goes_on || matches!(as_stored.end, SegmentEnd::Stopped(_)) {
        return Ok(as_stored);
    }
    let mut scan = scan_segment(&padded(bytes.to_vec(), size)?, &context)?;
    // A record that runs on to the end of the segment: no page behind it could say that those zeros are none of its own.
    let runs_on = scan.crossing.take().is_some();
    if runs_on || !scan.is_complete() {
        scan.end = SegmentEnd::Short;
        scan.valid_up_to = scan.last_record_end.unwrap_or(as_stored.valid_up_to);
    }
    Ok(scan)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use walkeep_proto::lsn::Lsn;
    use walkeep_proto::wal::WalDecoder;

    use super::*;

    const PAGE: usize = 8192;

    struct Real {
        segment: WalSegment,
        size: WalSegmentSize,
        bytes: Vec<u8>,
        /// Start and end of each record that begins in the segment and ends in it.
        records: Vec<(Lsn, Lsn)>,
        /// Where the record ends that began before.
        continued: usize,
    }

    /// A whole segment of a real server, which begins and ends inside records.
    fn real() -> Real {
        let path = "../proto/tests/fixtures/wal/17/00000001000000000000000A.zst";
        let file = std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let bytes = zstd::decode_all(file).unwrap();
        let header = SegmentHeader::parse(&bytes).unwrap();
        let segment = WalSegment::from_file_name("00000001000000000000000A", header.segment_size).unwrap();
        let mut decoder = WalDecoder::new(header.format(), segment.timeline, header.page_address).unwrap();
        let (mut records, mut found) = (decoder.feed(&bytes), Vec::new());
        while let Some(record) = records.next_record().unwrap() {
            found.push((record.start, record.end));
        }
        let continued = 40 + decoder.skipped().unwrap().length as usize;
        Real { segment, size: header.segment_size, bytes, records: found, continued }
    }

    impl Real {
        fn lsn(&self, at: usize) -> Lsn {
            self.segment.start(self.size).saturating_add(at as u64)
        }

        fn offset(&self, lsn: Lsn) -> usize {
            lsn.saturating_sub(self.segment.start(self.size)) as usize
        }

        fn scan(&self, cut: usize) -> SegmentScan {
            scan_tail(&self.bytes[..cut], self.segment, self.size).unwrap()
        }

        fn check(&self, cut: usize) {
            let scan = self.scan(cut);
            assert_eq!((scan.end, &scan.crossing), (SegmentEnd::Short, &None), "cut at {cut}");
            let continuation = scan.continuation.as_ref().unwrap();
            if cut < self.continued {
                assert_eq!(continuation.missing as usize, self.continued - cut, "cut at {cut}");
                assert_eq!((scan.last_record, scan.valid_up_to), (None, self.lsn(0)), "cut at {cut}");
                return;
            }
            assert_eq!(continuation.missing, 0, "cut at {cut}");
            let count = self.records.iter().take_while(|(_, end)| self.offset(*end) <= cut).count();
            let next = self.records.get(count).filter(|(start, _)| scan.last_record == Some(*start));
            if let Some((_, end)) = next {
                // Nothing of it is missing but zeros.
                assert!(self.bytes[cut..self.offset(*end)].iter().all(|byte| *byte == 0), "cut at {cut}");
                assert_eq!(scan.valid_up_to, *end, "cut at {cut}");
                return;
            }
            let last = count.checked_sub(1).map(|last| self.records[last]);
            assert_eq!(scan.last_record, last.map(|(start, _)| start), "cut at {cut}");
            let end = last.map_or(self.lsn(self.continued.next_multiple_of(8)), |(_, end)| end);
            assert_eq!(scan.valid_up_to, end, "cut at {cut}");
        }
    }

    /// At and around page boundaries, inside page headers, and at every byte of a few records and of the first page header.
    #[test]
    fn records_count_up_to_the_last_that_is_whole() {
        let real = real();
        for page in [1, 2, 3, 64, 127] {
            for beyond in [-9, -8, -1, 0, 1, 8, 16, 20, 23, 24, 25, 32] {
                real.check((page * PAGE).saturating_add_signed(beyond));
            }
        }
        (40..1200).for_each(|cut| real.check(cut));
        // A page of which nothing is there but its header, and of that all but zeros.
        (671_744..671_800).for_each(|cut| real.check(cut));
        (real.bytes.len() - 300..real.bytes.len()).for_each(|cut| real.check(cut));
    }

    #[test]
    fn a_switched_segment_lacks_nothing() {
        let Real { segment, size, mut bytes, continued, .. } = real();
        let mut record = Vec::new();
        record.extend(24_u32.to_le_bytes());
        record.extend(0_u32.to_le_bytes());
        record.extend((segment.start(size).as_u64() - 64).to_le_bytes());
        record.extend([0x40, 0, 0, 0]);
        let checksum = crc32c::crc32c(&record);
        record.extend(checksum.to_le_bytes());
        bytes.truncate(continued.next_multiple_of(8));
        bytes.extend(record);
        let scan = scan_tail(&bytes, segment, size).unwrap();
        assert_eq!((scan.end, scan.last_record_end), (SegmentEnd::Switch, Some(segment.number.end(size))));
    }

    #[test]
    fn what_breaks_off_inside_is_told_from_an_end() {
        let real = real();
        let (start, _) = real.records[real.records.len() / 2];
        let mut bytes = real.bytes[..real.bytes.len() - PAGE].to_vec();
        bytes[real.offset(start) + 30] ^= 1;
        let scan = scan_tail(&bytes, real.segment, real.size).unwrap();
        assert!(matches!(scan.end, SegmentEnd::Stopped(_)), "{:?}", scan.end);
        assert_eq!(scan.valid_up_to, start);
    }

    #[test]
    fn padding_stays_inside_the_segment() {
        let real = real();
        for (cut, length) in [(40, 2 * PAGE), (PAGE, 2 * PAGE), (PAGE + 1, 3 * PAGE), ((1 << 20) - 1, 1 << 20)] {
            let padded = padded(real.bytes[..cut].to_vec(), real.size).unwrap();
            assert_eq!(padded.len(), length, "{cut}");
            assert!(padded.starts_with(&real.bytes[..cut]) && padded[cut..].iter().all(|byte| *byte == 0));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_cut_is_judged_right(cut in 40_usize..1 << 20) {
            real().check(cut);
        }
        #[test]
        fn any_bytes_are_a_scan_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), whole: bool) {
            let real = real();
            if whole {
                bytes.splice(0..0, real.bytes[..40].iter().copied());
            }
            let _ = scan_tail(&bytes, real.segment, real.size);
        }
    }
}
