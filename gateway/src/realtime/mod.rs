//! Sockets as such.

mod application;
mod event;

pub use application::*;
pub use event::Event;

/// A socket of one client: a cheap handle.
#[derive(Debug, Clone)]
pub struct Socket;

/// Answers one event, once.
#[derive(Debug)]
pub struct Ack;
