//! One socket of one person: what the node keeps for it, and what it lets go of at its end.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use metrics::gauge;
use parking_lot::Mutex;
use shared::{ConversationId, Room, UserId};

use super::Shared;
use crate::auth::Identity;
use crate::hub::{Member, MemberKey};
use crate::realtime::{CloseKind, Socket, Transport};
use crate::store::Viewer;
use crate::telemetry::metrics as names;

/// The most conversations one socket may have open: far more than a person can look at.
const MAX_JOINED: usize = 1_000;

/// Bursts are of twice the rate, as `RATE_LIMIT_EVENTS_PER_SECOND` promises.
const TWICE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// A socket as the hub knows it. Held by its rooms and by its session.
pub struct Participant {
    /// Its name in the hub.
    pub(super) key: MemberKey,
    socket: Socket,
    viewer: Viewer,
    /// The token it lives by just now: `authenticate` renews it.
    identity: Mutex<Arc<Identity>>,
    /// Whether `tokenExpiring` was sent for that token.
    warned: AtomicBool,
}

impl Participant {
    /// The token it lives by.
    pub(super) fn identity(&self) -> Arc<Identity> {
        self.identity.lock().clone()
    }

    /// From now on it lives by another token of the same person.
    pub(super) fn renew(&self, identity: Identity) {
        *self.identity.lock() = Arc::new(identity);
        self.warned.store(false, Ordering::Relaxed);
    }

    /// True the first time for each token.
    pub(super) fn warn_once(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }

    /// Ends the socket.
    pub(super) fn close(&self, kind: CloseKind) {
        self.socket.close(kind);
    }
}

impl Member for Participant {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn user(&self) -> UserId {
        self.viewer.user
    }
}

/// What the realtime layer keeps for a socket. Its end, even half way through a connect, takes it out of everything.
pub struct Session {
    shared: Arc<Shared>,
    participant: Arc<Participant>,
    limiter: Option<DefaultDirectRateLimiter>,
    since: Instant,
    /// What it takes part in just now.
    part: Mutex<Part>,
}

#[derive(Default)]
struct Part {
    /// The conversations it has open.
    joined: HashSet<ConversationId>,
    /// Those it is writing in.
    typing: HashSet<ConversationId>,
    /// How it is counted among the open sockets; `None` before it is let in and after its end.
    counted_as: Option<Transport>,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, socket: Socket, identity: Identity) -> Self {
        let viewer = identity.viewer();
        let limiter = NonZeroU32::new(shared.settings.events_per_second).map(|rate| {
            let quota = Quota::per_second(rate).allow_burst(rate.saturating_mul(TWICE));
            RateLimiter::direct(quota)
        });
        let participant = Arc::new(Participant {
            key: shared.relay.hub().key(),
            socket,
            viewer,
            identity: Mutex::new(Arc::new(identity)),
            warned: AtomicBool::new(false),
        });
        Self {
            shared,
            participant,
            limiter,
            since: Instant::now(),
            part: Mutex::default(),
        }
    }

    pub(super) fn participant(&self) -> &Arc<Participant> {
        &self.participant
    }

    pub(super) fn viewer(&self) -> Viewer {
        self.participant.viewer
    }

    /// How long ago it came.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Takes one event from the socket's allowance, or tells how long to wait.
    pub(super) fn take_event(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        limiter
            .check()
            .map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }

    /// It is let in: from now on it counts, and its owner is online.
    pub(super) async fn arrive(&self) {
        let transport = self.participant.socket.transport();
        self.part.lock().counted_as = Some(transport);
        self.count(transport, 1.0);
        self.shared.chat.arrive(self.viewer()).await;
    }

    /// It went over to another transport.
    pub(super) fn upgraded(&self) {
        let now = self.participant.socket.transport();
        let before = self
            .part
            .lock()
            .counted_as
            .as_mut()
            .map(|counted| std::mem::replace(counted, now));
        if let Some(before) = before {
            self.count(before, -1.0);
            self.count(now, 1.0);
        }
    }

    /// Notes an open conversation; false where it has too many.
    pub(super) fn note_joined(&self, conversation: ConversationId) -> bool {
        let joined = &mut self.part.lock().joined;
        joined.contains(&conversation) || (joined.len() < MAX_JOINED && joined.insert(conversation))
    }

    pub(super) fn has_joined(&self, conversation: ConversationId) -> bool {
        self.part.lock().joined.contains(&conversation)
    }

    /// Closes a conversation, where it is open.
    pub(super) fn leave(&self, conversation: ConversationId) {
        self.shared
            .relay
            .leave(Room::Conversation(conversation), self.participant.key);
        self.part.lock().joined.remove(&conversation);
    }

    /// Notes whether it is writing; true where it was.
    pub(super) fn note_typing(&self, conversation: ConversationId, is_typing: bool) -> bool {
        let typing = &mut self.part.lock().typing;
        if is_typing {
            // Beyond any honest number, the sign ends by itself and not with the socket.
            typing.contains(&conversation)
                || (typing.len() < MAX_JOINED && !typing.insert(conversation))
        } else {
            typing.remove(&conversation)
        }
    }

    /// Lets go of everything, once: rooms, presence, signs of writing.
    pub(super) fn end(&self) {
        let part = std::mem::take(&mut *self.part.lock());
        let viewer = self.viewer();
        let key = self.participant.key;
        let relay = &self.shared.relay;
        for room in part.joined.iter().map(|id| Room::Conversation(*id)) {
            relay.leave(room, key);
        }
        relay.leave(Room::User(viewer.user), key);
        relay.leave(Room::Role(viewer.role), key);
        self.shared.expiry.forget(&self.participant);
        if let Some(transport) = part.counted_as {
            self.count(transport, -1.0);
            self.shared.chat.depart(viewer);
        }
        for conversation in part.typing {
            let chat = self.shared.chat.clone();
            tokio::spawn(async move {
                // Where the bus is away, the sign ends by itself.
                let _ = chat.typing(viewer, conversation, false, true).await;
            });
        }
    }

    fn count(&self, transport: Transport, change: f64) {
        let role = self.viewer().role.as_str();
        gauge!(names::CONNECTIONS, "transport" => transport.as_str(), "role" => role)
            .increment(change);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}
