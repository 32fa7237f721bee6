//! One socket of one person: what the node keeps for it, what reaches it, and what it lets go of at its end.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use metrics::gauge;
use parking_lot::Mutex;
use shared::{ConversationId, Room};

use super::Shared;
use super::recovery::{Recovered, Recovery};
use crate::auth::Identity;
use crate::bus::{BusError, Mark, Place};
use crate::cluster::{ConnectionState, Found, Holder};
use crate::hub::{Member, MemberKey, Outgoing, Share, Source};
use crate::realtime::{CloseKind, DisconnectReason, Socket, Transport, Unsent};
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
    /// Of one whose client came back to recover its state: what may reach it. Guarded so that what was missed comes before
    /// what is new.
    comeback: Option<Mutex<Comeback>>,
    /// What its client may pick up again, and from where; not set where it may not.
    state: OnceLock<(Holder, Mark)>,
    /// Set where the client has heard something without a place that it could show when it comes back: it must begin anew then.
    unplaced: AtomicBool,
    recovery: Arc<Recovery>,
}

/// How far a recovery is.
enum Comeback {
    /// What comes meanwhile waits.
    Waiting(Vec<Arc<Outgoing>>),
    /// Everything up to a place is among what it was sent at a moment.
    Recovered(Place, Instant),
    /// It was none.
    Fresh,
}

/// The most events that wait for a recovery: it takes some milliseconds, unless Redis is away.
const MOST_WAITING: usize = 4_096;

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

    /// The socket.
    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Ends the wait of one that came back: it is sent what it missed, then what came meanwhile. `None`: it begins anew, and
    /// what came meanwhile came before it was let in, some of it for conversations that it has not open.
    pub(super) fn settle(&self, recovered: Option<&Recovered>) {
        let Some(comeback) = &self.comeback else {
            return;
        };
        let mut comeback = comeback.lock();
        let next = match recovered {
            Some(recovered) => Comeback::Recovered(recovered.missed.reached, Instant::now()),
            None => Comeback::Fresh,
        };
        let Comeback::Waiting(waiting) = std::mem::replace(&mut *comeback, next) else {
            return;
        };
        let Some(recovered) = recovered else {
            return;
        };
        let mut unsent = Unsent::default();
        for missed in &recovered.missed.events {
            self.emit(missed, &mut unsent);
        }
        for outgoing in waiting {
            self.take(&outgoing, &comeback, &mut unsent);
        }
        unsent.send();
    }

    /// Takes an event, unless its client has it.
    fn take(&self, outgoing: &Outgoing, comeback: &Comeback, unsent: &mut Unsent) -> Share {
        let is_new = |place: Place| match comeback {
            Comeback::Recovered(reached, _) => {
                place.epoch != reached.epoch || place.offset > reached.offset
            }
            _ => true,
        };
        let came_back_after = |moment: Instant| match comeback {
            Comeback::Recovered(_, when) => *when > moment,
            _ => false,
        };
        match outgoing.source() {
            Source::Passing => self.emit(outgoing, unsent),
            Source::Order(mark) if is_new(mark.place) => self.emit(outgoing, unsent),
            Source::Again(mark, told) if came_back_after(told) && is_new(mark.place) => {
                self.emit(outgoing, unsent)
            }
            Source::Order(_) | Source::Again(..) => Share::Nothing,
            Source::Log(began) => {
                self.forget_state();
                if came_back_after(began) {
                    // Perhaps it heard this on another node. It finds out by `sync`, once it is back.
                    self.socket.close(CloseKind::Resync);
                    Share::Nothing
                } else {
                    self.emit(outgoing, unsent)
                }
            }
        }
    }

    /// Its client must begin anew when it comes back.
    fn forget_state(&self) {
        if !self.unplaced.swap(true, Ordering::SeqCst)
            && let Some((holder, _)) = self.state.get()
        {
            self.recovery.forget(holder.clone());
        }
    }

    fn emit(&self, outgoing: &Outgoing, unsent: &mut Unsent) -> Share {
        let share = outgoing.share_of(self.viewer.user, self.socket.id());
        if let Some(event) = outgoing.event(share) {
            self.socket.emit_unsent(event, unsent);
        }
        share
    }
}

