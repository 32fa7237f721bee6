//! Socket.IO 5 on an Engine.IO session: namespaces, acknowledgements, binary attachments. The grammar of its packets is in
//! `shared::protocol::socket_io`.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;
use shared::SocketId;
use shared::protocol::socket_io::{self, Body};
use tokio::time::Instant;

use super::application::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, IncomingEvent, Refusal,
};
use super::connection::{Fault, Message, Rider, SocketClosed, Work, close_code};
use super::engine_io::Riders;
use super::outbox::Worth;
use super::settings::Settings;
use super::socket::{Ack, Answer, Link, Protocol, Socket, packet};

/// What the reference server says.
const INVALID_NAMESPACE: &str = "Invalid namespace";
const TOO_MANY_NAMESPACES: &str = "Too many namespaces";

/// Makes a Socket.IO rider for every session.
pub(super) struct SocketIoRiders<A> {
    pub(super) application: Arc<A>,
    pub(super) settings: Arc<Settings>,
}

/// The Socket.IO end of one session.
pub(super) struct SocketIo<A: Application> {
    application: Arc<A>,
    settings: Arc<Settings>,
    link: Arc<Link>,
    /// What the client has joined: few, so looked through.
    namespaces: Vec<Namespace<A>>,
    /// The socket that the program is at work for.
    working_for: Option<Socket>,
    /// A packet whose attachments are still coming.
    partial: Option<Box<Partial>>,
    /// Since when the client has been in no namespace.
    alone_since: Option<Instant>,
}

struct Namespace<A: Application> {
    socket: Socket,
    /// `None`: the program closed it. What the client sent before it heard of that is dropped.
    session: Option<Arc<A::Session>>,
}

/// What the program's work came to.
pub(super) enum Outcome<S> {
    Connected(Result<Accepted<S>, Refusal>),
    Handled,
}

struct Partial {
    namespace: Box<str>,
    content: Content,
    attachments: Vec<Bytes>,
    missing: usize,
    /// Of the packet so far.
    bytes: usize,
    since: Instant,
}

enum Content {
    Event {
        name: String,
        args: Box<RawValue>,
        id: Option<u64>,
    },
    Ack {
        id: u64,
        args: Box<RawValue>,
    },
}

impl<A: Application> Riders for SocketIoRiders<A> {
    type Rider = SocketIo<A>;

    fn board(&self, link: &Arc<Link>) -> SocketIo<A> {
        SocketIo {
            application: Arc::clone(&self.application),
            settings: Arc::clone(&self.settings),
            link: Arc::clone(link),
            namespaces: Vec::new(),
            working_for: None,
            partial: None,
            alone_since: Some(Instant::now()),
        }
    }
}

impl<A: Application> Rider for SocketIo<A> {
    type Outcome = Outcome<A::Session>;

    fn message(&mut self, message: Message<'_>) -> Result<Option<Work<Self::Outcome>>, Fault> {
        match (message, self.partial.take()) {
            (Message::Text(text), None) => self.packet(text),
            (Message::Binary(bytes), Some(partial)) => self.attachment(partial, bytes),
            // Nothing may come between a packet and its attachments, and no attachment without a packet.
            _ => Err(Fault::Protocol),
        }
    }

    fn done(&mut self, outcome: Self::Outcome) -> Result<(), Fault> {
        let Some(socket) = self.working_for.take() else {
            return Ok(());
        };
        match outcome {
            Outcome::Handled => {}
            Outcome::Connected(Ok(accepted)) => self.accept(socket, accepted),
            Outcome::Connected(Err(refusal)) if refusal.come_back => {
                socket.mark_closed();
                return Err(Fault::Busy);
            }
            Outcome::Connected(Err(refusal)) => {
                socket.mark_closed();
                self.refuse(socket.namespace(), &refusal.message, Some(&refusal.data));
            }
        }
        Ok(())
    }

    fn upgraded(&mut self) {
        for Namespace { socket, session } in &self.namespaces {
            if let Some(session) = session {
                self.application.upgraded(socket, session);
            }
        }
    }

