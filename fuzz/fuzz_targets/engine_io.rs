//! `fuzz::engine_io` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::engine_io::check(data));
