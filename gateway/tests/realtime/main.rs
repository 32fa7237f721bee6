//! The realtime layer against its protocols' documents: a real server on a free port, and literal bytes.

#![expect(clippy::unwrap_used, reason = "a test that fails has said enough")]

mod engine_io;
mod limits;
mod plain;
mod socket_io;
mod support;
