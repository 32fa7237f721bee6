//! Plain sockets: JSON frames over a WebSocket, for clients without Socket.IO. The grammar of the frames is in
//! `shared::protocol::plain`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::value::RawValue;
use shared::SocketId;
use shared::protocol::plain::{self, AUTHENTICATE};
use shared::protocol::socket_io::MAIN_NAMESPACE;
use tokio::time::Instant;

use super::application::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, IncomingEvent, Refusal,
};
use super::connection::{
    Carrier, Connection, Dialect, Fault, Message, Rider, SocketClosed, Work, close_code,
};
use super::connections::Connections;
use super::frame::Frame;
use super::outbox::Worth;
use super::settings::Settings;
use super::socket::{Ack, Link, Protocol, Socket, main_socket};
use super::upgrade::{self, WebSocketRequest};
use super::wire::Wire;

/// The event that tells of a failure nobody asked an answer for.
const ERROR: &str = "error";

/// A server of plain sockets.
pub(super) struct Plain<A> {
    pub(super) application: Arc<A>,
    pub(super) settings: Arc<Settings>,
    pub(super) connections: Arc<Connections>,
}

impl<A: Application> Plain<A> {
    /// Answers a request at the server's path. With an `Authorization` header the client is let in or refused before the
    /// connection becomes a WebSocket.
    pub(super) async fn handle(self: Arc<Self>, request: Request) -> Response {
        let (mut parts, _) = request.into_parts();
        let Some(request) = WebSocketRequest::parse(&mut parts) else {
            let wanted = [
                (header::UPGRADE, "websocket"),
                (header::SEC_WEBSOCKET_VERSION, "13"),
            ];
            return (StatusCode::UPGRADE_REQUIRED, wanted).into_response();
        };
        if !self.settings.allows(&parts.headers) {
            return StatusCode::FORBIDDEN.into_response();
        }
        let pass = match self.connections.admit() {
            Ok(pass) => pass,
            Err(busy) => return upgrade::busy(busy),
        };
        let handshake = upgrade::handshake(&parts, &self.settings);
        let authorized = handshake.authorization.is_some();
        let link = Arc::new(Link::new(handshake, self.settings.outbox_bytes, true));
        link.comes_in(pass);
        let mut rider = PlainRider::new(Arc::clone(&self.application), &link, &self.settings);
        if authorized {
            let request = rider.request(None);
            match self.application.connect(&rider.socket, request).await {
                Ok(accepted) => rider.accept(accepted, None),
                Err(refusal) => return refuse(&refusal),
            }
        }
        let (response, coming) = request.accept();
        let server = self;
        tokio::spawn(async move {
            // Boxed, so that the connection's task is not as large as its birth.
            let Some(upgraded) = Box::pin(coming.wait()).await else {
                return;
            };
            let wire = Wire::new(upgraded, server.settings.max_payload).await;
            let registration = server.connections.register(&link);
            let settings = Arc::clone(&server.settings);
            drop(server);
            let carrier = Carrier::WebSocket(wire);
            Connection::new(link, rider, carrier, Dialect::Plain, settings, registration)
                .run()
                .await;
        });
        response
    }
}

/// The end of one plain socket.
struct PlainRider<A: Application> {
    application: Arc<A>,
    socket: Socket,
    link: Arc<Link>,
    /// Once the client was let in.
    session: Option<Arc<A::Session>>,
    /// Until when it must have been.
    authenticate_by: Instant,
    /// The `id` of the frame that is just being authenticated.
    authenticate_id: Option<u64>,
}

enum Outcome<S> {
    Connected(Result<Accepted<S>, Refusal>),
    Handled,
}

impl<A: Application> PlainRider<A> {
    fn new(application: Arc<A>, link: &Arc<Link>, settings: &Settings) -> Self {
        Self {
            application,
            socket: main_socket(Protocol::Plain, Arc::clone(link)),
            link: Arc::clone(link),
            session: None,
            authenticate_by: Instant::now() + settings.connect_timeout,
            authenticate_id: None,
        }
    }

    fn request(&self, auth: Option<Box<RawValue>>) -> ConnectRequest {
        ConnectRequest {
            namespace: MAIN_NAMESPACE.to_owned(),
            auth,
        }
    }

