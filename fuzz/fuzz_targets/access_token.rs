//! `fuzz::access_token` under libFuzzer.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::access_token::check(data));
