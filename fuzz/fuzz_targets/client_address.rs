//! `fuzz::client_address` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::client_address::check(data));
