//! An event on its way out: encoded once for each wire shape, however many sockets hear it.

use std::sync::OnceLock;

use serde_json::value::RawValue;
use shared::protocol::socket_io::{self, Args, MAIN_NAMESPACE};
use shared::protocol::{engine_io, plain};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// An event for any number of sockets. Share it behind an `Arc`.
#[derive(Debug)]
pub struct Event {
    name: String,
    data: Box<RawValue>,
    /// First to go when a socket is slow: typing, presence.
    volatile: bool,
    /// Where it stands in the order of what a client may recover, as the client shows it again.
    offset: Option<Box<str>>,
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
            offset: None,
            socket_io: OnceLock::new(),
            plain: OnceLock::new(),
        }
    }

    /// Says where the event stands in the order of what a client may recover. Socket.IO clients get it as a last argument,
    /// keep the last one they got, and show it when they come back.
    pub fn at_offset(mut self, offset: impl Into<Box<str>>) -> Self {
        self.offset = Some(offset.into());
        self
    }

    /// The event's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The event's argument.
    pub fn data(&self) -> &RawValue {
        &self.data
    }

    /// Whether it may be left out where a socket is slow.
    pub fn is_volatile(&self) -> bool {
        self.volatile
    }

    /// The Engine.IO text packet. Shared for the main namespace, where nearly every socket is; made anew for others.
    pub(super) fn socket_io_text(&self, namespace: &str) -> Utf8Bytes {
        if namespace == MAIN_NAMESPACE {
            self.socket_io
                .get_or_init(|| self.encode_socket_io(namespace, None))
                .clone()
        } else {
            self.encode_socket_io(namespace, None)
        }
    }

    /// The Engine.IO text packet of an event that asks for an answer.
    pub(super) fn socket_io_text_with_ack(&self, namespace: &str, id: u64) -> Utf8Bytes {
        self.encode_socket_io(namespace, Some(id))
    }

    /// The frame of a plain socket.
    pub(super) fn plain_text(&self) -> Utf8Bytes {
        self.plain
            .get_or_init(|| plain::encode_event(&self.name, &self.data).into())
            .clone()
    }

    fn encode_socket_io(&self, namespace: &str, id: Option<u64>) -> Utf8Bytes {
        let mut text = String::with_capacity(self.name.len() + self.data.get().len() + 32);
        text.push(engine_io::MESSAGE);
        let args = match &self.offset {
            Some(offset) => Args::OneAt(&self.data, offset),
            None => Args::One(&self.data),
        };
        socket_io::write_event(&mut text, namespace, id, &self.name, args, 0);
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let data = RawValue::from_string(r#"{"a":1}"#.to_owned()).unwrap();
        Event::new("typing", data, true)
    }

    #[test]
    fn each_wire_shape_has_its_text() {
        let event = event();
        assert_eq!(event.socket_io_text("/"), r#"42["typing",{"a":1}]"#);
        assert_eq!(
            event.socket_io_text("/admin"),
            r#"42/admin,["typing",{"a":1}]"#
        );
        assert_eq!(
            event.socket_io_text_with_ack("/", 7),
            r#"427["typing",{"a":1}]"#
        );
        assert_eq!(event.plain_text(), r#"{"event":"typing","data":{"a":1}}"#);
    }

    #[test]
    fn an_offset_is_for_clients_that_recover() {
        let event = event().at_offset("a-1");
        assert_eq!(event.socket_io_text("/"), r#"42["typing",{"a":1},"a-1"]"#);
        assert_eq!(event.plain_text(), r#"{"event":"typing","data":{"a":1}}"#);
    }

    #[test]
    fn the_text_is_made_once() {
        let event = event();
        assert_eq!(
            event.socket_io_text("/").as_ptr(),
            event.socket_io_text("/").as_ptr()
        );
        assert_eq!(event.plain_text().as_ptr(), event.plain_text().as_ptr());
    }
}
