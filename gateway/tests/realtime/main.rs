//! The realtime layer against its protocols' documents: a real server on a free port, and literal bytes.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod engine_io;
mod limits;
mod plain;
mod socket_io;
mod support;
