//! The handles a program holds: a socket, and the answer that an event waits for. How their frames reach the wire is the
//! connection's business.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use shared::SocketId;
use shared::protocol::socket_io::{self, Args, MAIN_NAMESPACE};
use shared::protocol::{engine_io, plain};
use tokio::sync::oneshot;

use super::application::{CloseKind, Handshake, Transport};
use super::event::Event;
use super::frame::Frame;
use super::outbox::{Outbox, Unsent, Worth};
use crate::gate::Pass;

/// How many answers one socket may owe at a time: more is a client that does not answer.
const MAX_PENDING_ANSWERS: usize = 256;

/// A socket of one client: a cheap handle, good on any task and after the socket is gone.
#[derive(Debug, Clone)]
pub struct Socket {
    inner: Arc<Inner>,
}

/// The language a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Socket.IO over Engine.IO.
    SocketIo,
    /// JSON frames at `/ws`.
    Plain,
}

/// A client's answer to an event.
#[derive(Debug)]
pub struct Answer {
    /// Its arguments: a JSON array. Binary ones stand as `{"_placeholder":true,"num":N}`.
    pub args: Box<RawValue>,
    /// The binary arguments, by `num`.
    pub attachments: Vec<Bytes>,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// The client did not answer in time.
    #[error("the client did not answer in time")]
    Timeout,
    /// The socket is gone.
    #[error("the socket is gone")]
    Disconnected,
    /// The client owes too many answers already.
    #[error("the client owes too many answers")]
    TooMany,
    /// Plain sockets do not answer events.
    #[error("plain sockets do not answer events")]
    Unsupported,
}

/// What the sockets of one connection share with its task.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) handshake: Handshake,
    pub(super) outbox: Outbox,
    /// Whether the client has left long-polling, or never was there.
    websocket: AtomicBool,
    /// How many events the client waits for an answer to.
    owed: AtomicUsize,
    /// Its place among the clients on their way in, until it is in.
    coming_in: Mutex<Option<Pass>>,
}

impl Link {
    pub(super) fn new(handshake: Handshake, outbox_bytes: usize, websocket: bool) -> Self {
        Self {
            handshake,
            outbox: Outbox::new(outbox_bytes),
            websocket: AtomicBool::new(websocket),
            owed: AtomicUsize::new(0),
            coming_in: Mutex::new(None),
        }
    }

    /// The client is on its way in; the place is free again once it is in, or has gone.
    pub(super) fn comes_in(&self, pass: Pass) {
        *self.coming_in.lock() = Some(pass);
    }

    /// The client is in, or will not come in any more.
    pub(super) fn is_in(&self) {
        *self.coming_in.lock() = None;
    }

    /// Whether the client waits for an answer.
    pub(super) fn owes(&self) -> bool {
        self.owed.load(Ordering::Acquire) > 0
    }

