//! The requests of Engine.IO: handshakes, polls, posts, and the upgrade to WebSocket. Refusals are those of the reference
//! server: 400 with `{"code":0,"message":"..."}`.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use shared::protocol::engine_io::{self, Packet};
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::Message;

use super::super::connection::{Carrier, Connection, Dialect, close_code};
use super::super::frame::Frame;
use super::super::outbox::Leftover;
use super::super::socket::{Link, random_id};
use super::super::upgrade::{self, WebSocketRequest};
use super::super::wire::Wire;
use super::polling::{Command, Entry, Inbound, Post, Session};
use super::{EngineIo, Riders};

/// The most packets of one payload: what the payload's limit holds of the shortest real messages, and a bound on what a
/// payload of separators can cost.
const MAX_PACKETS: usize = 32_768;

/// How long a browser may remember the answer to a preflight, in seconds.
const PREFLIGHT_AGE: HeaderValue = HeaderValue::from_static("600");

/// Why a request is refused, with the reference server's numbers.
#[derive(Debug, Clone, Copy)]
enum Refused {
    UnknownTransport,
    UnknownSid,
    BadMethod,
    BadRequest,
    Forbidden,
    UnknownVersion,
}

/// What the query says. Its values are plain words: nothing is decoded.
#[derive(Debug, Default)]
struct Query<'a> {
    version: Option<&'a str>,
    transport: Option<&'a str>,
    sid: Option<&'a str>,
}

impl<F: Riders> EngineIo<F> {
    /// Answers any request at the server's path.
    pub(in super::super) async fn handle(self: Arc<Self>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let cors = self.cors(&parts.headers);
        let mut response = if parts.method == Method::OPTIONS {
            preflight(&parts.headers)
        } else {
            match self.route(parts, body).await {
                Ok(response) => response,
                Err(refused) => refused.into_response(),
            }
        };
        response.headers_mut().extend(cors);
        response
    }

    async fn route(self: Arc<Self>, mut parts: Parts, body: Body) -> Result<Response, Refused> {
        let uri = parts.uri.clone();
        let query = Query::parse(uri.query().unwrap_or_default());
        let websocket = match query.transport {
            Some("polling") => false,
            Some("websocket") => true,
            _ => return Err(Refused::UnknownTransport),
        };
        let session = match query.sid {
            Some(sid) => Some(self.sessions.get(sid).ok_or(Refused::UnknownSid)?),
            None => None,
        };
        match session {
            None if parts.method != Method::GET => Err(Refused::BadMethod),
            None if query.version != Some(engine_io::VERSION) => Err(Refused::UnknownVersion),
            None if websocket => self.open_websocket(&mut parts),
            None => Ok(self.open_polling(&parts)),
            Some(entry) if websocket => self.try_upgrade(&mut parts, entry),
            Some(Entry::Polling(session)) => match parts.method {
                Method::GET => poll(&session).await,
                Method::POST => self.post(&session, &parts.headers, body).await,
                _ => Err(Refused::BadMethod),
            },
            Some(Entry::Upgraded) => Err(Refused::BadRequest),
        }
    }

    fn open_polling(&self, parts: &Parts) -> Response {
        let pass = match self.connections.admit() {
            Ok(pass) => pass,
            Err(busy) => return upgrade::busy(busy),
        };
        let sid = random_id();
        let carrier = Carrier::Polling(Box::new(self.sessions.open(&sid)));
        let link = self.link(parts, false);
        link.comes_in(pass);
        tokio::spawn(self.connection(link, carrier).run());
        payload(self.open_packet(&sid, vec!["websocket"]))
    }

    fn open_websocket(self: &Arc<Self>, parts: &mut Parts) -> Result<Response, Refused> {
        let request = WebSocketRequest::parse(parts).ok_or(Refused::BadRequest)?;
        if !self.settings.allows(&parts.headers) {
            return Err(Refused::Forbidden);
        }
        let pass = match self.connections.admit() {
            Ok(pass) => pass,
            Err(busy) => return Ok(upgrade::busy(busy)),
        };
        let link = self.link(parts, true);
        link.comes_in(pass);
        // No request will name it, but clients expect one.
        self.greet(&link, &self.open_packet(&random_id(), Vec::new()));
        let (response, coming) = request.accept();
        let server = Arc::clone(self);
        tokio::spawn(async move {
            // Boxed, so that the connection's task is not as large as its birth.
            let Some(upgraded) = Box::pin(coming.wait()).await else {
                return;
            };
            let wire = Wire::new(upgraded, server.settings.max_payload).await;
            let connection = server.connection(link, Carrier::WebSocket(wire));
            drop(server);
            connection.run().await;
        });
        Ok(response)
    }

