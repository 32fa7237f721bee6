//! A message as it goes over the wire: a WebSocket frame (RFC 6455, section 5.2) that is made once and shared by all who
//! hear it. A server's frames bear no mask, so all recipients get the same bytes. Who gets it, and when, is not known here.

use std::borrow::Cow;

use bytes::Bytes;
use shared::protocol::engine_io;

/// The longest header of an unmasked frame: two bytes, and eight of length.
const MAX_HEADER: usize = 10;

/// A frame's last byte of its message is in it, and its kind.
const FIN_TEXT: u8 = 0x81;
const FIN_BINARY: u8 = 0x82;

/// A frame ready for the wire. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Header and payload.
    wire: Bytes,
    /// How much of it is the header.
    header: u8,
    kind: Kind,
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text; over Engine.IO a whole packet with its type digit.
    Text,
    /// Bytes; over Engine.IO a binary message.
    Binary,
    /// The WebSocket's own: nothing of it is meant for the other end's program, nor for another transport.
    Control,
    /// No frame, but what stands before the first: the end of the opening handshake. It goes out whatever becomes of the rest.
    Opening,
}

impl Frame {
    /// The heartbeat of Engine.IO.
    pub(super) const ENGINE_IO_PING: Self = Self {
        wire: Bytes::from_static(b"\x81\x012"),
        header: 2,
        kind: Kind::Text,
    };

    /// The heartbeat of a plain WebSocket: a ping without content.
    pub(super) const PING: Self = Self::control(Bytes::from_static(b"\x89\x00"));

    /// A text frame of what `write` appends; `capacity` is about its length.
    pub(super) fn written(capacity: usize, write: impl FnOnce(&mut String)) -> Self {
        let mut text = String::with_capacity(MAX_HEADER + capacity);
        // The header's length is known only with the payload's.
        text.push_str(Self::ROOM);
        write(&mut text);
        Self::framed(text.into_bytes(), FIN_TEXT, Kind::Text)
    }

    /// A text frame.
    pub(super) fn text(text: &str) -> Self {
        Self::written(text.len(), |out| out.push_str(text))
    }

    /// A binary frame.
    pub(super) fn binary(bytes: &[u8]) -> Self {
        let mut wire = Vec::with_capacity(MAX_HEADER + bytes.len());
        wire.extend_from_slice(Self::ROOM.as_bytes());
        wire.extend_from_slice(bytes);
        Self::framed(wire, FIN_BINARY, Kind::Binary)
    }

    /// Whole control frames, as they go over the wire.
    pub(super) const fn control(wire: Bytes) -> Self {
        Self {
            wire,
            header: 0,
            kind: Kind::Control,
        }
    }

    /// What goes over the wire before all frames.
    pub(super) const fn opening(wire: Bytes) -> Self {
        Self {
            wire,
            header: 0,
            kind: Kind::Opening,
        }
    }

    /// What it carries.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes it will take, without the framing.
    pub(super) fn len(&self) -> usize {
        self.wire.len() - usize::from(self.header)
    }

    /// The bytes of a WebSocket.
    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// What it says.
    pub(super) fn payload(&self) -> &[u8] {
        &self.wire[usize::from(self.header)..]
    }

    /// What it says, where that is text.
    pub(super) fn as_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.payload())
    }

    /// What it takes in a payload of long-polling, its separator included.
    pub(super) fn polling_cost(&self) -> usize {
        match self.kind {
            Kind::Text => self.len() + 1,
            Kind::Binary => engine_io::binary_len(self.len()),
            Kind::Control | Kind::Opening => 0,
        }
    }

    const ROOM: &str = "\0\0\0\0\0\0\0\0\0\0";

    /// Puts the header right before the payload, which begins at `MAX_HEADER`.
    fn framed(mut wire: Vec<u8>, first: u8, kind: Kind) -> Self {
        let len = wire.len() - MAX_HEADER;
        let mut header = [0; MAX_HEADER];
        header[0] = first;
        let used = match (u8::try_from(len), u16::try_from(len)) {
            (Ok(short @ ..=125), _) => {
                header[1] = short;
                2
            }
            (_, Ok(medium)) => {
                header[1] = 126;
                header[2..4].copy_from_slice(&medium.to_be_bytes());
                4
            }
            _ => {
                header[1] = 127;
                header[2..].copy_from_slice(&(len as u64).to_be_bytes());
                MAX_HEADER
            }
        };
        let start = MAX_HEADER - used;
        wire[start..MAX_HEADER].copy_from_slice(&header[..used]);
        Self {
            wire: Bytes::from(wire).slice(start..),
            // At most ten.
            #[expect(clippy::cast_possible_truncation, reason = "see above")]
            header: used as u8,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};

    use super::*;

    /// As another implementation reads it.
    fn read(frame: &Frame) -> Message {
        let wire = Cursor::new(frame.wire().to_vec());
        let mut client = WebSocket::from_raw_socket(wire, Role::Client, None);
        client.read().expect("one message")
    }

    #[test]
    fn every_length_has_its_header() {
        for (len, header) in [
            (0, 2),
            (125, 2),
            (126, 4),
            (65_535, 4),
            (65_536, 10),
            (1_000_000, 10),
        ] {
            let text = "x".repeat(len);
            let frame = Frame::text(&text);
            assert_eq!(frame.wire().len(), header + len);
            assert_eq!(frame.len(), len);
            assert_eq!(frame.as_text(), text);
            assert_eq!(read(&frame), Message::text(text));
            let bytes = vec![7; len];
            let frame = Frame::binary(&bytes);
            assert_eq!(read(&frame), Message::binary(bytes));
        }
    }

    #[test]
    fn heartbeats_are_what_they_say() {
        assert_eq!(Frame::ENGINE_IO_PING, Frame::text(engine_io::PING));
        assert_eq!(read(&Frame::PING), Message::Ping(Bytes::new()));
    }
}
