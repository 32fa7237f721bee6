//! What the machine gives before any chat is built on it: frames written to sockets, rows written to the database. What a
//! server reaches is held against these.

mod inserts;
mod writes;

pub use inserts::{Inserts, inserts};
pub use writes::{Writes, serve_writes, writes};
