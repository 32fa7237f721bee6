//! The chat as an `Application` of the realtime layer: a socket comes in with a token, its events become commands to
//! `chat/`, answers go back. No rule of the chat and no SQL stands here.

mod commands;
mod expiry;
mod participant;
mod reply;

use std::sync::Arc;

use metrics::counter;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::envelope::Revocation;
use shared::event::TokenExpiry;
use shared::{ErrorCode, Room};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::{AuthService, bearer_token};
use crate::chat::{Chat, raw};
use crate::config::AppEnv;
use crate::failure::{Failure, success};
use crate::realtime::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, IncomingEvent, Refusal, Socket,
};
use crate::relay::Relay;
use crate::store::Viewer;
use crate::telemetry::metrics as names;
use expiry::Expiry;
pub use participant::Participant;
use participant::Session;
use reply::Reply;

/// Closes a plain socket whose token was missing, bad, expired or revoked (contract, section 3).
const CLOSE_UNAUTHORIZED: u16 = 4401;

/// Asks a plain socket to come back later.
const CLOSE_TRY_LATER: u16 = 1013;

/// The chat's doors for sockets.
#[derive(Clone)]
pub struct ChatSockets {
    shared: Arc<Shared>,
}

/// What all sockets of the node share; each holds it until it is gone.
struct Shared {
    chat: Arc<Chat>,
    auth: Arc<AuthService>,
    relay: Arc<Relay<Participant>>,
    expiry: Arc<Expiry>,
    settings: Settings,
}

/// What is set for sockets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether failures show their details.
    pub mode: AppEnv,
    /// Events a second a socket may send, in bursts of twice that; 0 for no limit.
    pub events_per_second: u32,
}

impl ChatSockets {
    /// Doors to a chat. The task closes sockets whose tokens run out, until `stop`.
    pub fn start(
        chat: Arc<Chat>,
        auth: Arc<AuthService>,
        relay: Arc<Relay<Participant>>,
        settings: Settings,
        stop: CancellationToken,
    ) -> (Self, JoinHandle<()>) {
        let expiry = Arc::new(Expiry::default());
        let task = tokio::spawn(expiry.clone().tend(stop));
        (Self { shared: Arc::new(Shared { chat, auth, relay, expiry, settings }) }, task)
    }
}

/// Closes the sockets of this node that live by revoked tokens.
pub fn close_revoked(relay: &Relay<Participant>, revocation: &Revocation) {
    for participant in relay.hub().members(Room::User(revocation.user)) {
        if participant.identity().is_revoked_by(revocation) {
            participant.close(CloseKind::Unauthorized);
        }
    }
}

impl Application for ChatSockets {
    type Session = Session;

    async fn connect(&self, socket: &Socket, request: ConnectRequest) -> Result<Accepted<Session>, Refusal> {
        self.shared.admit(socket, &request).await.map_err(|failure| {
            failure.log();
            counter!(names::AUTH_FAILURES, "reason" => failure.code.as_str()).increment(1);
            self.shared.refusal(&failure)
        })
    }

    async fn event(&self, socket: &Socket, session: &Arc<Session>, event: IncomingEvent) {
        let label = names::event_label(&event.name);
        counter!(names::EVENTS, "direction" => "in", "event" => label).increment(1);
        let reply = Reply::new(socket, &event.name, event.ack, self.shared.settings.mode);
        if let Err(retry_after) = session.take_event() {
            counter!(names::RATE_LIMITED, "limit" => "events").increment(1);
            return reply.fail(&Failure::rate_limited(retry_after));
        }
        commands::run(&self.shared, session, &event.name, &event.args, reply).await;
    }

    fn disconnect(&self, socket: &Socket, session: &Arc<Session>, reason: DisconnectReason) {
        let viewer = session.viewer();
        counter!(names::DISCONNECTS, "reason" => reason.as_str()).increment(1);
        tracing::info!(
            socket = %socket.id(),
            user = %viewer.user,
            role = %viewer.role,
            transport = socket.transport().as_str(),
            reason = reason.as_str(),
            seconds = session.age().as_secs(),
            "disconnected"
        );
        session.end();
    }
}

impl Shared {
    async fn admit(self: &Arc<Self>, socket: &Socket, request: &ConnectRequest) -> Result<Accepted<Session>, Failure> {
        let identity = self.auth.authenticate(&token(socket, request)?)?;
        let viewer = Viewer { user: identity.user, role: identity.role };
        let expires_at = identity.expires_at;
        // Holds the rooms and the presence from here on, and lets go of them however this ends.
        let session = Arc::new(Session::new(self.clone(), socket.clone(), identity));
        let participant = session.participant();
        let (own, role) = tokio::join!(
            self.relay.join(Room::User(viewer.user), participant.key, participant),
            self.relay.join(Room::Role(viewer.role), participant.key, participant),
        );
        own.and(role)?;
        // A revocation that came before the rooms were joined has closed nothing.
        self.auth.check_revoked(&participant.identity())?;
        session.arrive().await;
        self.expiry.watch(participant);
        counter!(names::CONNECTS).increment(1);
        tracing::info!(
            socket = %socket.id(),
            user = %viewer.user,
            role = %viewer.role,
            transport = socket.transport().as_str(),
            "connected"
        );
        Ok(Accepted { session, answer: Some(success(&TokenExpiry { expires_at })?) })
    }

    fn refusal(&self, failure: &Failure) -> Refusal {
        let unauthorized = failure.code.http_status() == 401;
        Refusal {
            message: failure.message.clone().into_owned(),
            data: raw(&serde_json::json!({ "code": failure.code })).unwrap_or_else(|_| RawValue::NULL.to_owned()),
            http_status: failure.code.http_status(),
            body: failure.envelope(self.settings.mode),
            close_code: if unauthorized { CLOSE_UNAUTHORIZED } else { CLOSE_TRY_LATER },
        }
    }
}

/// The token a client shows: in its `auth` payload, else in its `Authorization` header.
fn token(socket: &Socket, request: &ConnectRequest) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Auth {
        token: Option<String>,
    }
    let malformed = || Failure::new(ErrorCode::InvalidToken, "the token must be a string");
    if let Some(auth) = &request.auth {
        let auth: Option<Auth> = serde_json::from_str(auth.get()).map_err(|_| malformed())?;
        if let Some(token) = auth.and_then(|auth| auth.token) {
            return Ok(token);
        }
    }
    let missing = || Failure::new(ErrorCode::MissingToken, "a token is needed");
    let header = socket.handshake().authorization.as_ref().ok_or_else(missing)?;
    bearer_token(&header.0).map(str::to_owned)
}