    fn accept(&mut self, accepted: Accepted<A::Session>, id: Option<u64>) {
        let answer = accepted.answer.as_deref().unwrap_or(RawValue::NULL);
        let greeting = id.map(|id| Frame::text(&plain::encode_ack(id, answer)));
        self.session = Some(accepted.session);
        self.socket.open(greeting);
    }

    fn refuse(&self, refusal: &Refusal, id: Option<u64>) -> Fault {
        let text = match id {
            Some(id) => plain::encode_ack(id, &refusal.body),
            None => plain::encode_event(ERROR, &about_authenticate(&refusal.body)),
        };
        self.link.outbox.push([Frame::text(&text)], Worth::Durable);
        Fault::Unauthorized(refusal.close_code)
    }
}

impl<A: Application> Rider for PlainRider<A> {
    type Outcome = Outcome<A::Session>;

    fn message(&mut self, message: Message<'_>) -> Result<Option<Work<Self::Outcome>>, Fault> {
        let Message::Text(text) = message else {
            return Err(Fault::Protocol);
        };
        let frame = plain::decode(text).map_err(|_| Fault::Protocol)?;
        let (socket, application) = (self.socket.clone(), Arc::clone(&self.application));
        let Some(session) = self.session.clone() else {
            if frame.event != AUTHENTICATE {
                return Err(Fault::Unauthorized(close_code::UNAUTHORIZED));
            }
            self.authenticate_id = frame.id;
            // No data is no token, and not the header that was not there.
            let data = frame.data.unwrap_or_else(|| RawValue::NULL.to_owned());
            let request = self.request(Some(data));
            return Ok(Some(Box::pin(async move {
                Outcome::Connected(application.connect(&socket, request).await)
            })));
        };
        let args = frame.data.map_or_else(
            || RawValue::from_string("[]".to_owned()),
            |data| RawValue::from_string(format!("[{}]", data.get())),
        );
        let event = IncomingEvent {
            name: frame.event,
            args: args.map_err(|_| Fault::Protocol)?,
            attachments: Vec::new(),
            ack: frame.id.map(|id| Ack::new(socket.clone(), id)),
        };
        Ok(Some(Box::pin(async move {
            application.event(&socket, &session, event).await;
            Outcome::Handled
        })))
    }

    fn done(&mut self, outcome: Self::Outcome) -> Result<(), Fault> {
        let id = self.authenticate_id.take();
        match outcome {
            Outcome::Handled => Ok(()),
            Outcome::Connected(Ok(accepted)) => {
                self.accept(accepted, id);
                Ok(())
            }
            Outcome::Connected(Err(refusal)) => Err(self.refuse(&refusal, id)),
        }
    }

    fn close_socket(&mut self, _: &SocketId, _: CloseKind) -> SocketClosed {
        SocketClosed {
            stop_work: true,
            end: true,
        }
    }

    fn deadline(&self) -> Option<(Instant, Fault)> {
        match self.session {
            Some(_) => None,
            None => Some((
                self.authenticate_by,
                Fault::Unauthorized(close_code::UNAUTHORIZED),
            )),
        }
    }

    fn end(&mut self, reason: DisconnectReason) {
        self.socket.mark_closed();
        if let Some(session) = self.session.take() {
            self.application.disconnect(&self.socket, &session, reason);
        }
    }
}

/// A task that ends without a word (the program panicked, the runtime is going, the client left before the connection
/// became a WebSocket) must not leave a session behind.
impl<A: Application> Drop for PlainRider<A> {
    fn drop(&mut self) {
        self.end(DisconnectReason::TransportClose);
    }
}

/// The envelope with the event it is about, as an `error` event bears it.
fn about_authenticate(envelope: &RawValue) -> Box<RawValue> {
    let with_event = match envelope.get().strip_prefix('{').map(str::trim_start) {
        None => return envelope.to_owned(),
        Some("}") => format!("{{\"event\":\"{AUTHENTICATE}\"}}"),
        Some(members) => format!("{{\"event\":\"{AUTHENTICATE}\",{members}"),
    };
    RawValue::from_string(with_event).unwrap_or_else(|_| envelope.to_owned())
}

fn refuse(refusal: &Refusal) -> Response {
    let mut response = Response::new(Body::from(refusal.body.get().to_owned()));
    *response.status_mut() =
        StatusCode::from_u16(refusal.http_status).unwrap_or(StatusCode::UNAUTHORIZED);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
