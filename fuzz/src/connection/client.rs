//! The client's end: takes the steps of a script, and keeps what it hears. Frames are put together and taken apart by hand,
//! as a library would refuse to write broken ones.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use shared::protocol::engine_io::{self, Packet, SEPARATOR};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tower::ServiceExt as _;

use super::{Asked, Server, Way, peer, question};

/// Long enough, in virtual time, for the server to do what there is to do.
const MOMENT: Duration = Duration::from_millis(1);

/// First bytes of whole frames (RFC 6455, section 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// What a client heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Text frames, or packets of polls.
    pub(super) texts: Vec<String>,
    /// How many binary messages.
    pub(super) binaries: usize,
}

pub(super) struct Client {
    server: Server,
    way: Way,
    /// The session's id, while or after polling.
    sid: Option<String>,
    wire: Option<Wire>,
    /// Polls and posts on their way.
    requests: Vec<JoinHandle<()>>,
    polled: Arc<Mutex<Heard>>,
    asked: Asked,
    /// Frames went out that nobody but the server can read for certain.
    by_hand: bool,
}

/// A WebSocket.
struct Wire {
    writer: WriteHalf<DuplexStream>,
    reader: JoinHandle<()>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Client {
    pub(super) async fn open(server: Server, way: Way) -> Self {
        let mut client = Self {
            server,
            way,
            sid: None,
            wire: None,
            requests: Vec::new(),
            polled: Arc::default(),
            asked: Asked::new(),
            by_hand: false,
        };
        if way == Way::Polling {
            let request = request(
                Method::GET,
                way.path().to_owned() + "&transport=polling",
                Body::empty(),
            );
            let (_, body) = answer(&client.server, request).await;
            let Ok(Packet::Open(handshake)) = engine_io::decode(&body) else {
                panic!("no handshake: {body:?}");
            };
            let handshake: engine_io::Handshake<'_> = serde_json::from_str(handshake).unwrap();
            client.sid = Some(handshake.sid.to_owned());
        } else {
            client.websocket().await;
        }
        client
    }

    /// Takes one step. False: it was the last.
    pub(super) async fn step(&mut self, step: &[u8]) -> bool {
        let (kind, rest) = step.split_first().unwrap_or((&b' ', &[]));
        match kind {
            b't' => self.message(TEXT, rest).await,
            b'b' => self.message(BINARY, rest).await,
            b'f' => {
                self.by_hand = true;
                let (first, payload) = rest.split_first().unwrap_or((&0, &[]));
                self.write(&frame(*first, payload)).await;
            }
            b'x' => {
                self.by_hand = true;
                self.write(rest).await;
            }
            b'w' => {
                let seconds = rest
                    .first()
                    .map_or(1, |digit| digit.wrapping_sub(b'0') % 10);
                tokio::time::sleep(Duration::from_secs(seconds.into())).await;
            }
            b'g' if self.sid.is_some() => self.poll(),
            b'u' if self.sid.is_some() => self.websocket().await,
            b's' => {
                if let Some(wire) = &self.wire {
                    wire.reader.abort();
                }
            }
            b'd' => {
                let connections = Arc::clone(&self.server.connections);
                self.requests.push(tokio::spawn(async move {
                    connections.drain(Duration::from_secs(1)).await;
                }));
            }
            b'e' => {
                self.wire = None;
                for request in &self.requests {
                    request.abort();
                }
                return false;
            }
            _ => {}
        }
        tokio::time::sleep(MOMENT).await;
        true
    }

    /// What was asked; `None` where nobody but the server can know.
    pub(super) fn asked(&self) -> Option<Asked> {
        (!self.by_hand).then(|| self.asked.clone())
    }

    /// All that was heard.
    pub(super) async fn end(self) -> Heard {
        for request in self.requests {
            request.abort();
            let _ = request.await;
        }
        let mut heard = std::mem::take(&mut *self.polled.lock());
        if let Some(wire) = &self.wire {
            read_frames(&wire.received.lock(), &mut heard);
        }
        heard
    }

    async fn message(&mut self, first: u8, payload: &[u8]) {
        let text = if first == TEXT {
            std::str::from_utf8(payload).unwrap_or_default()
        } else {
            ""
        };
        let packets = text.split(if self.way == Way::Polling {
            SEPARATOR
        } else {
            '\n'
        });
        for packet in packets {
            if let Some(question) = question(self.way, packet) {
                *self.asked.entry(question).or_default() += 1;
            }
        }
        if self.wire.is_some() {
            self.write(&frame(first, payload)).await;
        } else {
            self.post(payload);
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        if let Some(wire) = &mut self.wire {
            // Neither a server that is gone nor one that reads no more is a fault here.
            let writing = wire.writer.write_all(bytes);
            let _ = tokio::time::timeout(Duration::from_secs(5), writing).await;
        }
    }

    fn post(&mut self, payload: &[u8]) {
        let request = request(
            Method::POST,
            self.session("polling"),
            Body::from(payload.to_vec()),
        );
        let server = self.server.clone();
        self.requests.push(tokio::spawn(async move {
            let (status, _) = answer(&server, request).await;
            assert!(!status.is_server_error(), "{status}");
        }));
    }

    fn poll(&mut self) {
        let request = request(Method::GET, self.session("polling"), Body::empty());
        let (server, polled) = (self.server.clone(), Arc::clone(&self.polled));
        self.requests.push(tokio::spawn(async move {
            let (status, body) = answer(&server, request).await;
            assert!(!status.is_server_error(), "{status}");
            if status == StatusCode::OK {
                read_payload(&body, &mut polled.lock());
            }
        }));
    }

    fn session(&self, transport: &str) -> String {
        let sid = self
            .sid
            .as_deref()
            .map(|sid| format!("&sid={sid}"))
            .unwrap_or_default();
        format!("{}&transport={transport}{sid}", self.way.path())
    }

    /// Opens a WebSocket. The one before, if there is one, is cut off.
    async fn websocket(&mut self) {
        let stream = self.server.connect();
        let (reader, mut writer) = tokio::io::split(stream);
        let head = format!(
            "GET {} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
            self.session("websocket"),
        );
        writer.write_all(head.as_bytes()).await.unwrap();
        let received = Arc::default();
        let reader = tokio::spawn(receive(reader, Arc::clone(&received)));
        if let Some(before) = self.wire.replace(Wire {
            writer,
            reader,
            received,
        }) {
            read_frames(&before.received.lock(), &mut self.polled.lock());
        }
        tokio::time::sleep(MOMENT).await;
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Both halves must go for the pipe to break.
        self.reader.abort();
    }
}

fn request(method: Method, path: String, body: Body) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .unwrap();
    request.extensions_mut().insert(peer());
    request
}

async fn answer(server: &Server, request: Request<Body>) -> (StatusCode, String) {
    let response = server.router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn receive(mut reader: ReadHalf<DuplexStream>, received: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read) = reader.read(&mut buffer).await {
        if read == 0 {
            break;
        }
        received.lock().extend_from_slice(&buffer[..read]);
    }
}

/// A client's frame. The mask is of zeros, so that the payload can be read in a dump.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length as u8),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn read_payload(body: &str, heard: &mut Heard) {
    let packets = engine_io::decode_payload(body, usize::MAX)
        .unwrap_or_else(|error| panic!("{error}: {body:?}"));
    for (packet, part) in packets.iter().zip(body.split(SEPARATOR)) {
        match packet {
            Packet::Binary(_) => heard.binaries += 1,
            _ => heard.texts.push(part.to_owned()),
        }
    }
}

