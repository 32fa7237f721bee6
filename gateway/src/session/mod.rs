//! The chat as an `Application` of the realtime layer: a socket comes in with a token, its events become commands to
//! `chat/`, answers go back. No rule of the chat and no SQL stands here.

mod commands;
mod expiry;
mod participant;
mod recovery;
mod reply;

use std::sync::Arc;

use futures_util::future::join_all;
use metrics::counter;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::event::TokenExpiry;
use shared::{ErrorCode, Room};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::auth::{AuthService, bearer};
use crate::bus::Mark;
use crate::chat::{Chat, raw};
use crate::cluster::{ConnectionStates, Found};
use crate::config::AppEnv;
use crate::failure::{Failure, success};
use crate::gate::Gate;
use crate::realtime::{
    Accepted, Application, CloseKind, ConnectRequest, DisconnectReason, IncomingEvent, Protocol,
    Refusal, Socket, close_code,
};
use crate::relay::Relay;
use crate::telemetry::metrics as names;
use expiry::Expiry;
pub use participant::Participant;
use participant::Session;
pub use recovery::Heartbeat;
use recovery::{Recovered, Recovery, Shown};
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
    recovery: Arc<Recovery>,
    /// The commands under way that wait for the database or Redis. A socket has one at a time.
    commands: Gate,
    /// What clients send, counted.
    heard: names::EventCounts,
    settings: Settings,
}

/// What is set for sockets.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Whether failures show their details.
    pub mode: AppEnv,
    /// Events a second a socket may send, in bursts of twice that; 0 for no limit.
    pub events_per_second: u32,
    /// How clients are asked for a sign of life.
    pub heartbeat: Heartbeat,
    /// How many bytes may wait for one socket.
    pub outbox_bytes: usize,
    /// How many commands of sockets may be under way at once, over all sockets of this node. Messages are not among them:
    /// they wait where they are stored.
    pub commands_in_flight: usize,
}

/// What sockets are served from.
pub struct Foundations {
    /// The chat.
    pub chat: Arc<Chat>,
    /// Who may come in.
    pub auth: Arc<AuthService>,
    /// Their rooms.
    pub relay: Arc<Relay<Participant>>,
    /// What their clients may pick up again.
    pub states: Arc<dyn ConnectionStates>,
}

impl ChatSockets {
    /// Doors to a chat. Its tasks close sockets whose tokens end or are revoked, and note what clients need to come back, until
    /// `stop`.
    pub fn start(
        on: Foundations,
        settings: Settings,
        stop: CancellationToken,
    ) -> (Self, Vec<JoinHandle<()>>) {
        let Foundations {
            chat,
            auth,
            relay,
            states,
        } = on;
        let expiry = Arc::new(Expiry::default());
        let recovery = Arc::new(Recovery::new(
            states,
            relay.clone(),
            settings.heartbeat,
            settings.outbox_bytes,
        ));
        let tasks = vec![
            tokio::spawn(expiry.clone().tend(stop.clone())),
            tokio::spawn(recovery.clone().tend(stop.clone())),
            tokio::spawn(close_revoked(auth.clone(), relay.clone(), stop)),
        ];
        (
            Self {
                shared: Arc::new(Shared {
                    chat,
                    auth,
                    relay,
                    expiry,
                    recovery,
                    commands: Gate::new("commands", settings.commands_in_flight),
                    heard: names::EventCounts::new("in"),
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
        self.shared.heard.add(&event.name, 1);
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
        session.leave_state(reason);
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
        let shown = shown(socket, request);
        let found = self.recovery.find(&shown, &identity).await?;
        // Holds the rooms and the presence from here on, and lets go of them however this ends.
        let session = Arc::new(Session::new(
            self.clone(),
            socket.clone(),
            identity,
            found.is_some(),
        ));
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
        let recovered = match found {
            Some(found) => self.recover(&session, &shown, found).await?,
            None => None,
        };
        participant.settle(recovered.as_ref());
        let is_recovered = recovered.is_some();
        let recovery_id = match recovered {
            Some(recovered) => self.resume(&session, shown, recovered).await?,
            None => self.begin(&session).await,
        };
        session.arrive().await;
        self.expiry.watch(participant);
        counter!(names::CONNECTS).increment(1);
        tracing::info!(
            socket = %socket.id(),
            user = viewer.user.get(),
            role = %viewer.role,
            transport = socket.transport().as_str(),
            recovered = is_recovered,
            "connected"
        );
        Ok(Accepted {
            session,
            answer: Some(success(&TokenExpiry { expires_at })?),
            recovery_id,
        })
    }

    /// Opens the conversations that a socket had open, and finds what its client missed. `None`: that can't be told, and
    /// it has none of them open.
    async fn recover(
        &self,
        session: &Session,
        shown: &Shown,
        found: Found,
    ) -> Result<Option<Recovered>, Failure> {
        let participant = session.participant();
        let viewer = session.viewer();
        let conversations = found.state.conversations.clone();
        let joined = conversations.iter().map(|id| {
            session.note_joined(*id);
            self.relay
                .join(Room::Conversation(*id), participant.key, participant)
        });
        for joined in join_all(joined).await {
            joined?;
        }
        let mut rooms = vec![Room::User(viewer.user), Room::Role(viewer.role)];
        rooms.extend(conversations.iter().copied().map(Room::Conversation));
        let recovered = self.recovery.recover(shown, found, &rooms).await?;
        // Its id is taken last, so that one that begins anew gets an id of its own.
        let recovered =
            recovered.filter(|one| participant.socket().resume(&one.found.state.socket));
        if recovered.is_none() {
            for conversation in conversations {
                session.leave(conversation);
            }
        }
        Ok(recovered)
    }

    /// This connection holds the state from now on.
    async fn resume(
        &self,
        session: &Session,
        shown: Shown,
        recovered: Recovered,
    ) -> Result<Option<Box<str>>, Failure> {
        let Some(pid) = shown.pid else {
            return Ok(None);
        };
        let pid: Box<str> = pid.into();
        let Recovered { found, from, .. } = recovered;
        if !session.resume_state(pid.clone(), found, from).await? {
            // Its client has tried twice. Whichever of the two this is: the next try finds what the other has noted.
            return Err(Failure::new(
                ErrorCode::ServiceUnavailable,
                "another connection has picked this state up: come back",
            ));
        }
        Ok(Some(pid))
    }

    /// Gives a socket's client a state of its own to pick up again. Where that can't be noted, it does without.
    async fn begin(&self, session: &Session) -> Option<Box<str>> {
        if session.participant().socket().protocol() == Protocol::Plain {
            return None;
        }
        // Asked when its rooms are heard: whatever comes later it hears live.
        let here = self.relay.here().await.ok()??;
        let id = recovery::state_name();
        session
            .begin_state(id.clone(), Mark::after(here))
            .await
            .ok()?;
        Some(id)
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
            come_back: matches!(
                failure.code,
                ErrorCode::ServiceUnavailable | ErrorCode::InternalError
            ),
        }
    }
}

/// What a Socket.IO client shows of a state that it had.
fn shown(socket: &Socket, request: &ConnectRequest) -> Shown {
    if socket.protocol() == Protocol::Plain {
        return Shown::default();
    }
    let auth = request.auth.as_ref();
    auth.and_then(|auth| serde_json::from_str(auth.get()).ok())
        .unwrap_or_default()
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
