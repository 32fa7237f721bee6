//! Connection state recovery (<https://socket.io/docs/v4/connection-state-recovery>): what a client that comes back shows,
//! and what the node must have noted for it to be good. What it missed comes from the relay.
//!
//! A client keeps two things: its `pid`, the name of its state, and its offset, the mark of the event that it got last. A
//! client that got none for a while has an old offset, or none; so each node also notes what its clients have received for
//! certain, by the heartbeat: whoever is connected has answered a ping since. That is noted for all of a node's
//! clients at once and ahead of time, so a node that is killed leaves behind what its clients need.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::counter;
use parking_lot::Mutex;
use serde::Deserialize;
use shared::Room;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::participant::Participant;
use crate::auth::Identity;
use crate::bus::{BusError, Mark, Place};
use crate::cluster::{
    AWAY, BEAT_INTERVAL, ConnectionState, ConnectionStates, Ended, Found, Holder, Received,
};
use crate::relay::{MissedEvents, Relay};
use crate::telemetry::metrics as names;

/// How many ends of connections may wait to be noted. Beyond that, a Redis is away while a whole node's clients leave; what is
/// not noted then counts as open until its token expires, or this node ends.
const MOST_ENDS: usize = 100_000;

/// How long ends that could not be noted wait for the next try.
const RETRY: Duration = Duration::from_secs(1);

/// How often a client is pinged, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Heartbeat {
    /// From its last answer to the next ping.
    pub interval: Duration,
    /// From a ping to its answer.
    pub timeout: Duration,
}

impl Heartbeat {
    /// How long ago what a connection was sent must be for it to have been received, if the connection is open now: it has
    /// answered a ping within an interval and a timeout, one that was sent up to a timeout before. A node that is held up
    /// adds half a timeout, a program at work for the socket some seconds.
    fn certain_after(self) -> Duration {
        self.interval + self.timeout * 5 / 2 + Duration::from_secs(15)
    }
}

/// What a client shows that comes back.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shown {
    /// The name of its state. Anything but a string is none.
    #[serde(default, deserialize_with = "text")]
    pub(super) pid: Option<String>,
    /// The mark of the event it got last.
    #[serde(default, deserialize_with = "text")]
    offset: Option<String>,
}

/// A state's name has so many hexadecimal digits.
const NAME_LEN: usize = 32;

/// A name for a new state, that nobody can guess.
pub(super) fn state_name() -> Box<str> {
    format!("{:0NAME_LEN$x}", rand::random::<u128>()).into()
}

/// Whether a state may have such a name: the store need not be asked for a megabyte of nonsense.
fn is_state_name(name: &str) -> bool {
    name.len() == NAME_LEN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    })
}

/// What a client that came back goes on with.
pub(super) struct Recovered {
    /// As the store has it.
    pub(super) found: Found,
    /// Everything up to here it has.
    pub(super) from: Mark,
    /// What it missed.
    pub(super) missed: MissedEvents,
}

/// Notes what clients need to come back, and finds it again.
pub(super) struct Recovery {
    states: Arc<dyn ConnectionStates>,
    relay: Arc<Relay<Participant>>,
    started: Instant,
    certain_after: Duration,
    /// The most bytes of missed events that a socket is sent: its outbox must hold them.
    most_bytes: usize,
    /// How far this node was at some times, the latest last.
    samples: Mutex<VecDeque<Received>>,
    /// Connections whose end is to be noted.
    ended: Mutex<Vec<Ended>>,
    wake: Notify,
}

impl Recovery {
    pub(super) fn new(
        states: Arc<dyn ConnectionStates>,
        relay: Arc<Relay<Participant>>,
        heartbeat: Heartbeat,
        outbox_bytes: usize,
    ) -> Self {
        Self {
            states,
            relay,
            started: Instant::now(),
            certain_after: heartbeat.certain_after(),
            // What comes live meanwhile needs room too.
            most_bytes: outbox_bytes / 2,
            samples: Mutex::default(),
            ended: Mutex::default(),
            wake: Notify::new(),
        }
    }

    /// The state that a client may pick up, if there is one under that name that is its own.
    pub(super) async fn find(
        &self,
        shown: &Shown,
        identity: &Identity,
    ) -> Result<Option<Found>, BusError> {
        let Some(pid) = &shown.pid else {
            return Ok(None);
        };
        if !is_state_name(pid) {
            count("unknown");
            return Ok(None);
        }
        let viewer = identity.viewer();
        let found = self.states.find(pid).await?;
        let own = found
            .filter(|Found { state, .. }| state.user == viewer.user && state.role == viewer.role);
        if own.is_none() {
            count("unknown");
        }
        Ok(own)
    }