    fn close_socket(&mut self, id: &SocketId, kind: CloseKind) -> SocketClosed {
        let stop_work = self
            .working_for
            .as_ref()
            .is_some_and(|socket| socket.id() == id);
        if stop_work && let Some(socket) = self.working_for.take() {
            socket.mark_closed();
        }
        let namespace = self
            .namespaces
            .iter_mut()
            .find(|namespace| namespace.socket.id() == id);
        if let Some(namespace) = namespace
            && let Some(session) = namespace.session.take()
        {
            self.application
                .disconnect(&namespace.socket, &session, reason_of(kind));
            let frame = packet(|out| {
                socket_io::write_disconnect(out, namespace.socket.namespace());
            });
            namespace.socket.mark_closed();
            self.link.outbox.push([frame], Worth::Durable);
        }
        SocketClosed {
            stop_work,
            end: self.is_alone(),
        }
    }

    fn deadline(&self) -> Option<(Instant, Fault)> {
        let alone = self.alone_since.map(|since| {
            let fault = Fault::Unauthorized(close_code::UNAUTHORIZED);
            (since + self.settings.connect_timeout, fault)
        });
        let partial = self.partial.as_ref().map(|partial| {
            (
                partial.since + self.settings.request_timeout,
                Fault::Protocol,
            )
        });
        alone.into_iter().chain(partial).min_by_key(|(at, _)| *at)
    }

    fn end(&mut self, reason: DisconnectReason) {
        // A goodbye of the connection is none of its sockets: they may come back on another one.
        let reason = match reason {
            DisconnectReason::ClientDisconnect => DisconnectReason::TransportClose,
            other => other,
        };
        if let Some(socket) = self.working_for.take() {
            socket.mark_closed();
        }
        for namespace in self.namespaces.drain(..) {
            namespace.socket.mark_closed();
            if let Some(session) = namespace.session {
                self.application
                    .disconnect(&namespace.socket, &session, reason);
            }
        }
    }
}

impl<A: Application> SocketIo<A> {
    fn packet(&mut self, text: &str) -> Result<Option<Work<Outcome<A::Session>>>, Fault> {
        let packet =
            socket_io::decode(text, self.settings.max_attachments).map_err(|_| Fault::Protocol)?;
        let (content, missing) = match packet.body {
            Body::Connect(auth) => return self.connect(packet.namespace, auth),
            Body::Disconnect => {
                self.leave(packet.namespace);
                return Ok(None);
            }
            // Server to client only.
            Body::ConnectError(_) => return Err(Fault::Protocol),
            Body::Event {
                name,
                args,
                id,
                attachments,
            } => (Content::Event { name, args, id }, attachments),
            Body::Ack {
                id,
                args,
                attachments,
            } => (Content::Ack { id, args }, attachments),
        };
        if missing == 0 {
            return self.deliver(packet.namespace, content, Vec::new());
        }
        self.partial = Some(Box::new(Partial {
            namespace: packet.namespace.into(),
            content,
            attachments: Vec::with_capacity(missing),
            missing,
            bytes: text.len(),
            since: Instant::now(),
        }));
        Ok(None)
    }

    fn attachment(
        &mut self,
        mut partial: Box<Partial>,
        bytes: Bytes,
    ) -> Result<Option<Work<Outcome<A::Session>>>, Fault> {
        partial.bytes += bytes.len();
        if partial.bytes > self.settings.max_payload {
            return Err(Fault::TooLarge);
        }
        partial.attachments.push(bytes);
        partial.missing -= 1;
        if partial.missing > 0 {
            self.partial = Some(partial);
            return Ok(None);
        }
        let Partial {
            namespace,
            content,
            attachments,
            ..
        } = *partial;
        self.deliver(&namespace, content, attachments)
    }

