//! The two ways of speaking to a server: Socket.IO (Engine.IO 4, Socket.IO 5) and plain JSON frames. Texts are made by
//! joining bytes, and read by looking at their beginning: no JSON is parsed.

use memchr::memmem;

/// How a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Socket.IO over a WebSocket.
    SocketIo,
    /// JSON frames at `/ws`.
    Plain,
}

/// What a text frame of the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard<'a> {
    /// Engine.IO is open; a Socket.IO client may ask to be let in.
    Open,
    /// Let in.
    Connected,
    /// Not let in; the text says why.
    Refused(&'a [u8]),
    /// A heartbeat, to be answered.
    Ping,
    /// An event. The payload goes on to the end of the frame: brackets that close it, and further arguments, follow.
    Event {
        /// The event's name.
        name: &'a [u8],
        /// From the first byte of its data.
        payload: &'a [u8],
    },
    /// An answer to an event that asked for one; its payload as above.
    Ack {
        /// The number the event bore.
        id: u64,
        /// From the first byte of the envelope.
        payload: &'a [u8],
    },
    /// Nothing a generator acts on.
    Other,
}

/// The text that answers `Heard::Ping`.
pub(super) const PONG: &[u8] = b"3";

impl Dialect {
    /// Where on the server sockets of this kind begin.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
            Self::Plain => "/ws",
        }
    }

    /// An event's text. `name` and `payload` are JSON already, the name without its quotes.
    pub(super) fn event(self, out: &mut Vec<u8>, name: &str, payload: &[u8], ack: Option<u64>) {
        out.clear();
        match self {
            Self::SocketIo => {
                out.extend_from_slice(b"42");
                if let Some(id) = ack {
                    out.extend_from_slice(id.to_string().as_bytes());
                }
                out.extend_from_slice(b"[\"");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\",");
                out.extend_from_slice(payload);
                out.push(b']');
            }
            Self::Plain => {
                out.extend_from_slice(b"{\"event\":\"");
                out.extend_from_slice(name.as_bytes());
                out.push(b'"');
                if let Some(id) = ack {
                    out.extend_from_slice(b",\"id\":");
                    out.extend_from_slice(id.to_string().as_bytes());
                }
                out.extend_from_slice(b",\"data\":");
                out.extend_from_slice(payload);
                out.push(b'}');
            }
        }
    }

    /// What a text frame says.
    pub(super) fn read(self, text: &[u8]) -> Heard<'_> {
        match self {
            Self::SocketIo => read_socket_io(text),
            Self::Plain => read_plain(text),
        }
    }
}

fn read_socket_io(text: &[u8]) -> Heard<'_> {
    match text {
        [b'4', b'2', rest @ ..] => {
            let (_, arguments) = number(rest);
            arguments
                .strip_prefix(b"[\"")
                .and_then(|rest| {
                    let end = memchr::memchr(b'"', rest)?;
                    // A comma where there is a payload.
                    let payload = rest.get(end + 2..).unwrap_or_default();
                    Some(Heard::Event {
                        name: &rest[..end],
                        payload,
                    })
                })
                .unwrap_or(Heard::Other)
        }
        [b'4', b'3', rest @ ..] => match number(rest) {
            (Some(id), arguments) => Heard::Ack {
                id,
                payload: arguments.get(1..).unwrap_or_default(),
            },
            (None, _) => Heard::Other,
        },
        [b'2'] => Heard::Ping,
        [b'4', b'0', ..] => Heard::Connected,
        [b'4', b'4', why @ ..] => Heard::Refused(why),
        [b'0', ..] => Heard::Open,
        _ => Heard::Other,
    }
}

fn read_plain(text: &[u8]) -> Heard<'_> {
    let data = |rest| {
        memmem::find(rest, b"\"data\":")
            .map(|at| &rest[at + 7..])
            .unwrap_or_default()
    };
    if let Some(rest) = text.strip_prefix(b"{\"event\":\"") {
        let Some(end) = memchr::memchr(b'"', rest) else {
            return Heard::Other;
        };
        return Heard::Event {
            name: &rest[..end],
            payload: data(&rest[end..]),
        };
    }
    if let Some(rest) = text.strip_prefix(b"{\"ack\":")
        && let (Some(id), rest) = number(rest)
    {
        return Heard::Ack {
            id,
            payload: data(rest),
        };
    }
    Heard::Other
}

/// The digits at the beginning of a text, as a number, and what follows.
fn number(text: &[u8]) -> (Option<u64>, &[u8]) {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (digits, rest) = text.split_at(digits);
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    });
    (number.filter(|_| !digits.is_empty()), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(dialect: Dialect, ack: Option<u64>) -> String {
        let mut out = b"what was there before".to_vec();
        dialect.event(&mut out, "typing", b"{\"a\":1}", ack);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn events_are_written_as_the_contract_says() {
        assert_eq!(text(Dialect::SocketIo, None), r#"42["typing",{"a":1}]"#);
        assert_eq!(
            text(Dialect::SocketIo, Some(17)),
            r#"4217["typing",{"a":1}]"#
        );
        assert_eq!(
            text(Dialect::Plain, None),
            r#"{"event":"typing","data":{"a":1}}"#
        );
        assert_eq!(
            text(Dialect::Plain, Some(17)),
            r#"{"event":"typing","id":17,"data":{"a":1}}"#
        );
    }

    #[test]
    fn socket_io_is_read() {
        let read = |text: &'static str| Dialect::SocketIo.read(text.as_bytes());
        assert_eq!(read(r#"0{"sid":"x"}"#), Heard::Open);
        assert_eq!(read(r#"40{"sid":"x","pid":"y"}"#), Heard::Connected);
        assert_eq!(
            read(r#"44{"message":"no"}"#),
            Heard::Refused(br#"{"message":"no"}"#)
        );
        assert_eq!(read("2"), Heard::Ping);
        // The offset of connection state recovery is a further argument.
        assert_eq!(
            read(r#"42["chatMessage",{"seq":1},"5-1"]"#),
            Heard::Event {
                name: b"chatMessage",
                payload: br#"{"seq":1},"5-1"]"#
            }
        );
        assert_eq!(
            read(r#"4312[{"success":true}]"#),
            Heard::Ack {
                id: 12,
                payload: br#"{"success":true}]"#
            }
        );
        for other in ["6", "41", "", "42", "43", "42[", "43[]"] {
            assert_eq!(read(other), Heard::Other, "{other}");
        }
    }

    #[test]
    fn plain_frames_are_read() {
        let read = |text: &'static str| Dialect::Plain.read(text.as_bytes());
        assert_eq!(
            read(r#"{"event":"chatMessage","data":{"seq":1}}"#),
            Heard::Event {
                name: b"chatMessage",
                payload: br#"{"seq":1}}"#
            }
        );
        assert_eq!(
            read(r#"{"ack":7,"data":{"success":true}}"#),
            Heard::Ack {
                id: 7,
                payload: br#"{"success":true}}"#
            }
        );
        assert_eq!(read("{}"), Heard::Other);
    }
}