    /// What a client missed that is in all of its rooms by now. `None` where that can't be told, or is too much.
    pub(super) async fn recover(
        &self,
        shown: &Shown,
        found: Found,
        rooms: &[Room],
    ) -> Result<Option<Recovered>, BusError> {
        let offset = shown.offset.as_deref().and_then(|text| text.parse().ok());
        let known: Vec<Mark> = offset.into_iter().chain([found.state.from]).collect();
        let Some(missed) = self.relay.missed(&known, rooms).await? else {
            count("gap");
            return Ok(None);
        };
        let bytes: usize = missed.events.iter().map(|event| event.size()).sum();
        if bytes > self.most_bytes {
            count("too_much");
            return Ok(None);
        }
        let from = Mark::latest(known, missed.reached.epoch).unwrap_or(found.state.from);
        count("recovered");
        Ok(Some(Recovered {
            found,
            from,
            missed,
        }))
    }

    /// Names a connection of this node that begins to hold a state.
    pub(super) fn holder(&self, state: Box<str>) -> Holder {
        Holder {
            state,
            connection: rand::random(),
            since: self.started.elapsed(),
        }
    }

    /// Notes that a connection holds a state, for as long as its token lives; false where another has taken it meanwhile.
    pub(super) async fn open(
        &self,
        holder: &Holder,
        state: &ConnectionState,
        identity: &Identity,
        instead_of: Option<u64>,
    ) -> Result<bool, BusError> {
        let life = life(identity);
        self.states.open(holder, state, life, instead_of).await
    }

    /// Notes which conversations a socket has open, and until when its token lives.
    pub(super) async fn update(
        &self,
        holder: &Holder,
        conversations: &[shared::ConversationId],
        identity: &Identity,
    ) -> Result<(), BusError> {
        self.states
            .update(holder, conversations, life(identity))
            .await
    }

    /// A connection has ended; its client may come back, having received at least what is known by now.
    pub(super) fn ended(&self, holder: Holder, from: Mark) {
        let certain = self
            .received()
            .filter(|received| holder.since <= received.since);
        let received = match certain {
            Some(Received { place, .. }) => {
                Mark::latest([from, Mark::after(place)], place.epoch).unwrap_or(from)
            }
            None => from,
        };
        self.note(Ended {
            holder,
            received: Some(received),
        });
    }

    /// A connection's state must not be picked up any more.
    pub(super) fn forget(&self, holder: Holder) {
        self.note(Ended {
            holder,
            received: None,
        });
    }

    fn note(&self, ended: Ended) {
        let mut all = self.ended.lock();
        if all.len() < MOST_ENDS {
            all.push(ended);
            drop(all);
            self.wake.notify_one();
        }
    }

    /// What every connection has received that began early enough.
    fn received(&self) -> Option<Received> {
        let now = self.started.elapsed();
        let samples = self.samples.lock();
        let is_certain =
            |sample: &&Received| now.saturating_sub(sample.since) >= self.certain_after;
        samples.iter().rev().find(is_certain).copied()
    }

    /// Gives the node's signs of life and notes ends, until `stop`; what is left then is noted at once.
    pub(super) async fn tend(self: Arc<Self>, stop: CancellationToken) {
        let mut beat = interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => self.beat().await,
                () = self.wake.notified() => {
                    if !self.note_ended().await {
                        // A beat may wait so long.
                        let _ = timeout(RETRY, stop.cancelled()).await;
                        self.wake.notify_one();
                    }
                }
                () = stop.cancelled() => {
                    self.note_ended().await;
                    return;
                }
            }
        }
    }

    async fn beat(&self) {
        self.sample(self.relay.reached());
        if let Err(error) = self.states.beat(self.received()).await {
            // The next one comes long before it is missed.
            tracing::debug!(%error, "a sign of life could not be given");
        }
    }

    fn sample(&self, reached: Option<Place>) {
        let now = self.started.elapsed();
        let mut samples = self.samples.lock();
        // The newest that is certain is needed, and those that will be.
        while samples
            .get(1)
            .is_some_and(|next| now.saturating_sub(next.since) >= self.certain_after)
        {
            samples.pop_front();
        }
        samples.extend(reached.map(|place| Received { since: now, place }));
    }

    /// False where some are left to be noted.
    async fn note_ended(&self) -> bool {
        let ended = std::mem::take(&mut *self.ended.lock());
        match self.states.end(&ended).await {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, "ends of connections could not be noted");
                // Noting one twice does no harm.
                let mut all = self.ended.lock();
                all.extend(ended);
                all.truncate(MOST_ENDS);
                false
            }
        }
    }
}

/// How long a state is kept while its connection is open: the socket is closed when its token expires.
fn life(identity: &Identity) -> Duration {
    let left = identity.expires_at.0 - shared::Timestamp::now().0;
    left.to_std().unwrap_or_default() + AWAY
}

fn count(result: &'static str) {
    counter!(names::RECOVERIES, "result" => result).increment(1);
}

#[cfg(test)]
pub(super) mod tests;
