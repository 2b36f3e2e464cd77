//! A server's messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| walkeep_fuzz::wire::check(input));