    /// A client with a session tries whether a WebSocket works, and goes over to it if so:
    ///
    /// ```text
    ///   WebSocket: 2probe ->          <- 3probe                                  5 ->  (messages)
    ///   polling:   (poll waits)       <- 6, so that the client can stop polling
    /// ```
    ///
    /// A second WebSocket for one session is opened and closed, as the reference server does.
    fn try_upgrade(&self, parts: &mut Parts, entry: Entry) -> Result<Response, Refused> {
        let request = WebSocketRequest::parse(parts).ok_or(Refused::BadRequest)?;
        if !self.settings.allows(&parts.headers) {
            return Err(Refused::Forbidden);
        }
        let (response, coming) = request.accept();
        let settings = Arc::clone(&self.settings);
        let session = match entry {
            Entry::Polling(session) if session.begin_upgrade() => session,
            _ => {
                tokio::spawn(async move {
                    if let Some(upgraded) = coming.wait().await {
                        let wire = Wire::new(upgraded, settings.max_payload).await;
                        wire.close(
                            close_code::PROTOCOL,
                            "already upgraded",
                            Leftover::default(),
                        )
                        .await;
                    }
                });
                return Ok(response);
            }
        };
        tokio::spawn(async move {
            let mut wire = match coming.wait().await {
                Some(upgraded) => Some(Wire::new(upgraded, settings.max_payload).await),
                None => None,
            };
            let probed = match &mut wire {
                Some(wire) => {
                    let probe = probe(wire, &session);
                    let outcome = tokio::time::timeout(settings.upgrade_timeout, probe).await;
                    matches!(outcome, Ok(Some(())))
                }
                None => false,
            };
            match wire {
                Some(wire) if probed => {
                    let command = Command::Upgrade(Box::new(wire));
                    // Where the session has ended, the WebSocket ends with the command.
                    let _ = session.mailbox.send(command).await;
                }
                wire => {
                    // Where the session has ended, there is nothing to go back to.
                    let _ = session.mailbox.send(Command::ProbeFailed).await;
                    session.upgrade_failed();
                    drop(session);
                    if let Some(wire) = wire {
                        wire.close(close_code::PROTOCOL, "probe failed", Leftover::default())
                            .await;
                    }
                }
            }
        });
        Ok(response)
    }

    async fn post(
        &self,
        session: &Session,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, Refused> {
        let Some(_posting) = session.begin_post() else {
            return Err(broken(session).await);
        };
        let too_large = || StatusCode::PAYLOAD_TOO_LARGE.into_response();
        let limit = self.settings.max_payload;
        let announced = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > limit) {
            return Ok(too_large());
        }
        let collected = Limited::new(body, limit).collect();
        let bytes = match tokio::time::timeout(self.settings.request_timeout, collected).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return Ok(too_large()),
            Ok(Err(_)) => return Err(Refused::BadRequest),
            Err(_) => return Ok(StatusCode::REQUEST_TIMEOUT.into_response()),
        };
        let packets = match read_payload(&bytes) {
            Some(packets) => packets,
            None => return Err(broken(session).await),
        };
        drop(bytes);
        let (post, accepted) = Post::new(packets);
        let sent = session.mailbox.send(Command::Post(Box::new(post))).await;
        if sent.is_err() {
            return Err(Refused::UnknownSid);
        }
        match accepted.await {
            Ok(()) => Ok(text("ok".to_owned(), "text/html")),
            Err(_) => Err(Refused::BadRequest),
        }
    }

    fn link(&self, parts: &Parts, websocket: bool) -> Arc<Link> {
        let handshake = upgrade::handshake(parts, &self.settings);
        Arc::new(Link::new(handshake, self.settings.outbox_bytes, websocket))
    }

    fn connection(&self, link: Arc<Link>, carrier: Carrier) -> Connection<F::Rider> {
        let rider = self.riders.board(&link);
        let registration = self.connections.register(&link);
        Connection::new(
            link,
            rider,
            carrier,
            Dialect::EngineIo,
            Arc::clone(&self.settings),
            registration,
        )
    }

    /// What lets a page of an allowed origin read the answer.
    fn cors(&self, headers: &HeaderMap) -> HeaderMap {
        let mut cors = HeaderMap::new();
        cors.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = headers.get(header::ORIGIN)
            && self.settings.allows(headers)
        {
            cors.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            cors.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        cors
    }
}

