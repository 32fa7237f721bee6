//! One connection: the task that reads, writes, keeps time and lets the program work, whichever transport carries it.
//!
//! One task does it all, so there is one order of things: what was read first is handled first, and while the program is
//! at work on it nothing more is read, but what waits in the outbox is written and the heartbeat goes on. What the
//! messages mean is the `Rider`'s business; the HTTP side of long-polling is in `engine_io::polling`.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use shared::SocketId;
use shared::protocol::engine_io::{self, Packet};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite;

use super::application::{CloseKind, DisconnectReason};
use super::connections::Registration;
use super::engine_io::polling::{Inbound, Listed, Polling, Post};
use super::frame::Frame;
use super::outbox::Worth;
use super::settings::Settings;
use super::socket::Link;
use super::wire::Wire;

/// How much one connection does before others get their turn: a payload may hold thousands of packets.
const ROUNDS: usize = 64;

/// How long a connection that is to go elsewhere waits for the answers it owes: as long as a commit may take, and less than
/// what an orchestrator adds to the drain.
const PARTING: Duration = Duration::from_secs(5);

/// Who makes sense of a connection's messages. Dropping it must leave nothing behind.
pub(super) trait Rider: Send + 'static {
    /// What a piece of the program's work comes to.
    type Outcome: Send + 'static;

    /// Takes one message. What the program has to do about it, if anything, comes back as work; no further message is
    /// brought until its outcome was.
    fn message(&mut self, message: Message<'_>) -> Result<Option<Work<Self::Outcome>>, Fault>;

    /// Takes the outcome of the last work.
    fn done(&mut self, outcome: Self::Outcome) -> Result<(), Fault>;

    /// The program closed one socket.
    fn close_socket(&mut self, socket: &SocketId, kind: CloseKind) -> SocketClosed;

    /// When the rider has waited too long for its client: the connection ends then, unless the program is at work.
    fn deadline(&self) -> Option<(Instant, Fault)>;

    /// The connection went over to another transport.
    fn upgraded(&mut self) {}

    /// The connection has ended. Called once, and last.
    fn end(&mut self, reason: DisconnectReason);
}

/// A message from a client.
#[derive(Debug)]
pub(super) enum Message<'a> {
    Text(&'a str),
    Binary(Bytes),
}

/// The program at work.
pub(super) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What follows from the closing of one socket.
#[derive(Debug, Default)]
pub(super) struct SocketClosed {
    /// The work under way was done for it.
    pub(super) stop_work: bool,
    /// It was the last one.
    pub(super) end: bool,
}

/// What a client did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It broke the protocol.
    Protocol,
    /// It sent more than allowed.
    TooLarge,
    /// It is not let in, or took too long to ask for it. With the close code.
    Unauthorized(u16),
    /// Nothing: the program can't take it in just now.
    Busy,
}

/// How a connection keeps itself alive, and what its frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Engine.IO packets, and its heartbeat: a ping packet, answered by a pong packet.
    EngineIo,
    /// Bare messages, and WebSocket pings: every frame counts as a sign of life.
    Plain,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// For the program.
    pub(super) reason: DisconnectReason,
    /// For the client, on a WebSocket.
    pub(super) code: u16,
    /// Whether what waits in the outbox goes out first.
    pub(super) flush: bool,
}

/// The transport under a connection.
#[expect(clippy::large_enum_variant, reason = "nearly all are WebSockets")]
pub(super) enum Carrier {
    Polling(Box<Polling>),
    WebSocket(Wire),
}

/// A connection, before and while it runs.
pub(super) struct Connection<R: Rider> {
    link: Arc<Link>,
    rider: R,
    carrier: Carrier,
    dialect: Dialect,
    settings: Arc<Settings>,
    heartbeat: Heartbeat,
    /// What came in one polling request and is not handled yet. It may outlast the polling.
    post: Option<Box<Post>>,
    work: Option<Work<R::Outcome>>,
    /// The connection is to end as soon as it owes its client nothing, and by this time in any case.
    leaves_by: Option<Instant>,
    /// One timer, set to the nearest of all deadlines.
    alarm: Pin<Box<Sleep>>,
    /// The session's place in the list of sessions, once the polling that held it is over.
    listed: Option<Listed>,
    /// Held for what its end does: until the connection is closed, it counts.
    _registration: Registration,
}

