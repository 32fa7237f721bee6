//! The handles a program holds: a socket, and the answer an event waits for. How their frames reach the wire is the
//! connection's business.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use shared::SocketId;
use tokio::sync::oneshot;

use super::application::{CloseKind, Handshake, Transport};
use super::event::Event;
use super::outbox::{Frame, Outbox, Pushed, Worth};

/// How many answers one socket may owe us at a time: more is a client that does not answer.
const MAX_PENDING_ACKS: usize = 256;

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

/// What the sockets of one connection share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) handshake: Handshake,
    pub(crate) outbox: Outbox,
    /// A `Transport` as a number: it changes with an upgrade.
    transport: AtomicU8,
}

#[derive(Debug)]
struct Inner {
    id: SocketId,
    namespace: Box<str>,
    protocol: Protocol,
    link: Arc<Link>,
    /// A `Phase` as a number, so that an emit to an open socket takes one lock, the outbox's.
    phase: AtomicU8,
    /// Guards what was emitted before the socket was let in, and the step from there to open.
    held: Mutex<Vec<(Frame, Worth)>>,
    /// Guards who waits for an answer from this client, by the packet's id. Made at first use.
    pending: Mutex<Option<Box<Pending>>>,
    next_ack: AtomicU64,
}

type Pending = HashMap<u64, oneshot::Sender<Answer>>;

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

impl Socket {
    /// The socket's id: Socket.IO's `sid`, not that of the connection under it.
    pub fn id(&self) -> &SocketId {
        &self.inner.id
    }

    /// How it is connected just now: an upgrade changes it.
    pub fn transport(&self) -> Transport {
        self.inner.link.transport()
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

    /// Sends an event. Never waits: a socket whose outbox is full is closed (`TooSlow`); to one that is gone nothing is
    /// sent.
    pub fn emit(&self, event: &Arc<Event>) {
        let _ = event;
        todo!()
    }

    /// Sends an event with any number of arguments, `args` a JSON array without the name, and binary ones, which stand in
    /// `args` as `{"_placeholder":true,"num":N}`. A plain socket gets the array as data, and no binary.
    pub fn emit_args(&self, name: &str, args: &RawValue, attachments: Vec<Bytes>) {
        let _ = (name, args, attachments);
        todo!()
    }

    /// Sends an event and waits for the client's answer. Socket.IO only.
    pub fn emit_with_ack(
        &self,
        event: &Arc<Event>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Answer, NoAnswer>> + Send + use<> {
        let _ = (event, timeout, MAX_PENDING_ACKS);
        async { Err(NoAnswer::Disconnected) }
    }

    /// Ends the socket; what was emitted before goes out first, what is emitted after does not.
    pub fn close(&self, kind: CloseKind) {
        let _ = kind;
        todo!()
    }

    /// Whether what is emitted now is lost for certain.
    pub fn is_closed(&self) -> bool {
        todo!()
    }
}

/// Answers one event, once, from any task and at any time; a socket that is gone gets nothing.
#[derive(Debug)]
pub struct Ack {
    socket: Socket,
    id: u64,
}

impl Ack {
    /// Answers with one argument.
    pub fn send(self, data: &RawValue) {
        let _ = (self.id, self.socket, data);
        todo!()
    }

    /// Answers with any number of arguments, as `Socket::emit_args` sends them.
    pub fn send_args(self, args: &RawValue, attachments: Vec<Bytes>) {
        let _ = (args, attachments);
        todo!()
    }
}

impl Link {
    pub(crate) fn transport(&self) -> Transport {
        match self.transport.load(Ordering::Relaxed) {
            0 => Transport::WebSocket,
            1 => Transport::Polling,
            _ => Transport::Plain,
        }
    }
}
