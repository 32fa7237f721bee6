//! What the realtime layer asks of the program that runs on it, and what it hands to it.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Ack, Socket};
use crate::config::Secret;

/// A program whose sockets these are.
///
/// For one socket the calls come one at a time: `connect`, then `event` for each event in the order it was sent, then
/// `disconnect` once, whatever ended it (not where `connect` refused). While a future of one socket is pending, that
/// connection goes on writing and keeping its heartbeat, but reads no further: a slow program slows its client down. So a
/// future must end by itself in bounded time; it is dropped when the connection ends.
pub trait Application: Send + Sync + 'static {
    /// What the program keeps for one socket.
    type Session: Send + Sync + 'static;

    /// Whether a Socket.IO namespace exists. One that does not is refused before `connect` is asked.
    fn accepts_namespace(&self, namespace: &str) -> bool {
        namespace == "/"
    }

    /// A client asks to come in: Socket.IO's CONNECT, or a plain socket's token. What is emitted to the socket before
    /// this returns is held back and follows the acceptance; on a refusal it is dropped. Where the connection ends first,
    /// the future is dropped and nothing else is called: what it holds by then must let go by itself.
    fn connect(
        &self,
        socket: &Socket,
        request: ConnectRequest,
    ) -> impl Future<Output = Result<Accepted<Self::Session>, Refusal>> + Send;

    /// An event came in.
    fn event(
        &self,
        socket: &Socket,
        session: &Arc<Self::Session>,
        event: IncomingEvent,
    ) -> impl Future<Output = ()> + Send;

    /// The socket's connection went over to another transport: `Socket::transport` tells which. Must not block.
    fn upgraded(&self, _socket: &Socket, _session: &Arc<Self::Session>) {}

    /// The socket is gone. Must not block.
    fn disconnect(&self, socket: &Socket, session: &Arc<Self::Session>, reason: DisconnectReason);
}

/// How a socket came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Engine.IO over WebSocket.
    WebSocket,
    /// Engine.IO over HTTP long-polling.
    Polling,
    /// JSON frames at `/ws`.
    Plain,
}

impl Transport {
    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Polling => "polling",
            Self::Plain => "plain",
        }
    }
}

/// What was known when the connection was made. Shared by the sockets of one connection.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// The client's address, after trusted proxies.
    pub remote: IpAddr,
    /// The `Authorization` header, where there was one. Never logged.
    pub authorization: Option<Secret>,
}

/// A client that asks to come in.
#[derive(Debug)]
pub struct ConnectRequest {
    /// The Socket.IO namespace; `/` for plain sockets.
    pub namespace: String,
    /// Socket.IO's `auth` payload; for a plain socket the data of its `authenticate` frame, or `None` where the
    /// `Authorization` header is meant. Holds a token: never logged.
    pub auth: Option<Box<RawValue>>,
}

/// A client that is let in.
#[derive(Debug)]
pub struct Accepted<S> {
    /// What the program keeps for the socket.
    pub session: Arc<S>,
    /// What a plain socket's `authenticate` frame is acknowledged with, where it has an `id`. `None`: with `null`.
    pub answer: Option<Box<RawValue>>,
    /// Socket.IO's `pid`: the name of what the client may recover when it comes back. A client that showed the same one in its
    /// `auth` payload takes it for a recovery: it has missed nothing but what is emitted before `connect` returns.
    pub recovery_id: Option<Box<str>>,
}

/// A client that is not let in.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// In words: `connect_error`'s `message`.
    pub message: String,
    /// For programs: `connect_error`'s `data`.
    pub data: Box<RawValue>,
    /// The status that answers a plain WebSocket handshake.
    pub http_status: u16,
    /// The whole body that answers a plain WebSocket handshake, or the data of an acknowledgement: an error envelope.
    pub body: Box<RawValue>,
    /// The close code of a plain socket that is already open.
    pub close_code: u16,
    /// The client is not at fault and should come back by itself: a Socket.IO connection is closed without a word, as a stock
    /// client stays away after a `connect_error`.
    pub come_back: bool,
}

/// An event from a client.
#[derive(Debug)]
pub struct IncomingEvent {
    /// Its name.
    pub name: String,
    /// Its arguments after the name: a JSON array. Binary ones stand as `{"_placeholder":true,"num":N}`.
    pub args: Box<RawValue>,
    /// The binary arguments, by `num`.
    pub attachments: Vec<Bytes>,
    /// How to answer, where an answer was asked for.
    pub ack: Option<Ack>,
}

/// Why a socket ended, for logs and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DisconnectReason {
    /// The client said goodbye.
    ClientDisconnect,
    /// The connection broke or was closed from the other end.
    TransportClose,
    /// No heartbeat.
    PingTimeout,
    /// The client broke the protocol.
    ProtocolError,
    /// More than its outbox holds waits to be sent.
    TooSlow,
    /// The program closed it for good: its token was revoked.
    Unauthorized,
    /// The program closed it because its token expired.
    Expired,
    /// The node is going.
    Draining,
    /// The program could not take it in.
    Busy,
    /// The program could not tell what the client has, and sent it away to find out.
    Resync,
}

impl DisconnectReason {
    /// The name in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientDisconnect => "client_disconnect",
            Self::TransportClose => "transport_close",
            Self::PingTimeout => "ping_timeout",
            Self::ProtocolError => "protocol_error",
            Self::TooSlow => "too_slow",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "token_expired",
            Self::Draining => "draining",
            Self::Busy => "busy",
            Self::Resync => "resync",
        }
    }
}

/// How the program ends a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseKind {
    /// For good: Socket.IO's DISCONNECT, so that a stock client does not come back by itself; a plain socket's 4401.
    Unauthorized,
    /// The token ran out: the transport is closed, so that a stock client comes back with a fresh one; 4401.
    Expired,
    /// The node is going: the transport is closed, so that a stock client comes back elsewhere; 1012.
    Draining,
    /// Come back later: the transport is closed; 1013.
    TooSlow,
    /// Come back, and find out what was missed: the transport is closed; 1013.
    Resync,
}
