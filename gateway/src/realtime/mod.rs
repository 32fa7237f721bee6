//! Sockets as such.

mod application;
mod event;
mod outbox;
mod socket;

pub use application::*;
pub use event::Event;
pub use socket::{Ack, Answer, NoAnswer, Protocol, Socket};