/// Takes apart what came over a WebSocket: the answer to its handshake, then frames, none of them masked. The last may be
/// cut off.
fn read_frames(received: &[u8], heard: &mut Heard) {
    let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return;
    };
    if !received.starts_with(b"HTTP/1.1 101 ") {
        return;
    }
    let mut rest = &received[head + 4..];
    // A message in fragments: its opcode, and what came of it so far.
    let mut message: Option<(u8, Vec<u8>)> = None;
    while let Some((first, payload, after)) = split_frame(rest) {
        rest = after;
        assert_eq!(first & 0x70, 0, "reserved bits");
        let opcode = first & 0x0f;
        match (opcode, &mut message) {
            (0x8..=0xa, _) => {
                assert!(first & 0x80 != 0 && payload.len() < 126, "a control frame");
                continue;
            }
            (0x1 | 0x2, None) => message = Some((opcode, payload.to_vec())),
            (0x0, Some((_, begun))) => begun.extend_from_slice(payload),
            _ => panic!("frame {opcode:#x} out of order"),
        }
        if first & 0x80 != 0 {
            match message.take() {
                Some((0x1, bytes)) => heard.texts.push(String::from_utf8(bytes).unwrap()),
                _ => heard.binaries += 1,
            }
        }
    }
}

/// The first frame: its first byte, its payload, and what follows it.
fn split_frame(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..126 => (usize::from(*length), rest),
        126 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk::<8>()?;
            (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
        }
        _ => panic!("a server masks nothing"),
    };
    let (payload, after) = rest.split_at_checked(length)?;
    Some((*first, payload, after))
}
