//! The realtime layer against its protocols' documents: a real server on a free port, and literal bytes.

mod engine_io;
mod limits;
mod plain;
mod socket_io;
mod support;
