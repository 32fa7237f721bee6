//! The wire grammars: bytes to packets and back. No state, no I/O. When a packet may come, and what follows from it, is
//! the gateway's business.

pub mod engine_io;
pub mod plain;
pub mod socket_io;