#[derive(Debug, Clone, Copy)]
enum Heartbeat {
    PingAt(Instant),
    PongBy(Instant),
}

impl<R: Rider> Connection<R> {
    pub(super) fn new(
        link: Arc<Link>,
        rider: R,
        mut carrier: Carrier,
        dialect: Dialect,
        settings: Arc<Settings>,
        registration: Registration,
    ) -> Self {
        let ping_at = Instant::now() + settings.ping_interval;
        if let Carrier::WebSocket(wire) = &mut carrier {
            wire.ride(&link.outbox);
        }
        Self {
            link,
            rider,
            carrier,
            dialect,
            heartbeat: Heartbeat::PingAt(ping_at),
            settings,
            post: None,
            work: None,
            leaves_by: None,
            listed: None,
            alarm: Box::pin(tokio::time::sleep_until(ping_at)),
            _registration: registration,
        }
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self) {
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.work = None;
        self.listed = None;
        self.link.is_in();
        // Nothing that is emitted from now on could be sent.
        self.link.outbox.end(CloseKind::Draining);
        self.rider.end(end.reason);
        // Boxed: what is needed for the last moments should not be carried by every idle connection.
        match self.carrier {
            Carrier::Polling(mut polling) => {
                if end.flush {
                    let cost = Frame::polling_cost;
                    self.link.outbox.collect(usize::MAX, cost, polling.batch());
                }
                Box::pin(polling.close(end, self.post)).await;
            }
            Carrier::WebSocket(wire) => {
                let left = self.link.outbox.detach(!end.flush);
                Box::pin(wire.close(end.code, end.reason.as_str(), left)).await;
            }
        }
    }

