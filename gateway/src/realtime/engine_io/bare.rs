//! Bare Engine.IO messages, for programs that want no more: the conformance suites' echo is one.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use shared::SocketId;
use shared::protocol::engine_io;
use tokio::time::Instant;

use super::super::application::{CloseKind, DisconnectReason};
use super::super::connection::{Fault, Message, Rider, SocketClosed, Work};
use super::super::frame::Frame;
use super::super::outbox::Worth;
use super::super::socket::Link;
use super::Riders;

/// A program whose sessions exchange bare messages.
pub trait EngineProgram: Send + Sync + 'static {
    /// A message came in. Must not block.
    fn message(&self, session: &EngineSession, message: EngineMessage);
}

/// A message, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineMessage {
    /// Text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
}

/// A session: a cheap handle.
#[derive(Debug, Clone)]
pub struct EngineSession {
    link: Arc<Link>,
}

impl EngineSession {
    /// Sends a message. Never waits; a session whose client is too slow is closed.
    pub fn send(&self, message: EngineMessage) {
        let frame = match message {
            EngineMessage::Text(text) => Frame::written(text.len() + 1, |out| {
                out.push(engine_io::MESSAGE);
                out.push_str(&text);
            }),
            EngineMessage::Binary(bytes) => Frame::binary(&bytes),
        };
        self.link.outbox.push([frame], Worth::Durable);
    }

    /// Ends the session.
    pub fn close(&self) {
        self.link.outbox.end(CloseKind::Draining);
    }
}

/// Makes bare riders.
pub(in super::super) struct BareRiders<P>(pub(in super::super) Arc<P>);

/// Hands every message to the program.
pub(in super::super) struct Bare<P> {
    program: Arc<P>,
    session: EngineSession,
}

impl<P: EngineProgram> Riders for BareRiders<P> {
    type Rider = Bare<P>;

    fn board(&self, link: &Arc<Link>) -> Bare<P> {
        // There is nobody to ask.
        link.is_in();
        Bare {
            program: Arc::clone(&self.0),
            session: EngineSession {
                link: Arc::clone(link),
            },
        }
    }
}

impl<P: EngineProgram> Rider for Bare<P> {
    type Outcome = Infallible;

    fn message(&mut self, message: Message<'_>) -> Result<Option<Work<Infallible>>, Fault> {
        let message = match message {
            Message::Text(text) => EngineMessage::Text(text.to_owned()),
            Message::Binary(bytes) => EngineMessage::Binary(bytes),
        };
        self.program.message(&self.session, message);
        Ok(None)
    }

    fn done(&mut self, outcome: Infallible) -> Result<(), Fault> {
        match outcome {}
    }

    fn close_socket(&mut self, _: &SocketId, _: CloseKind) -> SocketClosed {
        SocketClosed::default()
    }

    fn deadline(&self) -> Option<(Instant, Fault)> {
        None
    }

    fn end(&mut self, _: DisconnectReason) {}
}
