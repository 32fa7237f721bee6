//! An event on its way out: encoded once for each wire shape, however many sockets hear it.

use std::sync::OnceLock;

use serde_json::value::RawValue;
use shared::protocol::socket_io::{self, Args, MAIN_NAMESPACE};
use shared::protocol::{engine_io, plain};

use super::frame::Frame;

/// About what is around an event's name and data: brackets, quotes, and a mark of up to 16 and twice 20 digits.
const REST: usize = 72;

/// An event for any number of sockets. Share it behind an `Arc`.
#[derive(Debug)]
pub struct Event {
    name: String,
    data: Box<RawValue>,
    /// First to go when a socket is slow: typing, presence.
    volatile: bool,
    /// Where it stands in the order of what a client may recover, as the client shows it again.
    offset: Option<Box<str>>,
    socket_io: OnceLock<Frame>,
    plain: OnceLock<Frame>,
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

    /// The Engine.IO text packet, as a frame. Shared for the main namespace, where nearly every socket is; made anew for others.
    pub(super) fn socket_io_frame(&self, namespace: &str) -> Frame {
        if namespace == MAIN_NAMESPACE {
            self.socket_io
                .get_or_init(|| self.encode_socket_io(namespace, None))
                .clone()
        } else {
            self.encode_socket_io(namespace, None)
        }
    }

    /// The Engine.IO text packet, as a frame, of an event that asks for an answer.
    pub(super) fn socket_io_frame_with_ack(&self, namespace: &str, id: u64) -> Frame {
        self.encode_socket_io(namespace, Some(id))
    }

    /// The frame of a plain socket.
    pub(super) fn plain_frame(&self) -> Frame {
        self.plain
            .get_or_init(|| Frame::text(&plain::encode_event(&self.name, &self.data)))
            .clone()
    }

    fn encode_socket_io(&self, namespace: &str, id: Option<u64>) -> Frame {
        let args = match &self.offset {
            Some(offset) => Args::OneAt(&self.data, offset),
            None => Args::One(&self.data),
        };
        let capacity = self.name.len() + self.data.get().len() + REST;
        Frame::written(capacity, |out| {
            out.push(engine_io::MESSAGE);
            socket_io::write_event(out, namespace, id, &self.name, args, 0);
        })
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
        assert_eq!(
            event.socket_io_frame("/").as_text(),
            r#"42["typing",{"a":1}]"#
        );
        assert_eq!(
            event.socket_io_frame("/admin").as_text(),
            r#"42/admin,["typing",{"a":1}]"#
        );
        assert_eq!(
            event.socket_io_frame_with_ack("/", 7).as_text(),
            r#"427["typing",{"a":1}]"#
        );
        assert_eq!(
            event.plain_frame().as_text(),
            r#"{"event":"typing","data":{"a":1}}"#
        );
    }

    #[test]
    fn an_offset_is_for_clients_that_recover() {
        let event = event().at_offset("a-1");
        assert_eq!(
            event.socket_io_frame("/").as_text(),
            r#"42["typing",{"a":1},"a-1"]"#
        );
        assert_eq!(
            event.plain_frame().as_text(),
            r#"{"event":"typing","data":{"a":1}}"#
        );
    }

    #[test]
    fn the_text_is_made_once() {
        let event = event();
        assert_eq!(
            event.socket_io_frame("/").wire().as_ptr(),
            event.socket_io_frame("/").wire().as_ptr()
        );
        assert_eq!(
            event.plain_frame().wire().as_ptr(),
            event.plain_frame().wire().as_ptr()
        );
    }
}
