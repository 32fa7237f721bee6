//! The bus of a node that is alone: the contract of `Bus` within one process, nothing serialised. Where a conversation
//! stands is `heads`' business.

mod heads;
mod history;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use shared::envelope::Notice;
use shared::{ConversationId, Envelope, Room};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Bus, BusError, Incoming, Kept, Place, Publication, PublishOutcome, metrics};
use heads::{Heads, Turn};
use history::History;

/// How much a `LocalBus` holds, and how long it waits.
#[derive(Debug, Clone)]
pub struct LocalBusSettings {
    /// What may wait for the relay. An entry is a pointer to an envelope that its publisher holds as well, so a few
    /// thousand are cheap, and a burst of a group commit fits.
    pub queue: usize,
    /// How many conversations' heads are remembered. The longest idle are forgotten first.
    pub heads: usize,
    /// How far ahead of its conversation's head an envelope may come and still be kept.
    pub window: i64,
    /// How many envelopes are kept for sockets that come back, and about how many bytes of payload, whichever is reached
    /// first.
    pub history: usize,
    /// See `history`.
    pub history_bytes: usize,
    /// How long a publisher waits for a relay that does not keep up before the call fails.
    pub patience: Duration,
}

impl Default for LocalBusSettings {
    fn default() -> Self {
        Self {
            queue: 8192,
            heads: 100_000,
            window: 256,
            // See `RedisBusSettings::history`.
            history: 120_000,
            history_bytes: 64 * 1024 * 1024,
            patience: Duration::from_secs(2),
        }
    }
}

/// A bus within one process.
///
/// A full queue holds the publishers back, and fails them once their patience ends: what is in an outbox goes out later,
/// so nothing is ever cut and `Incoming::Interrupted` never comes.
#[derive(Debug)]
pub struct LocalBus {
    /// Guards the order of what is handed on: whoever decides that an envelope's turn has come sends it before letting go.
    state: Mutex<State>,
    /// The relay's end, until it is taken.
    incoming: Mutex<Option<mpsc::Receiver<Incoming>>>,
    patience: Duration,
}

#[derive(Debug)]
struct State {
    /// The way to the relay; `None` once closed.
    queue: Option<mpsc::Sender<Incoming>>,
    /// What this node wants to hear.
    rooms: HashSet<Room>,
    heads: Heads,
    history: History,
}

/// Room in the relay's queue, for one.
type Permit = mpsc::OwnedPermit<Incoming>;

/// The relay's queue is full.
struct Full;

impl Default for LocalBus {
    fn default() -> Self {
        Self::new(&LocalBusSettings::default())
    }
}

impl LocalBus {
    /// A bus that nobody has published on.
    pub fn new(settings: &LocalBusSettings) -> Self {
        // One more, for what is said at once: a client may come back before anything was published.
        let (queue, incoming) = mpsc::channel(settings.queue.max(1) + 1);
        let history = History::new(settings.history, settings.history_bytes);
        let _ = queue.try_send(Incoming::Reached(history.here()));
        Self {
            state: Mutex::new(State {
                queue: Some(queue),
                rooms: HashSet::new(),
                heads: Heads::new(settings.heads, settings.window),
                history,
            }),
            incoming: Mutex::new(Some(incoming)),
            patience: settings.patience,
        }
    }

    async fn publish_one(&self, publication: &Publication) -> Result<PublishOutcome, BusError> {
        let envelope = &publication.envelope;
        if let (Some(at), Some(begins_at)) = (envelope.position, publication.begins_at) {
            self.state.lock().heads.vouch(at.conversation, begins_at);
            self.release(at.conversation).await;
        }
        let mut permit = None;
        let outcome = loop {
            match self.try_publish(envelope, &mut permit)? {
                Ok(outcome) => break outcome,
                // Once more around after the wait: somebody may have published the same meanwhile.
                Err(Full) => permit = Some(self.wait_for_room().await?),
            }
        };
        if let (PublishOutcome::Published, Some(at)) = (outcome, envelope.position) {
            self.release(at.conversation).await;
        }
        Ok(outcome)
    }

    /// One attempt that does not wait: decides and hands on in one step.
    fn try_publish(
        &self,
        envelope: &Arc<Envelope>,
        permit: &mut Option<Permit>,
    ) -> Result<Result<PublishOutcome, Full>, BusError> {
        let mut state = self.state.lock();
        if state.queue.is_none() {
            return Err(closed());
        }
        let Some(at) = envelope.position else {
            return Ok(state
                .hand_on(envelope, None, permit)
                .map(|()| PublishOutcome::Published));
        };
        Ok(match state.heads.turn(at) {
            Turn::Past => Ok(PublishOutcome::Repeat),
            Turn::Unknown => Ok(PublishOutcome::UnknownHead),
            Turn::Early => {
                state.heads.park(at, envelope);
                Ok(PublishOutcome::Parked)
            }
            Turn::Now => state.keep(envelope, permit).map(|()| {
                state.heads.passed(at);
                PublishOutcome::Published
            }),
        })
    }

