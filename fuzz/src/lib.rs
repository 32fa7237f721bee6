//! Fuzz targets: one module for each thing that reads what a stranger wrote, with what must be true of whatever it reads.
//! `fuzz_targets/` runs them under libFuzzer (`make fuzz`), `tests/smoke.rs` over the corpus and near it (`make test`).
//! What is private to its module is tested in place, with proptest.

#![expect(
    clippy::unwrap_used,
    reason = "a target fails by panicking, in its helpers too"
)]

pub mod access_token;
pub mod client_address;
pub mod commands;
pub mod connection;
pub mod engine_io;
pub mod envelope;
pub mod ids;
mod panics;
pub mod plain;
pub mod settings;
pub mod socket_io;
pub mod socket_io_written;

/// A target: panics where the input shows that something is wrong.
pub type Target = fn(&[u8]);

/// Every target, by the name of its program in `fuzz_targets/` and of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 11] = [
    ("access_token", access_token::check),
    ("client_address", client_address::check),
    ("commands", commands::check),
    ("connection", connection::check),
    ("engine_io", engine_io::check),
    ("envelope", envelope::check),
    ("ids", ids::check),
    ("plain", plain::check),
    ("settings", settings::check),
    ("socket_io", socket_io::check),
    ("socket_io_written", socket_io_written::check),
];