impl Member for Participant {
    fn deliver(&self, outgoing: &Arc<Outgoing>, unsent: &mut Unsent) -> Share {
        let Some(comeback) = &self.comeback else {
            return self.take(outgoing, &Comeback::Fresh, unsent);
        };
        let mut comeback = comeback.lock();
        match &mut *comeback {
            Comeback::Waiting(waiting) if waiting.len() < MOST_WAITING => {
                // Counted as sent: what becomes of it is known only when the wait ends.
                waiting.push(Arc::clone(outgoing));
                Share::Common
            }
            Comeback::Waiting(_) => {
                self.socket.close(CloseKind::TooSlow);
                Share::Nothing
            }
            settled => self.take(outgoing, settled, unsent),
        }
    }
}

/// What the realtime layer keeps for a socket. Its end, even half way through a connect, takes it out of everything.
pub struct Session {
    shared: Arc<Shared>,
    participant: Arc<Participant>,
    limiter: Option<DefaultDirectRateLimiter>,
    since: Instant,
    /// Whether the end of its connection was noted.
    has_left: AtomicBool,
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
    /// `comes_back`: what reaches it waits until `Participant::settle`.
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: Socket,
        identity: Identity,
        comes_back: bool,
    ) -> Self {
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
            comeback: comes_back.then(|| Mutex::new(Comeback::Waiting(Vec::new()))),
            state: OnceLock::new(),
            unplaced: AtomicBool::new(false),
            recovery: shared.recovery.clone(),
        });
        Self {
            shared,
            participant,
            limiter,
            since: Instant::now(),
            has_left: AtomicBool::new(false),
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

    /// Notes that its client may pick up a new state, having received everything up to a mark.
    pub(super) async fn begin_state(&self, id: Box<str>, from: Mark) -> Result<(), BusError> {
        let viewer = self.viewer();
        let state = ConnectionState {
            user: viewer.user,
            role: viewer.role,
            socket: self.participant.socket.id().clone(),
            conversations: Vec::new(),
            from,
        };
        self.keep_state(id, &state, None).await.map(drop)
    }

    /// Notes that its client may pick up again what it has picked up, having received everything up to a mark; false where
    /// another connection has picked it up meanwhile.
    pub(super) async fn resume_state(
        &self,
        id: Box<str>,
        found: Found,
        from: Mark,
    ) -> Result<bool, BusError> {
        let Found { state, connection } = found;
        let state = ConnectionState { from, ..state };
        self.keep_state(id, &state, Some(connection)).await
    }

    async fn keep_state(
        &self,
        id: Box<str>,
        state: &ConnectionState,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError> {
        let recovery = &self.shared.recovery;
        // Set once, as a socket is let in once; and before the store is told: however this ends, the end is noted after it.
        let own = || (recovery.holder(id), state.from);
        let (holder, _) = self.participant.state.get_or_init(own);
        let identity = self.participant.identity();
        let noted = recovery.open(holder, state, &identity, instead_of).await?;
        if self.participant.unplaced.load(Ordering::SeqCst) {
            recovery.forget(holder.clone());
        }
        Ok(noted)
    }

    /// Notes which conversations are open and how long the token lives now, for its client to pick up.
    pub(super) async fn note_state(&self) -> Result<(), BusError> {
        let Some((holder, _)) = self.participant.state.get() else {
            return Ok(());
        };
        let conversations: Vec<_> = self.part.lock().joined.iter().copied().collect();
        self.shared
            .recovery
            .update(holder, &conversations, &self.participant.identity())
            .await
    }

    /// Its connection has ended: whether its client may come back for its state depends on why. Counts once.
    pub(super) fn leave_state(&self, reason: DisconnectReason) {
        let Some((holder, from)) = self.participant.state.get() else {
            return;
        };
        if self.has_left.swap(true, Ordering::Relaxed) {
            return;
        }
        let left_for_good = matches!(
            reason,
            DisconnectReason::ClientDisconnect | DisconnectReason::Unauthorized
        );
        if left_for_good || self.participant.unplaced.load(Ordering::SeqCst) {
            self.shared.recovery.forget(holder.clone());
        } else {
            self.shared.recovery.ended(holder.clone(), *from);
        }
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
        // One that was never let in: its client has received nothing, and must not be taken for one that has.
        self.leave_state(DisconnectReason::TransportClose);
        self.end();
    }
}

#[cfg(test)]
mod tests;
