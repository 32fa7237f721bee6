//! `fuzz::socket_io` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::socket_io::check(data));