impl<'a> Query<'a> {
    fn parse(query: &'a str) -> Self {
        let mut parsed = Self::default();
        for pair in query.split('&') {
            match pair.split_once('=') {
                Some(("EIO", version)) => parsed.version = Some(version),
                Some(("transport", transport)) => parsed.transport = Some(transport),
                Some(("sid", sid)) => parsed.sid = Some(sid),
                _ => {}
            }
        }
        parsed
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let (status, body) = match self {
            Self::UnknownTransport => (400, r#"{"code":0,"message":"Transport unknown"}"#),
            Self::UnknownSid => (400, r#"{"code":1,"message":"Session ID unknown"}"#),
            Self::BadMethod => (400, r#"{"code":2,"message":"Bad handshake method"}"#),
            Self::BadRequest => (400, r#"{"code":3,"message":"Bad request"}"#),
            Self::Forbidden => (403, r#"{"code":4,"message":"Forbidden"}"#),
            Self::UnknownVersion => (
                400,
                r#"{"code":5,"message":"Unsupported protocol version"}"#,
            ),
        };
        let mut response = text(body.to_owned(), "application/json");
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        response
    }
}

async fn poll(session: &Session) -> Result<Response, Refused> {
    let (envelope, answer) = oneshot::channel();
    let sent = session.mailbox.send(Command::Poll(envelope)).await;
    if sent.is_err() {
        return Err(Refused::UnknownSid);
    }
    // Dropped here where the client hangs up: the session notices.
    match answer.await {
        Ok(answer) => Ok(payload(answer)),
        Err(_) => Err(Refused::BadRequest),
    }
}

/// Ends a session whose client broke the protocol, and waits until it is gone: what the client asks next must find it so.
async fn broken(session: &Session) -> Refused {
    if session.mailbox.send(Command::Broken).await.is_ok() {
        session.mailbox.closed().await;
    }
    Refused::BadRequest
}

async fn probe(wire: &mut Wire, session: &Session) -> Option<()> {
    expect(wire, engine_io::PROBE_PING).await?;
    session.mailbox.send(Command::Probing).await.ok()?;
    let pong = Frame::text(engine_io::PROBE_PONG);
    wire.write(&pong).await.ok()?;
    expect(wire, engine_io::UPGRADE).await
}

async fn expect(wire: &mut Wire, packet: &str) -> Option<()> {
    loop {
        match wire.read().await?.ok()? {
            Message::Text(text) => return (text == packet).then_some(()),
            Message::Ping(_) | Message::Pong(_) => {}
            _ => return None,
        }
    }
}

/// Takes a payload apart. `None`: it is none.
fn read_payload(body: &[u8]) -> Option<VecDeque<Inbound>> {
    let body = std::str::from_utf8(body).ok()?;
    let packets = engine_io::decode_payload(body, MAX_PACKETS).ok()?;
    let mut inbound = VecDeque::with_capacity(packets.len());
    for packet in packets {
        match packet {
            Packet::Message(text) => inbound.push_back(Inbound::Text(text.to_owned())),
            Packet::Binary(bytes) => inbound.push_back(Inbound::Binary(bytes)),
            Packet::Pong(_) => inbound.push_back(Inbound::Pong),
            Packet::Close => inbound.push_back(Inbound::Close),
            // The heartbeat goes the other way since protocol 4.
            Packet::Ping(_) => return None,
            Packet::Open(_) | Packet::Upgrade | Packet::Noop => {}
        }
    }
    Some(inbound)
}

fn preflight(headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let allow = response.headers_mut();
    allow.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, OPTIONS"),
    );
    if let Some(asked) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        allow.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    allow.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_AGE);
    response
}

fn payload(payload: String) -> Response {
    text(payload, "text/plain; charset=UTF-8")
}

fn text(body: String, content_type: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, body).into_response()
}