    pub(super) fn upgraded(&self) {
        self.websocket.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Inner {
    /// Chosen at random when it is first asked for, unless the program gave it the one it had before.
    id: OnceLock<SocketId>,
    namespace: Box<str>,
    protocol: Protocol,
    link: Arc<Link>,
    /// `HELD`, `OPEN` or `CLOSED`: an emit to an open socket takes one lock only, the outbox's.
    phase: AtomicU8,
    /// Guards what was emitted before the socket was let in, and the step from there to open. Taken before the outbox's.
    held: Mutex<Held>,
    /// Guards who waits for an answer from this client. Made at first use: most programs never ask.
    pending: Mutex<Option<Box<Pending>>>,
}

#[derive(Debug, Default)]
struct Held {
    frames: Vec<(Frame, Worth)>,
    /// The sum over `frames`: as bounded as the outbox.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Pending {
    last_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
}

/// Not let in yet: what is emitted waits.
const HELD: u8 = 0;
const OPEN: u8 = 1;
const CLOSED: u8 = 2;

impl Socket {
    pub(super) fn new(namespace: &str, protocol: Protocol, link: Arc<Link>) -> Self {
        Self {
            inner: Arc::new(Inner {
                id: OnceLock::new(),
                namespace: namespace.into(),
                protocol,
                link,
                phase: AtomicU8::new(HELD),
                held: Mutex::new(Held::default()),
                pending: Mutex::new(None),
            }),
        }
    }

    /// The socket's id: Socket.IO's `sid`, not that of the connection under it.
    pub fn id(&self) -> &SocketId {
        self.inner.id.get_or_init(|| SocketId::new(random_id()))
    }

    /// Gives the socket the id it had on a connection before. Only before anybody has asked for its id: false where it has
    /// another one by now.
    pub fn resume(&self, id: &SocketId) -> bool {
        self.inner.id.get_or_init(|| id.clone()) == id
    }

    /// How it is connected just now: an upgrade changes it.
    pub fn transport(&self) -> Transport {
        match self.inner.protocol {
            Protocol::Plain => Transport::Plain,
            Protocol::SocketIo if self.inner.link.websocket.load(Ordering::Relaxed) => {
                Transport::WebSocket
            }
            Protocol::SocketIo => Transport::Polling,
        }
    }

    /// The language it speaks.
    pub fn protocol(&self) -> Protocol {
        self.inner.protocol
    }

    /// The Socket.IO namespace; `/` for plain sockets.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// What was known when the connection was made.
    pub fn handshake(&self) -> &Handshake {
        &self.inner.link.handshake
    }

    /// Sends an event. Never waits: a socket whose outbox is full is closed (`TooSlow`), and one that is gone gets nothing.
    pub fn emit(&self, event: &Arc<Event>) {
        self.push([self.frame(event)], worth(event));
    }

    /// Sends an event as `emit` does, with whatever else is told to whomever until `unsent` is sent.
    pub fn emit_unsent(&self, event: &Arc<Event>, unsent: &mut Unsent) {
        let frame = self.frame(event);
        if self.inner.phase.load(Ordering::Acquire) == OPEN {
            unsent.push(&self.inner.link, frame, worth(event));
        } else {
            self.push([frame], worth(event));
        }
    }

    fn frame(&self, event: &Event) -> Frame {
        match self.inner.protocol {
            Protocol::SocketIo => event.socket_io_frame(&self.inner.namespace),
            Protocol::Plain => event.plain_frame(),
        }
    }

    /// Sends an event with any number of arguments: `args` is a JSON array, without the name. Binary ones stand there as
    /// `{"_placeholder":true,"num":N}` and follow as `attachments`. A plain socket gets the array as data, and no binary.
    pub fn emit_args(&self, name: &str, args: &RawValue, attachments: &[Bytes]) {
        match self.inner.protocol {
            Protocol::Plain => {
                let text = plain::encode_event(name, args);
                self.push([Frame::text(&text)], Worth::Durable);
            }
            Protocol::SocketIo => {
                let count = attachments.len();
                let text = packet(|out| {
                    let namespace = &self.inner.namespace;
                    socket_io::write_event(out, namespace, None, name, Args::All(args), count);
                });
                self.push_with(text, attachments);
            }
        }
    }

    /// Sends an event and waits for the client's answer. Socket.IO only. The event is sent when this is called, not when
    /// the future is first polled.
    pub fn emit_with_ack(
        &self,
        event: &Arc<Event>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer, NoAnswer>> + Send + use<> {
        let asked = self.ask(event);
        async move {
            let (answer, _forget) = asked?;
            match tokio::time::timeout(timeout, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(NoAnswer::Disconnected),
                Err(_) => Err(NoAnswer::Timeout),
            }
        }
    }

    /// Ends the socket: what was emitted before goes out first (not where it was too slow), what is emitted after does
    /// not. `Unauthorized` ends this socket alone; the other kinds end its connection.
    pub fn close(&self, kind: CloseKind) {
        let outbox = &self.inner.link.outbox;
        match kind {
            CloseKind::Unauthorized => {
                if self.inner.phase.swap(CLOSED, Ordering::AcqRel) != CLOSED {
                    outbox.close_socket(self.id().clone(), kind);
                }
            }
            CloseKind::Expired | CloseKind::Draining | CloseKind::TooSlow | CloseKind::Resync => {
                outbox.end(kind)
            }
        }
    }

    /// Whether what is emitted now is lost for certain.
    pub fn is_closed(&self) -> bool {
        self.inner.phase.load(Ordering::Acquire) == CLOSED || self.inner.link.outbox.is_ended()
    }

    /// Lets the socket in: `greeting` goes out, then what was held back. False where it was closed meanwhile.
    pub(super) fn open(&self, greeting: Option<Frame>) -> bool {
        self.inner.link.is_in();
        let mut held = self.inner.held.lock();
        let outbox = &self.inner.link.outbox;
        outbox.push(greeting, Worth::Durable);
        for (frame, worth) in std::mem::take(&mut *held).frames {
            outbox.push([frame], worth);
        }
        self.inner
            .phase
            .compare_exchange(HELD, OPEN, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The connection's task says that the socket is gone.
    pub(super) fn mark_closed(&self) {
        self.inner.phase.store(CLOSED, Ordering::Release);
        *self.inner.held.lock() = Held::default();
        // Whoever waits for an answer learns it by the sender's end.
        *self.inner.pending.lock() = None;
    }

    /// The client answered. An id that nobody waits for is a late answer, and no fault.
    pub(super) fn answered(&self, id: u64, answer: Answer) {
        let waiting = match self.inner.pending.lock().as_mut() {
            Some(pending) => pending.waiting.remove(&id),
            None => None,
        };
        if let Some(waiting) = waiting {
            // Nobody there any more: the wait timed out just now.
            let _ = waiting.send(answer);
        }
    }

    fn ask(&self, event: &Event) -> Result<(oneshot::Receiver<Answer>, Forget), NoAnswer> {
        if self.inner.protocol == Protocol::Plain {
            return Err(NoAnswer::Unsupported);
        }
        if self.is_closed() {
            return Err(NoAnswer::Disconnected);
        }
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut pending = self.inner.pending.lock();
            let pending = pending.get_or_insert_default();
            if pending.waiting.len() >= MAX_PENDING_ANSWERS {
                return Err(NoAnswer::TooMany);
            }
            pending.last_id += 1;
            pending.waiting.insert(pending.last_id, sender);
            pending.last_id
        };
        let frame = event.socket_io_frame_with_ack(&self.inner.namespace, id);
        self.push([frame], Worth::Durable);
        let socket = self.clone();
        // A socket that closed meanwhile has forgotten its waiters, perhaps before this one.
        if self.is_closed() {
            self.inner.pending.lock().take();
        }
        Ok((receiver, Forget { socket, id }))
    }

    fn push_with(&self, text: Frame, attachments: &[Bytes]) {
        let attachments = attachments.iter().map(|bytes| Frame::binary(bytes));
        self.push(std::iter::once(text).chain(attachments), Worth::Durable);
    }

    fn push(&self, frames: impl IntoIterator<Item = Frame>, worth: Worth) {
        let inner = &*self.inner;
        match inner.phase.load(Ordering::Acquire) {
            OPEN => inner.link.outbox.push(frames, worth),
            HELD => {
                let mut held = inner.held.lock();
                // Opened or closed while we waited for the lock.
                match inner.phase.load(Ordering::Acquire) {
                    HELD => {
                        for frame in frames {
                            held.bytes += frame.len();
                            held.frames.push((frame, worth));
                        }
                        if held.bytes > inner.link.outbox.limit() {
                            *held = Held::default();
                            inner.link.outbox.end(CloseKind::TooSlow);
                        }
                    }
                    OPEN => inner.link.outbox.push(frames, worth),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

/// Answers one event, once, from any task and at any time; a socket that is gone gets nothing.
#[derive(Debug)]
pub struct Ack {
    socket: Socket,
    id: u64,
}

impl Ack {
    pub(super) fn new(socket: Socket, id: u64) -> Self {
        socket.inner.link.owed.fetch_add(1, Ordering::Relaxed);
        Self { socket, id }
    }

    /// Answers with one argument.
    pub fn send(self, data: &RawValue) {
        self.answer(Args::One(data), &[]);
    }

    /// Answers with any number of arguments, as `Socket::emit_args` sends them.
    pub fn send_args(self, args: &RawValue, attachments: &[Bytes]) {
        self.answer(Args::All(args), attachments);
    }

    fn answer(self, args: Args<'_>, attachments: &[Bytes]) {
        match self.socket.protocol() {
            Protocol::Plain => {
                let (Args::One(data) | Args::OneAt(data, _) | Args::All(data)) = args;
                let text = plain::encode_ack(self.id, data);
                self.socket.push([Frame::text(&text)], Worth::Durable);
            }
            Protocol::SocketIo => {
                let count = attachments.len();
                let text = packet(|out| {
                    socket_io::write_ack(out, self.socket.namespace(), self.id, args, count);
                });
                self.socket.push_with(text, attachments);
            }
        }
    }
}

/// Answered, or never to be.
impl Drop for Ack {
    fn drop(&mut self) {
        let link = &self.socket.inner.link;
        // A connection that leaves waits for the last one.
        if link.owed.fetch_sub(1, Ordering::Release) == 1 {
            link.outbox.wake();
        }
    }
}

/// Forgets a waiter that waits no more.
struct Forget {
    socket: Socket,
    id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(pending) = self.socket.inner.pending.lock().as_mut() {
            pending.waiting.remove(&self.id);
        }
    }
}

/// An Engine.IO message around a Socket.IO packet.
pub(super) fn packet(write: impl FnOnce(&mut String)) -> Frame {
    Frame::written(0, |out| {
        out.push(engine_io::MESSAGE);
        write(out);
    })
}

fn worth(event: &Event) -> Worth {
    if event.is_volatile() {
        Worth::Volatile
    } else {
        Worth::Durable
    }
}

/// A new random id: 120 bits, as many as a session id needs against guessing, in 20 URL-safe characters.
pub(super) fn random_id() -> String {
    use base64::Engine as _;

    let bits: [u8; 15] = rand::random();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bits)
}

/// A socket of a plain connection, or of Socket.IO's main namespace.
pub(super) fn main_socket(protocol: Protocol, link: Arc<Link>) -> Socket {
    Socket::new(MAIN_NAMESPACE, protocol, link)
}

/// A socket without a connection, for tests of what holds sockets, and what was sent to it: its packets, or why it was closed.
#[cfg(test)]
pub(crate) struct Loose {
    pub(crate) socket: Socket,
    link: Arc<Link>,
}

#[cfg(test)]
impl Loose {
    /// One whose outbox holds so much. It is not let in yet.
    pub(crate) fn new(outbox_bytes: usize) -> Self {
        let handshake = Handshake {
            remote: std::net::IpAddr::from([127, 0, 0, 1]),
            authorization: None,
        };
        let link = Arc::new(Link::new(handshake, outbox_bytes, true));
        let socket = Socket::new(MAIN_NAMESPACE, Protocol::SocketIo, Arc::clone(&link));
        Self { socket, link }
    }

    /// Lets it in; what it was sent so far, and what it is sent from now on, comes out of `sent`.
    pub(crate) fn let_in(&self) {
        self.socket.open(None);
    }

    pub(crate) fn sent(&self) -> Result<Vec<String>, CloseKind> {
        let mut frames = std::collections::VecDeque::new();
        let signals = self
            .link
            .outbox
            .collect(usize::MAX, Frame::len, &mut frames);
        if let Some(kind) = signals.end {
            return Err(kind);
        }
        let text = |frame: Frame| frame.as_text().into_owned();
        Ok(frames.into_iter().map(text).collect())
    }
}