    /// Hands on those that waited for what just went out. Where the relay does not take them they go on waiting: their
    /// publisher was told `Parked` and comes again.
    async fn release(&self, conversation: ConversationId) {
        let mut permit = None;
        loop {
            let step = self.try_release(conversation, &mut permit);
            match step {
                Some(Ok(())) => {}
                None => return,
                Some(Err(Full)) => match self.wait_for_room().await {
                    Ok(room) => permit = Some(room),
                    Err(_) => return,
                },
            }
        }
    }

    fn try_release(
        &self,
        conversation: ConversationId,
        permit: &mut Option<Permit>,
    ) -> Option<Result<(), Full>> {
        let mut state = self.state.lock();
        let envelope = state.heads.waiting(conversation)?;
        let at = envelope.position?;
        let handed_on = state.keep(&envelope, permit);
        if handed_on.is_ok() {
            state.heads.passed(at);
        }
        Some(handed_on)
    }

    async fn wait_for_room(&self) -> Result<Permit, BusError> {
        let queue = self.queue()?;
        match tokio::time::timeout(self.patience, queue.reserve_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(BusError("the relay does not keep up".into())),
        }
    }

    fn queue(&self) -> Result<mpsc::Sender<Incoming>, BusError> {
        self.state.lock().queue.clone().ok_or_else(closed)
    }
}

impl State {
    /// Hands on an envelope with a position, and keeps it.
    fn keep(&mut self, envelope: &Arc<Envelope>, permit: &mut Option<Permit>) -> Result<(), Full> {
        self.hand_on(envelope, Some(self.history.next()), permit)?;
        self.history.add(envelope);
        Ok(())
    }

    /// Hands an envelope on if it is for a room this node wants. Takes the permit only where it needs one.
    fn hand_on(
        &mut self,
        envelope: &Arc<Envelope>,
        place: Option<Place>,
        permit: &mut Option<Permit>,
    ) -> Result<(), Full> {
        let rooms = envelope.deliveries.iter().flat_map(|to| &to.rooms);
        if !{ rooms }.any(|room| self.rooms.contains(room)) {
            if let (Some(place), Some(queue)) = (place, &self.queue) {
                // Where there is no room, a later one says as much.
                let _ = queue.try_send(Incoming::Reached(place));
            }
            return Ok(());
        }
        let news = Incoming::Envelope(Arc::clone(envelope), place);
        if let Some(permit) = permit.take() {
            permit.send(news);
            return Ok(());
        }
        match self.queue.as_ref().map(|queue| queue.try_send(news)) {
            Some(Err(TrySendError::Full(_))) => Err(Full),
            // Without a relay nobody hears anything, and nothing waits for it.
            Some(Ok(()) | Err(TrySendError::Closed(_))) | None => Ok(()),
        }
    }
}

#[async_trait]
impl Bus for LocalBus {
    async fn publish(&self, envelopes: &[Publication]) -> Result<Vec<PublishOutcome>, BusError> {
        let begun = Instant::now();
        let mut outcomes = Vec::with_capacity(envelopes.len());
        for publication in envelopes {
            outcomes.push(self.publish_one(publication).await?);
        }
        metrics::published(&outcomes, begun.elapsed());
        Ok(outcomes)
    }

    async fn announce(&self, notice: &Notice) -> Result<(), BusError> {
        self.wait_for_room()
            .await?
            .send(Incoming::Notice(notice.clone()));
        Ok(())
    }

    async fn subscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
        let mut state = self.state.lock();
        if state.queue.is_none() {
            return Err(closed());
        }
        state.rooms.extend(rooms);
        Ok(())
    }

    async fn unsubscribe(&self, rooms: &[Room]) -> Result<(), BusError> {
        let mut state = self.state.lock();
        for room in rooms {
            state.rooms.remove(room);
        }
        Ok(())
    }

    fn incoming(&self) -> Option<mpsc::Receiver<Incoming>> {
        self.incoming.lock().take()
    }

    async fn here(&self) -> Result<Option<Place>, BusError> {
        Ok(Some(self.state.lock().history.here()))
    }

    async fn kept_after(&self, place: Place, limit: usize) -> Result<Option<Vec<Kept>>, BusError> {
        Ok(self.state.lock().history.after(place, limit))
    }

    async fn check(&self) -> Result<(), BusError> {
        self.queue().map(drop)
    }

    async fn close(&self) {
        // The relay reads what is still in the queue, then finds its end.
        self.state.lock().queue = None;
    }
}

fn closed() -> BusError {
    BusError("it was closed".into())
}