    /// Does whatever can be done now. Everything that may change while it sleeps has the waker afterwards.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..ROUNDS {
            match self.step(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One round. True: something happened, so there may be more to do.
    fn step(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        self.link.outbox.register(cx.waker());
        let now = Instant::now();
        // A poll that comes just after the deadline must not find the session, so the clock goes first; on a WebSocket the
        // pong may lie in the buffer, so it goes last.
        let polling = matches!(self.carrier, Carrier::Polling(_));
        if polling {
            self.check_clock(now)?;
        }
        let mut busy = self.take_commands(cx)?;
        busy |= self.write(cx)?;
        busy |= self.work(cx, now)?;
        if let Some(by) = self.leaves_by {
            self.leave(by, now)?;
        } else if self.work.is_none() {
            busy |= self.read(cx, now)?;
        }
        if busy {
            return Ok(true);
        }
        if !polling && self.check_clock(now)? {
            return Ok(true);
        }
        Ok(self.arm(cx))
    }

    fn take_commands(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let Carrier::Polling(polling) = &mut self.carrier else {
            return Ok(false);
        };
        let mut busy = false;
        if let Some(mut wire) = polling.poll_commands(cx, &mut self.post, &mut busy)? {
            self.listed = polling.leave();
            wire.ride(&self.link.outbox);
            self.carrier = Carrier::WebSocket(wire);
            self.link.upgraded();
            self.rider.upgraded();
            return Ok(true);
        }
        Ok(busy)
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let outbox = &self.link.outbox;
        let signals = match &mut self.carrier {
            Carrier::Polling(polling) => {
                let room = polling.room(self.settings.max_payload);
                outbox.collect(room, Frame::polling_cost, polling.batch())
            }
            Carrier::WebSocket(_) => outbox.signals(),
        };
        let mut busy = !signals.closed.is_empty();
        for (socket, kind) in signals.closed {
            let closed = self.rider.close_socket(&socket, kind);
            if closed.stop_work {
                self.work = None;
            }
            if closed.end {
                outbox.end(kind);
            }
        }
        if let Some(kind) = signals.end {
            return Err(kind.into());
        }
        if signals.leaving && self.leaves_by.is_none() {
            self.leaves_by = Some(Instant::now() + PARTING);
        }
        match &mut self.carrier {
            Carrier::Polling(polling) => busy |= polling.answer()?,
            Carrier::WebSocket(_) => {
                if let Poll::Ready(Err(_)) = outbox.poll_flush(cx) {
                    return Err(End::LOST);
                }
            }
        }
        Ok(busy)
    }

    fn work(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, End> {
        let Some(work) = &mut self.work else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = work.as_mut().poll(cx) else {
            return Ok(false);
        };
        self.work = None;
        // The pong could not be read meanwhile.
        if let Heartbeat::PongBy(by) = &mut self.heartbeat
            && *by <= now
        {
            *by = now + self.settings.ping_timeout;
        }
        self.rider.done(outcome)?;
        Ok(true)
    }

    fn read(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<bool, End> {
        if let Some(post) = &mut self.post {
            match post.packets.pop_front() {
                Some(Inbound::Text(text)) => self.hand_over(Message::Text(&text))?,
                Some(Inbound::Binary(bytes)) => self.hand_over(Message::Binary(bytes))?,
                Some(Inbound::Pong) => self.alive(now),
                Some(Inbound::Close) => return Err(End::GOODBYE),
                None => {
                    if let Some(post) = self.post.take() {
                        post.accept();
                    }
                }
            }
            return Ok(true);
        }
        let Carrier::WebSocket(wire) = &mut self.carrier else {
            return Ok(false);
        };
        let frame = match wire.poll_read(cx, &self.link.outbox) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Err(End::LOST),
            Poll::Ready(Some(Err(error))) => return Err(error.into()),
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        if self.dialect == Dialect::Plain {
            self.alive(now);
        }
        match frame {
            tungstenite::Message::Text(text) if self.dialect == Dialect::EngineIo => {
                self.packet(&text, now)?;
            }
            tungstenite::Message::Text(text) => self.hand_over(Message::Text(&text))?,
            tungstenite::Message::Binary(bytes) => self.hand_over(Message::Binary(bytes))?,
            tungstenite::Message::Close(_) if self.dialect == Dialect::Plain => {
                return Err(End::GOODBYE);
            }
            tungstenite::Message::Close(_) => return Err(End::LOST),
            tungstenite::Message::Ping(_)
            | tungstenite::Message::Pong(_)
            | tungstenite::Message::Frame(_) => {}
        }
        Ok(true)
    }

    /// Takes no more from a client that is to go elsewhere, and ends once it has the answers it waits for.
    fn leave(&self, by: Instant, now: Instant) -> Result<(), End> {
        let owes = self.work.is_some() || self.link.owes();
        if owes && now < by {
            Ok(())
        } else {
            Err(CloseKind::Draining.into())
        }
    }

    fn packet(&mut self, text: &str, now: Instant) -> Result<(), End> {
        match engine_io::decode(text).map_err(|_| Fault::Protocol)? {
            Packet::Message(text) => self.hand_over(Message::Text(text)),
            Packet::Pong(_) => {
                self.alive(now);
                Ok(())
            }
            Packet::Close => Err(End::GOODBYE),
            // The heartbeat goes the other way since protocol 4.
            Packet::Ping(_) => Err(Fault::Protocol.into()),
            // Without meaning here, and ignored by the reference server too.
            Packet::Open(_) | Packet::Upgrade | Packet::Noop | Packet::Binary(_) => Ok(()),
        }
    }

    fn hand_over(&mut self, message: Message<'_>) -> Result<(), End> {
        self.work = self.rider.message(message)?;
        Ok(())
    }

    fn alive(&mut self, now: Instant) {
        self.heartbeat = Heartbeat::PingAt(now + self.settings.ping_interval);
    }

    /// Does what is due. True where that leaves something to write.
    fn check_clock(&mut self, now: Instant) -> Result<bool, End> {
        let mut pinged = false;
        match self.heartbeat {
            Heartbeat::PingAt(at) if at <= now => {
                // Counted from when it was due, unless this task was held up so long that it would be unfair.
                let by =
                    (at + self.settings.ping_timeout).max(now + self.settings.ping_timeout / 2);
                self.heartbeat = Heartbeat::PongBy(by);
                self.send_ping();
                pinged = true;
            }
            Heartbeat::PongBy(by) if by <= now && self.work.is_none() => {
                return Err(End::SILENT);
            }
            _ => {}
        }
        match self.rider.deadline() {
            Some((at, fault)) if at <= now && self.work.is_none() => return Err(fault.into()),
            _ => {}
        }
        if let Carrier::Polling(polling) = &mut self.carrier {
            polling.check_clock(now);
        }
        Ok(pinged)
    }

    fn send_ping(&mut self) {
        let ping = match self.dialect {
            Dialect::Plain => Frame::PING,
            Dialect::EngineIo => Frame::ENGINE_IO_PING,
        };
        self.link.outbox.push([ping], Worth::Durable);
    }

    /// Sets the alarm. True where it has gone off already.
    fn arm(&mut self, cx: &mut Context<'_>) -> bool {
        let working = self.work.is_some();
        let heartbeat = match self.heartbeat {
            Heartbeat::PingAt(at) => Some(at),
            // Neither can be missed while the program is at work: nothing is read then.
            Heartbeat::PongBy(_) if working => None,
            Heartbeat::PongBy(by) => Some(by),
        };
        let deadline = match self.rider.deadline() {
            Some((at, _)) if !working => Some(at),
            _ => None,
        };
        let noop = match &self.carrier {
            Carrier::Polling(polling) => polling.deadline(),
            Carrier::WebSocket(_) => None,
        };
        let deadlines = [heartbeat, deadline, noop, self.leaves_by];
        let Some(at) = deadlines.into_iter().flatten().min() else {
            return false;
        };
        // An alarm that is too early only costs a look at the clock. One that is put off by every frame costs more.
        if at < self.alarm.deadline() || self.alarm.is_elapsed() {
            self.alarm.as_mut().reset(at);
        }
        self.alarm.as_mut().poll(cx).is_ready()
    }
}

impl End {
    /// The other end said goodbye.
    const GOODBYE: Self = Self::new(DisconnectReason::ClientDisconnect, 1000);
    /// The connection broke.
    pub(super) const LOST: Self = Self::new(DisconnectReason::TransportClose, 1000);
    /// No heartbeat.
    const SILENT: Self = Self::new(DisconnectReason::PingTimeout, 1001);

    const fn new(reason: DisconnectReason, code: u16) -> Self {
        Self {
            reason,
            code,
            flush: false,
        }
    }
}

impl From<CloseKind> for End {
    fn from(kind: CloseKind) -> Self {
        let (reason, code) = match kind {
            CloseKind::Unauthorized => (DisconnectReason::Unauthorized, close_code::UNAUTHORIZED),
            CloseKind::Expired => (DisconnectReason::Expired, close_code::UNAUTHORIZED),
            CloseKind::Draining => (DisconnectReason::Draining, close_code::GOING),
            CloseKind::TooSlow => (DisconnectReason::TooSlow, close_code::LATER),
            CloseKind::Resync => (DisconnectReason::Resync, close_code::LATER),
        };
        Self {
            reason,
            code,
            flush: kind != CloseKind::TooSlow,
        }
    }
}

/// The one place that decides how a client's fault ends its connection.
impl From<Fault> for End {
    fn from(fault: Fault) -> Self {
        let (reason, code) = match fault {
            Fault::Protocol => (DisconnectReason::ProtocolError, close_code::PROTOCOL),
            Fault::TooLarge => (DisconnectReason::ProtocolError, close_code::TOO_LARGE),
            Fault::Unauthorized(code) => (DisconnectReason::Unauthorized, code),
            Fault::Busy => (DisconnectReason::Busy, close_code::LATER),
        };
        Self {
            reason,
            code,
            // An answer that says why may wait there.
            flush: true,
        }
    }
}

impl From<tungstenite::Error> for End {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Capacity(_) => Fault::TooLarge.into(),
            // A client that is cut off in the middle has broken no rule.
            tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            ) => Self::LOST,
            tungstenite::Error::Protocol(_) => Self::new(DisconnectReason::ProtocolError, 1002),
            tungstenite::Error::Utf8(_) => Self::new(DisconnectReason::ProtocolError, 1007),
            _ => Self::LOST,
        }
    }
}

/// What a WebSocket is closed with.
pub mod close_code {
    /// More than the client may send at a time.
    pub const TOO_LARGE: u16 = 1009;
    /// The node is going.
    pub const GOING: u16 = 1012;
    /// Come back later.
    pub const LATER: u16 = 1013;
    /// The client broke the protocol.
    pub const PROTOCOL: u16 = 4400;
    /// Not authenticated, or no more.
    pub const UNAUTHORIZED: u16 = 4401;
}
