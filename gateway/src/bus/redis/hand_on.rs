//! From the subscription link to the relay: what was heard on one connection after the other, and between two of them
//! what neither heard, from the history. How the link is kept is `link`'s business.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::metrics::Histogram;
use redis::aio::MultiplexedConnection;
use shared::{Envelope, Timestamp};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::ear::{Backlog, Heard};
use super::frame::Frame;
use super::history::{Entry, HeardRooms, History, Stand};
use crate::bus::{Incoming, Place, metrics};

/// One connection, once all of its subscriptions were confirmed.
pub(super) struct Stage {
    /// What it hears.
    pub(super) backlog: Backlog,
    /// To read the history with. Let go of before the backlog is drained: a connection lives as long as somebody holds it.
    pub(super) connection: MultiplexedConnection,
    /// Told when this connection must be no more.
    pub(super) broken: CancellationToken,
    /// Where its Redis stood once every room was subscribed to: all that comes after is in the backlog.
    pub(super) stand: Stand,
    /// Before that was asked.
    pub(super) asked: Instant,
    /// What was heard since when, on all connections so far.
    pub(super) rooms: HeardRooms,
}

/// How far everything was handed on that this node's rooms were to hear.
///
/// It moves to a frame's place when the frame is handed on, as frames come in order on a connection; and to a place of which
/// Redis said on that connection that the order had come to it. It never moves by what another connection says.
struct Position {
    /// Where it is good.
    stand: Stand,
    /// The epoch it left last: what Redis said of that one may come late.
    left: Option<u64>,
    /// When Redis was asked for such a place last: all that was published before that has been handed on.
    sound_until: Instant,
}

/// The task that hands on.
pub(super) struct HandOn {
    relay: mpsc::Sender<Incoming>,
    history: History,
    /// How long one look into the history may take.
    patience: Duration,
    /// `None` before the first connection: nobody was promised to hear anything then.
    position: Option<Position>,
    /// From the publisher's call to this node's ear. Between machines it holds their clocks' difference.
    lag: Histogram,
}

/// What became of what was missed.
enum Replay {
    /// All of it was handed on.
    Whole,
    /// The history does not reach back to when all had been handed on.
    Gap { since: Instant },
    /// The connection is lost: the next one goes on from the position.
    Lost,
}

impl HandOn {
    pub(super) fn new(relay: mpsc::Sender<Incoming>, history: History, patience: Duration) -> Self {
        Self {
            relay,
            history,
            patience,
            position: None,
            lag: metrics::lag(),
        }
    }

    /// Hands on everything heard on the first connection, then what was missed, then what is heard on the next. So nothing
    /// that comes after a gap is heard before what was in it, or the news of it.
    pub(super) async fn run(mut self, mut stages: mpsc::Receiver<Stage>) {
        while let Some(stage) = stages.recv().await {
            self.stage(stage).await;
        }
    }

    async fn stage(&mut self, mut stage: Stage) {
        let mut replayed_to = None;
        let mut lost = false;
        match self.replay(&mut stage).await {
            Replay::Whole => replayed_to = Some(stage.stand.place),
            Replay::Gap { since } => self.send(Incoming::Interrupted { since }).await,
            Replay::Lost => {
                stage.broken.cancel();
                lost = true;
            }
        }
        if !lost {
            self.send(Incoming::Reached(stage.stand.place)).await;
        }
        let mut position = Position {
            stand: stage.stand,
            left: None,
            sound_until: stage.asked,
        };
        drop(stage.connection);
        let mut backlog = stage.backlog;
        while let Some(heard) = backlog.next().await {
            let size = heard.size();
            match heard {
                // They come after the gap: the next connection's replay brings them.
                Heard::Frame(_) | Heard::Sound(..) if lost => {}
                Heard::Frame(bytes) => {
                    if let Some(frame) = Frame::split(&bytes)
                        && !is_behind(&frame, replayed_to)
                    {
                        self.frame(&frame).await;
                        position.reached(&frame);
                    }
                }
                Heard::Notice(bytes) => {
                    if let Some(notice) = readable(serde_json::from_slice(&bytes)) {
                        self.send(Incoming::Notice(notice)).await;
                    }
                }
                Heard::Sound(place, asked) => {
                    position.sound(place, asked);
                    self.send(Incoming::Reached(position.stand.place)).await;
                }
            }
            backlog.taken(size);
        }
        if !lost {
            self.position = Some(position);
        }
    }

