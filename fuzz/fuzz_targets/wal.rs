//! The write-ahead log.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| walkeep_fuzz::wal::check(input));