    fn connect(
        &mut self,
        name: &str,
        auth: Option<Box<RawValue>>,
    ) -> Result<Option<Work<Outcome<A::Session>>>, Fault> {
        match self.find(name) {
            // A stock client whose `connect()` is called while it is connecting asks twice: one answer serves it.
            Some(joined) if self.namespaces[joined].session.is_some() => return Ok(None),
            Some(closed) => {
                self.namespaces.swap_remove(closed);
            }
            None => {}
        }
        if !self.application.accepts_namespace(name) {
            self.refuse(name, INVALID_NAMESPACE, None);
            return Ok(None);
        }
        if self.namespaces.len() >= self.settings.max_namespaces {
            self.refuse(name, TOO_MANY_NAMESPACES, None);
            return Ok(None);
        }
        let socket = Socket::new(name, Protocol::SocketIo, Arc::clone(&self.link));
        self.working_for = Some(socket.clone());
        let application = Arc::clone(&self.application);
        let request = ConnectRequest {
            namespace: name.to_owned(),
            auth,
        };
        Ok(Some(Box::pin(async move {
            Outcome::Connected(application.connect(&socket, request).await)
        })))
    }

    fn accept(&mut self, socket: Socket, accepted: Accepted<A::Session>) {
        self.alone_since = None;
        let greeting = packet(|out| {
            let pid = accepted.recovery_id.as_deref();
            socket_io::write_connect(out, socket.namespace(), socket.id().as_str(), pid);
        });
        socket.open(Some(greeting));
        self.namespaces.reserve_exact(1);
        self.namespaces.push(Namespace {
            socket,
            session: Some(accepted.session),
        });
    }

    fn refuse(&self, namespace: &str, message: &str, data: Option<&RawValue>) {
        let frame = packet(|out| socket_io::write_connect_error(out, namespace, message, data));
        self.link.outbox.push([frame], Worth::Durable);
    }

    fn leave(&mut self, name: &str) {
        // Leaving where one is not is no fault: the server's own DISCONNECT may have crossed this one.
        let Some(index) = self.find(name) else { return };
        let namespace = self.namespaces.swap_remove(index);
        namespace.socket.mark_closed();
        if let Some(session) = namespace.session {
            self.application.disconnect(
                &namespace.socket,
                &session,
                DisconnectReason::ClientDisconnect,
            );
        }
        self.is_alone();
    }

    fn deliver(
        &mut self,
        namespace: &str,
        content: Content,
        attachments: Vec<Bytes>,
    ) -> Result<Option<Work<Outcome<A::Session>>>, Fault> {
        let index = self.find(namespace).ok_or(Fault::Protocol)?;
        let Namespace { socket, session } = &self.namespaces[index];
        let Some(session) = session else {
            return Ok(None);
        };
        match content {
            Content::Ack { id, args } => {
                socket.answered(id, Answer { args, attachments });
                Ok(None)
            }
            Content::Event { name, args, id } => {
                let event = IncomingEvent {
                    name,
                    args,
                    attachments,
                    ack: id.map(|id| Ack::new(socket.clone(), id)),
                };
                let (socket, session) = (socket.clone(), Arc::clone(session));
                let application = Arc::clone(&self.application);
                self.working_for = Some(socket.clone());
                Ok(Some(Box::pin(async move {
                    application.event(&socket, &session, event).await;
                    Outcome::Handled
                })))
            }
        }
    }

    fn find(&self, namespace: &str) -> Option<usize> {
        self.namespaces
            .iter()
            .position(|one| one.socket.namespace() == namespace)
    }

    /// Whether the client is in no namespace any more. It may stay so for a while only.
    fn is_alone(&mut self) -> bool {
        let alone = self.namespaces.iter().all(|one| one.session.is_none());
        if alone && self.alone_since.is_none() {
            self.alone_since = Some(Instant::now());
        }
        alone
    }
}

/// A task that ends without a word (the program panicked, the runtime is going) must not leave sessions behind.
impl<A: Application> Drop for SocketIo<A> {
    fn drop(&mut self) {
        self.end(DisconnectReason::TransportClose);
    }
}

fn reason_of(kind: CloseKind) -> DisconnectReason {
    match kind {
        CloseKind::Unauthorized => DisconnectReason::Unauthorized,
        CloseKind::Expired => DisconnectReason::Expired,
        CloseKind::Draining => DisconnectReason::Draining,
        CloseKind::TooSlow => DisconnectReason::TooSlow,
        CloseKind::Resync => DisconnectReason::Resync,
    }
}