    /// Hands on what was published since the position and until all rooms were subscribed to.
    async fn replay(&mut self, stage: &mut Stage) -> Replay {
        let end = stage.stand.place;
        let Some(position) = &mut self.position else {
            return Replay::Whole;
        };
        let gap = Replay::Gap {
            since: position.sound_until,
        };
        let is_same = position.stand.process == stage.stand.process
            && position.stand.data == stage.stand.data
            && position.stand.place.epoch == end.epoch;
        let reached = &mut position.stand.place.offset;
        if !is_same || *reached > end.offset {
            return gap;
        }
        let mut replayed = 0;
        while *reached < end.offset {
            let page = self
                .history
                .page(&mut stage.connection, *reached, end.offset);
            let page = match timeout(self.patience, page).await {
                Ok(Ok(page)) => page,
                Ok(Err(_)) | Err(_) => return Replay::Lost,
            };
            if page.is_empty() {
                return gap;
            }
            for Entry { offset, payload } in page {
                if offset != *reached + 1 {
                    return gap;
                }
                if let Some(envelope) = readable(serde_json::from_slice::<Envelope>(&payload))
                    && is_for(&envelope, &stage.rooms, offset)
                {
                    replayed += 1;
                    metrics::replayed();
                    let place = Place { offset, ..end };
                    // Without a relay nobody hears anything, and nothing waits for it.
                    let _ = self
                        .relay
                        .send(Incoming::Envelope(Arc::new(envelope), Some(place)))
                        .await;
                }
                *reached = offset;
            }
        }
        metrics::gap_filled();
        tracing::info!(envelopes = replayed, "replayed what was missed");
        Replay::Whole
    }

    async fn frame(&self, frame: &Frame<'_>) {
        let lag = Timestamp::now().unix_millis() - frame.sent_at;
        self.lag
            .record(Duration::from_millis(u64::try_from(lag).unwrap_or(0)));
        if let Some(envelope) = readable(frame.envelope()) {
            self.send(Incoming::Envelope(Arc::new(envelope), frame.place()))
                .await;
        }
    }

    async fn send(&self, news: Incoming) {
        // Without a relay nobody hears anything, and nothing waits for it.
        let _ = self.relay.send(news).await;
    }
}

impl Position {
    fn reached(&mut self, frame: &Frame<'_>) {
        let Some(place) = frame.place() else {
            return;
        };
        let known = &mut self.stand.place;
        if known.epoch != place.epoch {
            self.left = Some(known.epoch);
        }
        *known = place;
    }

    fn sound(&mut self, place: Place, asked: Instant) {
        // A frame with a later place may have come into the backlog before this.
        let known = &mut self.stand.place;
        if known.epoch == place.epoch {
            known.offset = known.offset.max(place.offset);
        } else if self.left != Some(place.epoch) {
            self.left = Some(std::mem::replace(known, place).epoch);
        }
        self.sound_until = asked;
    }
}

fn is_behind(frame: &Frame<'_>, replayed_to: Option<Place>) -> bool {
    replayed_to
        .zip(frame.place())
        .is_some_and(|(end, at)| end.epoch == at.epoch && at.offset <= end.offset)
}

fn is_for(envelope: &Envelope, rooms: &HeardRooms, offset: u64) -> bool {
    envelope
        .deliveries
        .iter()
        .flat_map(|to| &to.rooms)
        .any(|room| rooms.was_heard(*room, offset))
}

pub(super) fn readable<T>(read: serde_json::Result<T>) -> Option<T> {
    read.inspect_err(|error| {
        // The text of the error could quote the payload.
        tracing::warn!(category = ?error.classify(), "something on the bus can't be read");
    })
    .ok()
}
