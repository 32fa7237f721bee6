//! One connection: the way from TCP over the HTTP upgrade to a socket that is let in, then frames. It reads and writes
//! when it is told to and knows no other connection.

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;

use super::dialect::{Dialect, Heard, PONG};
use super::frame::{self, Frame, Opcode};

/// The key of every handshake and the answer to it, from RFC 6455, section 1.3: it only has to show that the server
/// understands WebSockets.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// More than any server's answer to an upgrade needs.
const MAX_HEAD: usize = 16 << 10;

/// One of the generator's connections.
pub(super) struct Connection {
    /// `None` once closed.
    stream: Option<TcpStream>,
    dialect: Dialect,
    phase: Phase,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// What waits to be written; `written` bytes of it are.
    out: Vec<u8>,
    written: usize,
    /// The masks' source: any will do against a server (RFC 6455, 5.3 protects proxies).
    mask: u32,
}

enum Phase {
    /// The request is written and its answer awaited; then the token, for dialects that show it in a frame.
    Upgrading(Option<Box<str>>),
    /// A WebSocket, until Engine.IO is open.
    Opening(Box<str>),
    /// The token was shown.
    Asking,
    /// Let in.
    Open,
}

/// What one frame, or the answer to the upgrade, means.
pub(super) enum Step<'a> {
    Opened,
    Event {
        name: &'a [u8],
        payload: &'a [u8],
    },
    Answer {
        id: u64,
        payload: &'a [u8],
    },
    /// There is something to write.
    Reply,
    Nothing,
}

impl Connection {
    /// A connection under way, with its request queued.
    pub(super) fn new(
        stream: TcpStream,
        dialect: Dialect,
        server: SocketAddr,
        token: &str,
    ) -> Self {
        let (header, shown_later) = match dialect {
            Dialect::SocketIo => (String::new(), Some(token.into())),
            Dialect::Plain => (format!("Authorization: Bearer {token}\r\n"), None),
        };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{header}\r\n",
            dialect.path()
        );
        Self {
            mask: u32::from(server.port()) | 1,
            stream: Some(stream),
            dialect,
            phase: Phase::Upgrading(shown_later),
            rest: Vec::new(),
            out: request.into_bytes(),
            written: 0,
        }
    }

    pub(super) const fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn close(&mut self) {
        self.stream = None;
        self.rest = Vec::new();
        self.out = Vec::new();
    }

    /// Queues a text frame. True where nothing was queued before, so that it has to be written.
    pub(super) fn queue_text(&mut self, text: &[u8]) -> bool {
        let was_empty = self.out.is_empty();
        self.queue(Opcode::Text, &[text]);
        was_empty
    }

    fn queue(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        // Marsaglia's xorshift.
        self.mask ^= self.mask << 13;
        self.mask ^= self.mask >> 17;
        self.mask ^= self.mask << 5;
        if self.stream.is_some() {
            frame::write(&mut self.out, opcode, parts, self.mask.to_ne_bytes());
        }
    }

    /// Reads what is there; `None` where nothing is, 0 at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        loop {
            return match stream.read(buffer) {
                Ok(read) => Ok(Some(read)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Writes what is queued, as far as it goes.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Ok(());
        };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(written) => self.written += written,
                // The kernel tells when it may go on; until the connection stands it is not connected.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Takes out what `keep_rest` kept.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.rest)
    }

    /// Keeps the beginning of something for the next read.
    pub(super) fn keep_rest(&mut self, bytes: &[u8]) {
        if self.stream.is_some() && !bytes.is_empty() {
            self.rest = bytes.to_vec();
        }
    }

    /// What the beginning of `bytes` means, and how many of them it takes; `None` while it is not all there, or once this
    /// connection is closed.
    pub(super) fn step<'a>(
        &mut self,
        bytes: &'a [u8],
    ) -> Result<Option<(Step<'a>, usize)>, String> {
        if self.stream.is_none() {
            return Ok(None);
        }
        if let Phase::Upgrading(token) = &mut self.phase {
            let Some(len) = read_head(bytes)? else {
                return Ok(None);
            };
            let token = token.take();
            let opened = token.is_none();
            self.phase = token.map_or(Phase::Open, Phase::Opening);
            let step = if opened { Step::Opened } else { Step::Nothing };
            return Ok(Some((step, len)));
        }
        let Some(Frame {
            opcode,
            payload,
            len,
        }) = frame::read(bytes).map_err(|error| error.to_string())?
        else {
            return Ok(None);
        };
        let step = match opcode {
            Opcode::Text => self.text(payload)?,
            Opcode::Ping => {
                self.queue(Opcode::Pong, &[payload]);
                Step::Reply
            }
            Opcode::Close => return Err(close_reason(payload)),
            Opcode::Binary | Opcode::Pong => Step::Nothing,
        };
        Ok(Some((step, len)))
    }

    fn text<'a>(&mut self, text: &'a [u8]) -> Result<Step<'a>, String> {
        Ok(match self.dialect.read(text) {
            Heard::Event { name, payload } => Step::Event { name, payload },
            Heard::Ack { id, payload } => Step::Answer { id, payload },
            Heard::Ping => {
                self.queue(Opcode::Text, &[PONG]);
                Step::Reply
            }
            Heard::Open => {
                let Phase::Opening(token) = &self.phase else {
                    return Ok(Step::Nothing);
                };
                // A JSON Web Token has nothing that JSON escapes.
                let connect = format!("40{{\"token\":\"{token}\"}}");
                self.phase = Phase::Asking;
                self.queue(Opcode::Text, &[connect.as_bytes()]);
                Step::Reply
            }
            Heard::Connected if matches!(self.phase, Phase::Asking) => {
                self.phase = Phase::Open;
                Step::Opened
            }
            Heard::Refused(why) => {
                return Err(format!("refused: {}", String::from_utf8_lossy(why)));
            }
            Heard::Connected | Heard::Other => Step::Nothing,
        })
    }
}

/// Bytes of the answer to the upgrade; `None` while it is not all there.
fn read_head(bytes: &[u8]) -> Result<Option<usize>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        if bytes.len() > MAX_HEAD {
            return Err("the answer to the upgrade has no end".to_owned());
        }
        return Ok(None);
    };
    let head = &bytes[..end];
    if head.starts_with(b"HTTP/1.1 101 ") && memchr::memmem::find(head, ACCEPT).is_some() {
        return Ok(Some(end + 4));
    }
    let first = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(format!("not upgraded: {}", String::from_utf8_lossy(first)))
}

fn close_reason(payload: &[u8]) -> String {
    match payload {
        [high, low, why @ ..] => format!(
            "closed by the server with {} {}",
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(why)
        ),
        _ => "closed by the server".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_right_answer_is_an_upgrade() {
        let right = "HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n0{";
        assert_eq!(read_head(right.as_bytes()), Ok(Some(right.len() - 2)));
        assert_eq!(read_head(&right.as_bytes()[..60]), Ok(None));
        let other = right.replace("s3pPL", "xxxxx");
        assert!(read_head(other.as_bytes()).is_err());
        let refused = read_head(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\r\n");
        assert_eq!(
            refused,
            Err("not upgraded: HTTP/1.1 503 Service Unavailable".to_owned())
        );
        assert!(read_head(&[b'x'; MAX_HEAD + 1]).is_err());
    }

    #[test]
    fn a_close_frame_says_why() {
        assert_eq!(
            close_reason(b"\x11\x31no"),
            "closed by the server with 4401 no"
        );
    }
}
