//! An event on its way out: encoded once for each wire shape, however many sockets hear it.

use std::sync::OnceLock;

use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// An event for any number of sockets. Share it behind an `Arc`.
#[derive(Debug)]
pub struct Event {
    name: String,
    data: Box<RawValue>,
    /// First to go when a socket is slow: typing, presence.
    volatile: bool,
    socket_io: OnceLock<Utf8Bytes>,
    plain: OnceLock<Utf8Bytes>,
}

impl Event {
    /// An event with one argument.
    pub fn new(name: impl Into<String>, data: Box<RawValue>, volatile: bool) -> Self {
        Self {
            name: name.into(),
            data,
            volatile,
            socket_io: OnceLock::new(),
            plain: OnceLock::new(),
        }
    }

    /// The event's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
