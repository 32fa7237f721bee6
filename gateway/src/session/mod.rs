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
use shared::event::TokenExpiry;
use shared::{ErrorCode, Room};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::{AuthService, bearer};
use crate::chat::{Chat, raw};
use crate::config::AppEnv;
use crate::failure::{Failure, success};
use crate::gate::Gate;
use crate::realtime::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, IncomingEvent, Refusal,
    Socket, close_code,
};
use crate::relay::Relay;
use crate::telemetry::metrics as names;
use expiry::Expiry;
pub use participant::Participant;
use participant::Session;
use reply::Reply;

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
    /// The commands under way that wait for the database or Redis. A socket has one at a time.
    commands: Gate,
    settings: Settings,
}

/// What is set for sockets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether failures show their details.
    pub mode: AppEnv,
    /// Events a second a socket may send, in bursts of twice that; 0 for no limit.
    pub events_per_second: u32,
    /// How many commands of sockets may be under way at once, over all sockets of this node. Messages are not among them:
    /// they wait where they are stored.
    pub commands_in_flight: usize,
}

impl ChatSockets {
    /// Doors to a chat. Its tasks close sockets whose tokens end, until `stop`.
    pub fn start(
        chat: Arc<Chat>,
        auth: Arc<AuthService>,
        relay: Arc<Relay<Participant>>,
        settings: Settings,
        stop: CancellationToken,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let expiry = Arc::new(Expiry::default());
        let tasks = vec![
            tokio::spawn(expiry.clone().tend(stop.clone())),
            tokio::spawn(close_revoked(auth.clone(), relay.clone(), stop)),
        ];
        (
            Self {
                shared: Arc::new(Shared {
                    chat,
                    auth,
                    relay,
                    expiry,
                    commands: Gate::new("commands", settings.commands_in_flight),
                    settings,
                }),
            },
            tasks,
        )
    }
}

/// Closes the sockets of this node that live by tokens which are revoked, until `stop`.
async fn close_revoked(
    auth: Arc<AuthService>,
    relay: Arc<Relay<Participant>>,
    stop: CancellationToken,
) {
    let mut revoked = auth.revocations().listen();
    loop {
        let users = tokio::select! {
            () = stop.cancelled() => return,
            heard = revoked.recv() => match heard {
                Ok(revocation) => vec![revocation.user],
                // More came at once than the channel holds: everybody is looked at.
                Err(RecvError::Lagged(_)) => relay.hub().users(),
                Err(RecvError::Closed) => return,
            },
        };
        for participant in users
            .into_iter()
            .flat_map(|user| relay.hub().members(Room::User(user)))
        {
            if auth.revocations().is_revoked(&participant.identity()) {
                participant.close(CloseKind::Unauthorized);
            }
        }
    }
}

impl Application for ChatSockets {
    type Session = Session;

    async fn connect(
        &self,
        socket: &Socket,
        request: ConnectRequest,
    ) -> Result<Accepted<Session>, Refusal> {
        self.shared
            .admit(socket, &request)
            .await
            .map_err(|failure| {
                failure.log();
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

    fn upgraded(&self, _socket: &Socket, session: &Arc<Session>) {
        session.upgraded();
    }

    fn disconnect(&self, socket: &Socket, session: &Arc<Session>, reason: DisconnectReason) {
        let viewer = session.viewer();
        counter!(names::DISCONNECTS, "reason" => reason.as_str()).increment(1);
        tracing::info!(
            socket = %socket.id(),
            user = viewer.user.get(),
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
    async fn admit(
        self: &Arc<Self>,
        socket: &Socket,
        request: &ConnectRequest,
    ) -> Result<Accepted<Session>, Failure> {
        let identity = self.auth.authenticate(&token(socket, request)?)?;
        let viewer = identity.viewer();
        let expires_at = identity.expires_at;
        // Holds the rooms and the presence from here on, and lets go of them however this ends.
        let session = Arc::new(Session::new(self.clone(), socket.clone(), identity));
        let participant = session.participant();
        let (own, role) = tokio::join!(
            self.relay
                .join(Room::User(viewer.user), participant.key, participant),
            self.relay
                .join(Room::Role(viewer.role), participant.key, participant),
        );
        own.and(role)?;
        // A revocation that came before the rooms were joined has closed nothing.
        if self.auth.revocations().is_revoked(&participant.identity()) {
            return Err(Failure::new(
                ErrorCode::InvalidToken,
                "the token was revoked",
            ));
        }
        session.arrive().await;
        self.expiry.watch(participant);
        counter!(names::CONNECTS).increment(1);
        tracing::info!(
            socket = %socket.id(),
            user = viewer.user.get(),
            role = %viewer.role,
            transport = socket.transport().as_str(),
            "connected"
        );
        Ok(Accepted {
            session,
            answer: Some(success(&TokenExpiry { expires_at })?),
        })
    }

    fn refusal(&self, failure: &Failure) -> Refusal {
        let unauthorized = failure.code.http_status() == 401;
        Refusal {
            message: failure.message.clone().into_owned(),
            data: raw(&serde_json::json!({ "code": failure.code }))
                .unwrap_or_else(|_| RawValue::NULL.to_owned()),
            http_status: failure.code.http_status(),
            body: failure.envelope(self.settings.mode),
            close_code: if unauthorized {
                close_code::UNAUTHORIZED
            } else {
                close_code::LATER
            },
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
    let header = socket
        .handshake()
        .authorization
        .as_ref()
        .map(|header| header.expose());
    bearer(header).map(str::to_owned)
}
